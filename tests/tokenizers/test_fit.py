"""Quality measures, and how the tokenizers of a run are fitted, resumed and kept."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_tokenizers import IMAGE, MEDIA, MEL, RATE, pictures

from nano4m.config.run import Config
from nano4m.config.tokenizers import Bpe
from nano4m.errors import UserError
from nano4m.media.picture import psnr, ssim
from nano4m.storage.json_files import read_json
from nano4m.tokenizers import load_tokenizer
from nano4m.tokenizers.fit import fit_tokenizers
from nano4m.tokenizers.quality import Examined, code_use
from nano4m.tokenizers.verdict import Verdict

# -- quality and the fit of a run --------------------------------------------------------------


def test_quality_measures():
    x = pictures(4, 3)
    assert float(ssim(x, x).min()) == pytest.approx(1, abs=1e-5)
    assert float(ssim(x, pictures(4, 3, seed=1)).mean()) < 0.6
    assert float(psnr(x, (x + 0.1))[0]) == pytest.approx(20, abs=1e-3)
    assert code_use(torch.tensor([0, 1, 1, 0]), 8) == pytest.approx(
        {"codes_used_share": 0.25, "perplexity": 2.0}
    )


class Clips:
    """The part of a clips table that fitting asks for."""

    def require(self, kind):
        assert kind in MEDIA, "media of this kind were not made up"

    def __init__(self) -> None:
        self.sample_rate, self.num_frames, self.fingerprint = RATE, 2, "abc"
        self.captions = [(text,) for text in MEDIA["caption"](80)]
        self.clip_ids = np.array([f"clip{i}" for i in range(80)])
        self.asked: list[int] = []

    def present(self, kind: str) -> np.ndarray:
        return np.ones(80, dtype=bool)

    def rows(self, split: str) -> np.ndarray:
        return np.arange(64) if split == "train" else np.arange(64, 80)

    def media(self, kind, rows, frame=None):
        self.asked += list(rows)
        if kind == "caption":
            return [self.captions[i][0] for i in rows]
        return MEDIA[kind](80, seed=frame or 0)[torch.as_tensor(rows)]


def config(**changes) -> Config:
    image = IMAGE.model_copy(update={"steps": 6})
    sections = {"rgb": image, "depth": image, "normals": image,
                "sound": MEL.model_copy(update={"steps": 6}), "caption": Bpe()}  # fmt: skip
    accepts = "accept"  # they are fitted for six steps
    return Config(
        clips={"picture_size": 16, "workers": 0},
        tokenizers=sections | changes,
        broken_tokenizers=accepts,
    )


def test_fit_writes_resumes_and_fits_again_where_settings_changed(tmp_path, monkeypatch):
    clips = Clips()
    first = fit_tokenizers(config(), clips, tmp_path)
    assert read_json(tmp_path / "quality.json") == first
    for name, quality in first.items():
        assert load_tokenizer(tmp_path / name).fingerprint == quality["fingerprint"]
        assert 0 < quality["codes_used_share"] <= 1 and quality["perplexity"] >= 1
    assert first["caption"]["exact_share"] == 1 and first["rgb"]["bits_a_clip"] == 16 * 6
    assert {"psnr_db", "ssim"} <= set(first["rgb"]) and "angle_error_degrees" in first["normals"]
    assert {"logmel_error_db", "rms_error_db"} <= set(first["sound"])
    assert first["sound"]["griffin_lim_logmel_error_db"] > 0
    assert {quality["verdict"] for quality in first.values()} <= {"fine", "broken"}
    before = len(clips.asked)
    assert fit_tokenizers(config(), clips, tmp_path) == first and len(clips.asked) == before
    other = fit_tokenizers(config(caption=Bpe(vocab=40)), clips, tmp_path)
    assert other["rgb"] == first["rgb"]
    assert other["caption"]["fingerprint"] != first["caption"]["fingerprint"]


def test_fit_looks_at_train_clips_only(tmp_path, monkeypatch):
    """With the measuring on validation clips taken out, no other row is ever asked for."""
    nothing = Examined({}, Verdict(None, "", None))
    monkeypatch.setattr("nano4m.tokenizers.fit.examine", lambda *_: nothing)
    monkeypatch.setattr("nano4m.tokenizers.fit.MOST_VAL", 0)
    clips = Clips()
    fit_tokenizers(config(), clips, tmp_path)
    assert set(clips.asked) == set(range(64))


def test_fit_needs_both_splits(tmp_path):
    empty = SimpleNamespace(rows=lambda split: np.arange(0), fingerprint="", sample_rate=RATE)
    with pytest.raises(UserError, match="no train clips"):
        fit_tokenizers(config(), empty, tmp_path)
