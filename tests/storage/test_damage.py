"""Damage of any kind is one error: the file, what is wrong with it, and what to run."""

import json
import shlex

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nano4m.errors import UserError
from nano4m.storage.arrays import (
    map_arrow,
    not_finite,
    read_arrays,
    read_parquet_schema,
    read_tensors,
    read_weights,
    write_arrays,
    write_tensors,
)
from nano4m.storage.damage import DamagedFile, mending, reading
from nano4m.storage.inventory import check_inventory, take_inventory
from nano4m.storage.json_files import read_object, write_json

TABLE = pa.table({"a": list(range(1000))})


def _arrow(path):
    with pa.ipc.new_file(path, TABLE.schema) as writer:
        writer.write_table(TABLE)


KINDS = {
    "json": (lambda path: write_json(path, {"a": list(range(100))}), read_object),
    "tensors": (lambda path: write_tensors(path, {"a": torch.zeros(99)}), read_tensors),
    "weights": (lambda path: write_tensors(path, {"a": torch.zeros(99)}), read_weights),
    "arrays": (lambda path: write_arrays(path, {"a": np.arange(99)}), read_arrays),
    "arrow": (_arrow, map_arrow),
    "parquet": (lambda path: pq.write_table(TABLE, path), read_parquet_schema),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_read_and_any_damage_is_named(tmp_path, kind):
    write, read = KINDS[kind]
    path = tmp_path / "file"
    write(path)
    whole = path.read_bytes()
    read(path)
    others = [tmp_path / name for name in KINDS]
    for other, (make, _) in zip(others, KINDS.values(), strict=True):
        make(other)
    foreign = [p.read_bytes() for p in others if p.name != kind]
    foreign = [b for b in foreign if b[:8] != whole[:8]]
    rng = np.random.default_rng(0)
    cut = [whole[: int(k)] for k in rng.integers(1, len(whole) - 8, 10)]
    for content in [b"", b"\0" * 100, b"\xff\xfe", b"[]", *cut, *foreign]:
        if kind in ("tensors", "weights") and content == b"[]":
            continue
        path.write_bytes(content)
        with pytest.raises(DamagedFile, match="is damaged .+; make it again"):
            read(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read(path)


def test_an_archive_without_arrays_is_whole(tmp_path):
    write_arrays(tmp_path / "a.npz", {})
    assert read_arrays(tmp_path / "a.npz") == {}


def test_a_python_object_is_never_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(DamagedFile, match="pickle"):
        read_arrays(tmp_path / "a.npz")


def test_numbers_that_are_not_finite_are_named_by_tensor(tmp_path):
    good = {"a": torch.full((9,), 3e38), "ids": torch.arange(3), "b": torch.ones(2).bfloat16()}
    assert not_finite(good) == ""
    bad = good | {"b": torch.tensor([1.0, torch.inf, -torch.inf]), "c": torch.tensor(torch.nan)}
    write_tensors(tmp_path / "w", bad)
    with pytest.raises(DamagedFile, match=r"weights are not finite: b \(2 of 3\), c \(1 of 1\)"):
        read_weights(tmp_path / "w")


def test_our_own_mistakes_and_the_users_keep_their_error(tmp_path):
    with pytest.raises(UserError) as found, reading(tmp_path):
        raise UserError("a newer format")
    assert not isinstance(found.value, DamagedFile)
    with pytest.raises(PermissionError), reading(tmp_path):
        raise PermissionError(13, "no")
    with pytest.raises(ZeroDivisionError), reading(tmp_path):
        raise ZeroDivisionError


# -- what to run -------------------------------------------------------------------------------


def stage(run, name, command=None):
    """Make a stage's folder, finished by ``command``."""
    (run / name).mkdir(parents=True)
    write_json(run / name / "settings.json", {})
    if command:
        manifest = {"stage": name, "command": command}
        write_json(run / name / "manifest.json", manifest)


def test_the_command_that_made_a_file_is_named_with_its_options(tmp_path):
    run = tmp_path / "my runs"
    made = shlex.join(["nano4m", "run", "farm", "--out", str(run), "--seed", "3", "--overwrite"])
    stage(run, "clips", made)
    stage(run, "table")
    damaged = DamagedFile(run / "table" / "tokens.arrow", "it is empty")
    options = f"farm --out '{run}' --seed 3"
    assert str(damaged).endswith(f"; run: nano4m table {options} --overwrite")
    deeper = run / "train" / "checkpoint" / "model.safetensors"
    stage(run, "train", made)
    assert mending(deeper) == f"run: nano4m train {options} --overwrite"
    # A stage without a readable manifest is gone through again, a configuration written again.
    assert mending(run / "train" / "manifest.json") == f"run: nano4m train {options}"
    assert mending(run / "config.json") == f"run: nano4m run {options}"


@pytest.mark.parametrize("command", ["", "python -c x", "nano4m", "nano4m clips --help", "a 'b"])
def test_without_a_command_the_configuration_has_the_preset(tmp_path, command):
    stage(tmp_path, "clips", command or None)
    write_json(tmp_path / "config.json", {"preset": "digits"})
    found = mending(tmp_path / "clips" / "clips-00000.parquet")
    assert found.startswith(f"run: nano4m clips digits --out {tmp_path} ")
    (tmp_path / "config.json").write_text("[")
    assert "nano4m clips PRESET" in mending(tmp_path / "clips" / "clips-00000.parquet")


def test_outside_of_a_run_the_reader_knows_better(tmp_path):
    assert mending(tmp_path / "a") is None
    with (
        pytest.raises(DamagedFile, match="run: nano4m table PRESET"),
        reading(tmp_path / "a", "run: nano4m table PRESET"),
    ):
        raise ValueError("x")


# -- inventories -------------------------------------------------------------------------------


def test_an_inventory_notices_what_is_missing_cut_off_or_foreign(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "big").write_bytes(b"x" * 300_000)
    for name in ("a.json", "b.json", "log"):
        write_json(tmp_path / name, {"name": name})
    inventory = json.loads(json.dumps(take_inventory(tmp_path, lambda p: p.name != "log")))
    assert set(inventory) == {"a.json", "b.json", "in/big"}
    (tmp_path / "log").write_text("longer")
    (tmp_path / "new").touch()
    check_inventory(tmp_path, inventory)
    whole = (tmp_path / "a.json").read_bytes()
    for content, said in (
        (b"", "it has 0 bytes, and had"),
        (whole[:9], "it has 9 bytes, and had"),
        ((tmp_path / "b.json").read_bytes(), "its content is not what was made"),
    ):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(DamagedFile, match=f"a.json is damaged .{said}"):
            check_inventory(tmp_path, inventory)
    (tmp_path / "a.json").write_bytes(whole)
    (tmp_path / "in" / "big").write_bytes(b"y" * 300_000)
    with pytest.raises(DamagedFile, match="big is damaged .its content is not what was made"):
        check_inventory(tmp_path, inventory)
    # As earlier versions wrote it.
    check_inventory(tmp_path, inventory | {"in/big": [300_000, None]})
    (tmp_path / "in" / "big").unlink()
    with pytest.raises(DamagedFile, match="big is damaged .it is missing"):
        check_inventory(tmp_path, inventory)


def test_a_run_that_was_moved_is_mended_where_it_lies(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    for name in ("clips", "train"):
        (here / name).mkdir(parents=True)
        (here / name / "settings.json").write_text("{}")
    for words in (f"--out {there}", f"--out={there}", ""):
        command = f"nano4m run farm --seed 1 {words} --train.steps 5"
        write_json(here / "train" / "manifest.json", {"command": command})
        found = mending(here / "train" / "model.safetensors")
        wanted = f"run: nano4m train farm --out {here} --seed 1 --train.steps 5 --overwrite"
        assert found == wanted
    command = f"nano4m run farm --seed 1 --out {here} --train.steps 5"
    write_json(here / "train" / "manifest.json", {"command": command})
    found = mending(here / "train" / "model.safetensors")
    assert found == f"run: nano4m train farm --seed 1 --out {here} --train.steps 5 --overwrite"
