"""JSON files: written whole, with a format; a newer format is refused by name."""

import json

import pytest

from nano4m.errors import UserError
from nano4m.storage.json_files import FORMAT, read_json, without_format, write_json


def test_an_object_has_a_format_that_readers_do_not_see(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "c": [2, {"d": 3}]})
    assert json.loads((tmp_path / "a.json").read_text())["format"] == FORMAT
    assert read_json(tmp_path / "a.json") == {"b": 1, "c": [2, {"d": 3}]}
    write_json(tmp_path / "list.json", [1, 2])
    assert read_json(tmp_path / "list.json") == [1, 2]


def test_one_of_before_has_none(tmp_path):
    (tmp_path / "old.json").write_text('{"b": 1}')
    assert read_json(tmp_path / "old.json") == {"b": 1}


def test_a_newer_format_is_refused_by_name(tmp_path):
    path = tmp_path / "new.json"
    path.write_text(json.dumps({"format": FORMAT + 1, "b": 1}))
    with pytest.raises(UserError, match=f"new.json has format {FORMAT + 1}, .* up to format"):
        read_json(path)
    assert without_format({"format": FORMAT, "b": 1}, "x") == {"b": 1}


def test_a_write_that_fails_leaves_the_file_of_before(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": 1})
    with pytest.raises(ValueError):
        write_json(path, {"b": float("nan")})
    assert read_json(path) == {"b": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
