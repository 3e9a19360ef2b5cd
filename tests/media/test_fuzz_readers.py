"""Damaged files of every format: each is read or BadMedia, and none takes long."""

import pytest

from damaged_media import fuzz, valid_files

FILES = valid_files()
COUNT = 2000
"""Of each of 15 formats; benchmarks/fuzz_readers.py takes more."""


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_or_left_out_with_a_reason(tmp_path, name):
    data, reader = FILES[name]
    path = tmp_path / f"a.{name}"
    path.write_bytes(data)
    reader(path)
    outcomes, wrong = fuzz(data, reader, COUNT, 0, path)
    assert not wrong, wrong[:3]
    assert sum(outcomes.values()) == COUNT
    assert len(outcomes) > 1, outcomes  # the damage is seen, and does not hit every file


def test_a_reader_with_a_fault_is_found(tmp_path):
    def faulty(path):
        if path.read_bytes()[:4] != FILES["png"][0][:4]:
            raise ZeroDivisionError("planted")

    outcomes, wrong = fuzz(FILES["png"][0], faulty, 200, 0, tmp_path / "a.png")
    assert outcomes["read"] and wrong and all("planted" in text for _, text in wrong)
