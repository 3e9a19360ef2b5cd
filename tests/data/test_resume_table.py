"""A token table that was stopped goes on after the ids that are stored, to the same bytes."""

import pytest
from test_missing_media import LOOSE, config, write_clips

from nano4m.config.tokenizers import Bpe, ImageVQ, MelVQ
from nano4m.data.clip_table import open_clips
from nano4m.storage.finished_units import FinishedUnits
from nano4m.tokenizers import apply, load_tokenizer
from nano4m.tokenizers.fit import fit_tokenizers

SMALL = {"vocab": 8, "width": 8, "steps": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    """Return configuration, clips of which some lack media, and fitted tokenizers."""
    folder = tmp_path_factory.mktemp("materials")
    write_clips(folder / "clips")
    clips = open_clips(folder / "clips")
    sections = {
        "rgb": ImageVQ(grid=3, **SMALL), "depth": ImageVQ(grid=3, **SMALL),
        "sound": MelVQ(griffin_lim=1, augmentations=3, **SMALL), "caption": Bpe(),
    }  # fmt: skip
    settings = config(**LOOSE).model_copy(
        update={"tokenizers": sections, "broken_tokenizers": "accept"}
    )
    fit_tokenizers(settings, clips, folder / "tokenizers")
    made = {name: load_tokenizer(folder / "tokenizers" / name) for name in sections}
    return settings, clips, made


def built(materials, folder):
    folder.mkdir(exist_ok=True)
    about = apply.build_table(*materials, folder)
    assert not (folder / "encoded").exists()
    return about, {p.name: p.read_bytes() for p in folder.iterdir()}


def encoded_clips(monkeypatch):
    """Return a list to which the number of clips of each encoding is added."""
    counts, encoders = [], dict(apply.ENCODERS)

    def counted(layout):
        def encode(tokenizer, views):
            counts.append(len(views))
            return encoders[layout](tokenizer, views)

        return encode

    monkeypatch.setattr(apply, "ENCODERS", {layout: counted(layout) for layout in encoders})
    return counts


@pytest.mark.parametrize("together", [1, 3])
def test_any_stop_changes_no_byte_and_no_stored_clip_is_encoded_again(
    tmp_path, monkeypatch, capsys, materials, together
):
    monkeypatch.setattr(apply, "CHUNK", 4)
    counts = encoded_clips(monkeypatch)
    whole = built(materials, tmp_path / "whole")
    total = sum(counts)
    assert total == sum(whole[0]["present"].values()) == 72
    if together > 1:  # as on a GPU: what is stored are groups of chunks
        join = apply._join
        monkeypatch.setattr(apply, "MOST_CHUNKS", together)
        monkeypatch.setattr(
            apply, "_join", lambda chunks, device: join(chunks, type(device)("meta"))
        )
    monkeypatch.setattr(apply, "KEPT_SECONDS", 0.0)
    counts.clear()
    write = FinishedUnits.write
    for stop in (1, 2, 3):
        calls = []

        def stopped(self, *args, calls=calls, stop=stop):
            write(self, *args)
            calls.append(args[0])
            if len(calls) == stop:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(FinishedUnits, "write", stopped)
            built(materials, tmp_path / "stopped")
        assert not list((tmp_path / "stopped").glob("*.arrow"))
    assert built(materials, tmp_path / "stopped") == whole
    assert sum(counts) == total
    assert "table: goes on after" in capsys.readouterr().err


def test_stored_ids_of_other_tokenizers_or_damaged_ones_are_not_used(
    tmp_path, monkeypatch, capsys, materials
):
    whole = built(materials, tmp_path / "whole")
    monkeypatch.setattr(apply, "CHUNK", 4)
    monkeypatch.setattr(apply, "KEPT_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FinishedUnits, "remove", _interrupt)
        built(materials, tmp_path / "stopped")
    kept = sorted((tmp_path / "stopped" / "encoded").glob("*.npz"))
    content = kept[0].read_bytes()
    kept[0].write_bytes(content[: len(content) // 2])
    settings, clips, made = materials
    other = settings.model_copy(update={"seed": 7}), clips, made
    assert built(materials, tmp_path / "stopped")[0] == whole[0]
    assert "cannot be used (its content is not what was made)" in capsys.readouterr().err
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FinishedUnits, "remove", _interrupt)
        built(materials, tmp_path / "stopped")
    counts = encoded_clips(monkeypatch)
    built(other, tmp_path / "stopped")
    assert sum(counts) == 72
    assert "other settings, inputs or versions" in capsys.readouterr().err


def _interrupt(*_):
    raise KeyboardInterrupt


def test_a_short_tokenising_stores_nothing(tmp_path, monkeypatch, materials):
    monkeypatch.setattr(FinishedUnits, "write", _interrupt)
    built(materials, tmp_path / "whole")
