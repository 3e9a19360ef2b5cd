"""The lock of a folder: one owner, named to others; a dead process holds nothing."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from nano4m.errors import UserError
from nano4m.pipeline.info import describe_run
from nano4m.storage import lock
from nano4m.storage.lock import LOCK, owned, owner_of

HOLD = """
import sys, time
from pathlib import Path
from nano4m.storage.lock import owned
with owned(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path / "run"."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_owner_is_refused_by_name_and_readers_are_not(tmp_path, holder):
    said = f"process {holder.pid} on .* since .* .nano4m .*run.*kill {holder.pid}"
    with pytest.raises(UserError, match=said), owned(tmp_path / "run"):
        pass
    assert str(holder.pid) in owner_of(tmp_path / "run")
    assert holder.poll() is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_dead_process_holds_nothing(tmp_path, holder, number):
    holder.send_signal(number)
    holder.wait()
    assert owner_of(tmp_path / "run") is None
    started = time.perf_counter()
    with owned(tmp_path / "run"):
        assert str(os.getpid()) in owner_of(tmp_path / "run")
    assert time.perf_counter() - started < lock.WATCH_SECONDS / 2


def test_it_leaves_nothing_and_can_be_held_twice(tmp_path):
    with owned(tmp_path / "run"), owned(tmp_path / "run" / ".." / "run"):
        assert os.listdir(tmp_path / "run") == [LOCK]
    assert not (tmp_path / "run").exists(), "it was made for the lock alone"
    (tmp_path / "mine").mkdir()
    with owned(tmp_path / "mine"):
        (tmp_path / "mine" / "a").touch()
    assert os.listdir(tmp_path / "mine") == ["a"]


def test_it_is_free_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), owned(tmp_path):
            raise ZeroDivisionError


def test_many_that_want_it_at_once_get_it_one_at_a_time(tmp_path):
    program = """
import sys, time
from pathlib import Path
from nano4m.errors import UserError
from nano4m.storage.lock import owned
folder, got = Path(sys.argv[1]), 0
end = time.monotonic() + 2.5
while time.monotonic() < end:
    try:
        with owned(folder):
            mark = folder / "inside"
            mark.touch(exist_ok=False)  # two owners at once fail here
            mark.unlink()
            got += 1
    except UserError:
        pass
print(got)
"""
    tmp_path.joinpath("keep").touch()
    command = [sys.executable, "-c", program, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]
    for process in processes:
        out, err = process.communicate()
        assert process.returncode == 0 and int(out) > 0, err
    assert os.listdir(tmp_path) == ["keep"]


# -- disks that keep locks to themselves ---------------------------------------------------------


def of_another_machine(folder, **changed):
    """Leave a lock file as a process of another machine would."""
    owner = {"process": 1, "started": "1", "machine": "elsewhere", "command": "x", "since": "y"}
    (folder / LOCK).write_text(json.dumps(owner | changed))


def test_a_living_owner_on_another_machine_is_seen_by_its_touch(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.5)
    of_another_machine(tmp_path)
    real = os.fstat
    touched = []

    def fstat(handle):  # the owner touches the file while it is watched
        touched.append(handle)
        os.utime(handle, ns=(1, len(touched)))
        return real(handle)

    monkeypatch.setattr(lock.os, "fstat", fstat)
    said = f"process 1 on elsewhere.*delete .*{LOCK}"
    with pytest.raises(UserError, match=said), owned(tmp_path):
        pass


def test_a_dead_owner_on_another_machine_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.3)
    of_another_machine(tmp_path)
    with owned(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_the_owner_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    with owned(tmp_path):
        os.utime(tmp_path / LOCK, ns=(1, 1))
        end = time.monotonic() + 5
        while (tmp_path / LOCK).stat().st_mtime_ns == 1 and time.monotonic() < end:
            time.sleep(0.02)
        assert (tmp_path / LOCK).stat().st_mtime_ns != 1


def test_without_locks_of_the_disk_process_and_start_time_decide(tmp_path, monkeypatch):
    def flock(handle, operation):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    here, mine = lock._machine(), lock._started(os.getpid())
    of_another_machine(tmp_path, machine=here, process=os.getpid(), started=mine)
    with pytest.raises(UserError, match=f"process {os.getpid()}"), owned(tmp_path):
        pass
    # A later process of the same number is not the owner.
    of_another_machine(tmp_path, machine=here, process=os.getpid(), started="1")
    with owned(tmp_path):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"process": "x"}', b"\xff" * 5000])
def test_a_lock_file_of_anything_stops_nobody(tmp_path, monkeypatch, content):
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.1)
    (tmp_path / LOCK).write_bytes(content)
    with owned(tmp_path):
        assert owner_of(tmp_path)


def test_a_folder_that_may_not_be_written_is_not_locked(tmp_path, monkeypatch):
    def refuse(path, flags, *mode):
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(lock.os, "open", refuse)
    with owned(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_info_says_who_writes(tmp_path, holder):
    found = describe_run(tmp_path / "run")
    assert f"process {holder.pid} on" in found["being_written_by"]
    holder.kill()
    holder.wait()
    assert "being_written_by" not in describe_run(tmp_path / "run")
