"""Surroundings as users have them: closed streams, odd variables, a full disk, a folder that goes.

Commands are real processes; what a test cannot bring about (no memory, a foreign owner) is planted.
"""

import errno
import os
import re
import subprocess
import sys
import textwrap
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from conftest import tiny_table
from nano4m.cli import main
from nano4m.compute.launch import check_launch, rank_of_process, size_of_world
from nano4m.data.clip_shards import shard_paths
from nano4m.errors import UserError
from nano4m.failures import in_words, is_of_machine, staying
from nano4m.stage import writable
from nano4m.tokens.table import open_table, write_table
from refusals import refused

PYTHON = sys.executable


def shell(line: str, where: Path, **variables: str) -> tuple[int, str, str]:
    """Return exit code, output and messages of a line of bash; NANO4M is the program."""
    line = f"set -o pipefail; {line.replace('NANO4M', f'{PYTHON} -m nano4m')}"
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        cwd=where,
        env=os.environ | variables,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


# -- standard streams --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("NANO4M run farm --help 2>&-", 0, ""),
        ("NANO4M run farm --helpless 2>&-", 2, ""),
        ("NANO4M rum 2>/dev/full", 2, ""),
        ("NANO4M run farm --help >/dev/full", 2, "standard output: No space left on device"),
        ("NANO4M --version >/dev/full", 2, "standard output: No space left on device"),
        ("NANO4M run farm --help >&-", 2, "standard output: it is closed"),
        ("NANO4M rum <&- >&- 2>&-", 2, ""),
        ("NANO4M --help | head -c 1", 0, ""),
    ],
)
def test_a_stream_that_is_closed_or_full_is_no_traceback(tmp_path, line, code, said):
    found, _, messages = shell(line, tmp_path)
    assert (found, "Traceback" in messages, "Exception ignored" in messages) == (code, False, False)
    assert said in messages and messages.count("\n") == bool(said)


def test_a_closed_stream_is_no_file_of_ours(tmp_path):
    """The first file that is opened must not get the number of standard error."""
    code = """
    import os
    from nano4m.standard_streams import standing_messages
    with standing_messages(), open("kept", "w") as file:
        os.write(2, b"a library prints this")
        file.write(f"{file.fileno() > 2}")
    """
    assert shell(f"{PYTHON} -c '{textwrap.dedent(code)}' 2>&- >&-", tmp_path)[0] == 0
    assert (tmp_path / "kept").read_text() == "True"


def test_letters_that_a_terminal_lacks_are_escaped(tmp_path):
    code = """
    import sys
    from nano4m import cli
    cli.COMMANDS["show"] = (lambda *_: print("vache \\u00e9", "\\udcff", file=sys.stdout), "")
    cli.main(["show"])
    """
    line = f"{PYTHON} - <<'E'\n{textwrap.dedent(code)}\nE"
    assert shell(line, tmp_path, PYTHONIOENCODING="ascii:strict")[:2] == (
        0,
        "vache \\xe9 \\udcff\n",
    )


# -- variables ---------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["1", "-5", "99999999999"])
def test_help_ends_at_any_width(tmp_path, columns):
    code, said, _ = shell("NANO4M run farm --help", tmp_path, COLUMNS=columns, LINES=columns)
    assert code == 0 and "--train.steps" in said


def test_a_hostile_environment_changes_nothing(tmp_path):
    """Docstrings stripped, warnings as errors, no home, nowhere for temporary files, few files."""
    odd = {"PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error", "TMPDIR": "/nowhere", "TERM": ""}
    odd |= {"WORLD_SIZE": "", "RANK": " ", "LOCAL_RANK": "", "LC_ALL": "C", "HOME": "/nowhere"}
    for arguments in ("run --help", "run farm --help", "generate --help", "info sizes"):
        code, said, messages = shell(f"ulimit -n 64; NANO4M {arguments}", tmp_path, **odd)
        assert (code, messages) == (0, "") and said, arguments


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE is 'abc'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE is '9"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 and WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "2"}, "RANK is not set; start several processes with: torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "1.5"}, "LOCAL_RANK is '1.5'"),
    ],
)
def test_a_variable_of_torchrun_is_named(monkeypatch, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=re.escape(said)):
        check_launch()


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")
    check_launch()
    assert (rank_of_process(), size_of_world()) == (0, 1)


# -- names -------------------------------------------------------------------------------------

LONG = "n" * 300


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["clips", "farm", "--out", LONG], "File name too long"),
        (["clips", "farm", "--out", ""], "value after --out is empty"),
        (["clips", "farm", "--out="], "value after --out is empty"),
        (["clips", "animals", "--data", " "], "value after --data is empty"),
        (["clips", "farm", "--out", "a-file"], "a-file: File exists"),
        (["clips", "farm", "--out", "a-file/below"], "Not a directory"),
        (["clips", "digits", "--data", LONG, "--out", "fresh"], "File name too long"),
        (["info", ""], "value after info is empty"),
        (["info", LONG], "File name too long"),
        (["convert", LONG, "--out", "fresh"], "File name too long"),
        (["generate", "--run", LONG, "--dir", "fresh", "--out", "rgb"], "File name too long"),
        (["generate", "--run", "", "--dir", "fresh", "--out", "rgb"], "value after --run is empty"),
    ],
)
def test_a_name_that_cannot_be_is_refused(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("a-file").write_text("kept")
    assert said in refused(capsys, *arguments)
    left = {path.name for path in tmp_path.rglob("*")} - {"fresh", ".nano4m.lock"}
    assert left == {"a-file"} and Path("a-file").read_text() == "kept"


def test_a_current_folder_that_is_gone_is_named(tmp_path):
    line = "mkdir gone; cd gone; rmdir ../gone; NANO4M clips farm --out here"
    code, _, said = shell(line, tmp_path)
    assert code == 2 and "the current folder was deleted" in said and "Traceback" not in said


# -- failures of the machine -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left.*free some"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b: Permission.*owner"),
        (OSError(errno.EMFILE, "Too many open files", "a"), "Too many open files.*ulimit -n"),
        (OSError(errno.EIO, "Input/output error", "a"), "a: Input/output error; the disk"),
        (MemoryError("Unable to allocate 9 GiB"), "no memory is left.*9 GiB.*--train.batch-size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried 9 GiB"), "no memory is left"),
        (BrokenProcessPool("terminated"), "a worker process was killed"),
    ],
)
def test_a_failure_of_the_machine_is_a_sentence(monkeypatch, capsys, error, said):
    def fails(*_):
        raise error

    monkeypatch.setitem(main.__globals__["COMMANDS"], "info", (fails, ""))
    message = refused(capsys, "info", "farm")
    assert re.search(said, message)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file", "a"), RuntimeError("bug")])
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setitem(main.__globals__["COMMANDS"], "info", (fails, ""))
    with pytest.raises(type(error)):
        main(["info", "farm"])


def test_no_memory_of_pytorch_is_known():
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_of_machine(found.value) and "no memory is left" in str(in_words(found.value))


def test_a_folder_of_another_user_is_named(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "settings.json").write_text("{}")
    (tmp_path / "theirs" / "settings.json").chmod(0)
    told = pytest.raises(UserError, match=r"settings.json: Permission denied; another user")
    with told, writable(tmp_path), as_nobody():
        (tmp_path / "theirs" / "settings.json").read_text()


class as_nobody:
    """Without the rights of root, which reads everything."""

    def __enter__(self) -> None:
        self.was = os.geteuid()
        if self.was == 0:
            os.seteuid(65534)

    def __exit__(self, *_: object) -> None:
        os.seteuid(self.was)


def test_a_folder_that_was_moved_or_deleted_is_said(tmp_path):
    out, moved = tmp_path / "run", tmp_path / "moved"
    (out / "train" / "step-000200").mkdir(parents=True)
    (out / "train" / "step-000040").mkdir(parents=True)
    with pytest.raises(UserError, match="moved while.*step-000200.*--out") as found, staying(out):
        out.rename(moved)
        (out / "train").mkdir(parents=True)  # what another part of the program may do
        (out / "train" / "x" / "y").touch()
    assert f"--out {moved}" in str(found.value)
    with pytest.raises(UserError, match="was deleted while"), staying(moved):
        subprocess.run(["rm", "-r", str(moved)], check=True)
        (moved / "x").touch()
    with pytest.raises(ZeroDivisionError), staying(out):
        1 / 0  # noqa: B018


def test_names_beside_shards_are_left_alone(tmp_path):
    theirs = ["tokens-old.arrow", "tokens.bak.parquet", "tokens-1.arrow", "tokens-00001.arrow.bak"]
    ours = ["tokens-00007.arrow", "tokens-00007.parquet"]  # of a larger table of before
    for name in (*theirs, *ours):
        (tmp_path / name).write_text("kept")
    table = tiny_table()
    write_table(table, tmp_path)
    assert len(open_table(tmp_path).clip_ids) == len(table.clip_ids)
    assert all((tmp_path / name).read_text() == "kept" for name in theirs)
    assert not any((tmp_path / name).exists() for name in ours)
    (tmp_path / "clips-backup.parquet").write_text("kept")
    assert not shard_paths(tmp_path)
