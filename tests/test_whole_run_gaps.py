"""A whole tiny run of clips that lack media, by the command line: gaps in the report, no crash."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from nano4m.cli import main
from nano4m.data.clip_table import open_clips
from nano4m.data.sources import farm
from nano4m.evaluate.results import Results
from nano4m.storage.json_files import read_json
from nano4m.tokens.table import open_table
from refusals import refused
from tiny_run import TINY

MISSING = 0.3


@pytest.fixture(scope="module")
def gaps(tmp_path_factory) -> Path:
    """A run in which each clip lacks each of sound, pictures and labels with equal probability."""
    out = tmp_path_factory.mktemp("gaps") / "run"
    load = farm.load

    def load_some(plan, settings):
        media, rng = load(plan, settings), np.random.default_rng(int(plan.details["index"]))
        gone = dict(zip(("sound", "picture", *media.planes), rng.random(5) < MISSING, strict=True))
        planes = {name: own for name, own in media.planes.items() if not gone[name]}
        mute = gone["sound"] and not gone["picture"]
        return dataclasses.replace(
            media,
            sound=None if mute else media.sound,
            frames=() if gone["picture"] else media.frames,
            planes={} if gone["picture"] else planes,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(farm, "load", load_some)
        main(["run", "farm", "--out", str(out), *TINY, "--clips.require"])
    return out


def test_a_run_of_clips_with_gaps_ends_with_figures_that_say_how_many_clips(gaps):
    clips, table = open_clips(gaps / "clips"), open_table(gaps / "table")
    for modality in table.modalities:
        present = clips.present(modality.media)
        assert (table.present(modality.name) == present).all()
        assert modality.is_text or 0 < present.sum() < len(present)
    results = Results.model_validate_json((gaps / "evaluate" / "results.json").read_text())
    is_test = table.splits == "test"
    for cell in results.matrix:
        both = table.present(cell.source) & table.present(cell.target) & is_test
        assert cell.class_consistency.n == both.sum() >= 2
    for figure in results.classifiers:
        assert figure.accuracy.n == (table.present(figure.modality) & is_test).sum()
    for figure in results.cross_entropy:
        own = table.present(figure.modality) & is_test
        assert figure.clips["nothing"] == own.sum()
        for source in figure.conditions.keys() & figure.clips.keys() & table.lengths.keys():
            assert figure.clips[source] == (own & table.present(source)).sum()
    assert (gaps / "report" / "index.html").stat().st_size > 10_000
    manifest = read_json(gaps / "clips" / "manifest.json")
    assert manifest["summary"]["by_media"]["depth"] == clips.present("depth").sum()


def test_a_clip_with_gaps_is_an_input_of_generation(gaps, tmp_path, capsys):
    table = open_table(gaps / "table")
    lacks = np.flatnonzero(~table.present("sound") & table.present("rgb"))
    clip = str(table.clip_ids[lacks[0]])
    common = ["generate", "--run", str(gaps), "--clips", clip]
    main(
        [*common, "--input-modalities", "sound,rgb", "--out", "depth", "--dir", str(tmp_path / "a")]
    )
    record = read_json(tmp_path / "a" / "generate.json")
    assert record["inputs"][0]["given"] == ["rgb"]
    said = refused(
        capsys,
        *common,
        "--input-modalities",
        "sound",
        "--out",
        "depth",
        "--dir",
        str(tmp_path / "b"),
    )
    assert f"clip {clip} has no sound, only" in said
