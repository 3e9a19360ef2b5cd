"""The benchmark of the losses of ``wave_vq`` runs at a tiny size and tells a dull sound."""

import math

import pytest
import torch
from test_benchmarks import RUNS, run
from test_benchmarks import settings as settings

RUNS["wave_losses"] = "--variants L1 --points 2"


def test_a_variant_has_its_figures_and_its_curve(monkeypatch, capsys, settings):
    report, table = run("wave_losses", monkeypatch, capsys)
    (found,) = report["variants"].values()
    assert [point["step"] for point in found["curve"]] == [2, 4]
    assert all(math.isfinite(value) for point in found["curve"] for value in point.values())
    assert found["log_spectral_db"] > 0 and 0 < found["codes_used_share"] <= 1
    assert report["bits_a_second"] == pytest.approx(24000 / 1024 * 4, rel=0.01)
    assert "L1" in table


def test_the_clips_of_a_run_are_read_and_named_in_the_report(monkeypatch, capsys, settings):
    import wave_losses

    asked = []

    class Clips:
        sample_rate = 16000

        def rows(self, split: str) -> list[int]:
            return list(range(20))

        def media(self, kind: str, rows: list[int]) -> torch.Tensor:
            asked.append(len(rows))
            return 0.1 * torch.randn(len(rows), 2048)

    monkeypatch.setattr(wave_losses, "open_clips", lambda folder: Clips())
    words = ("--clips", "run/clips", "--train", "12", "--val", "4")
    report, _ = run("wave_losses", monkeypatch, capsys, *words)
    assert asked == [12, 4] and report["options"]["clips"] == "run/clips"
    assert report["bits_a_second"] == pytest.approx(16000 / 1024 * 4, rel=0.01)


def test_distances_tell_what_was_planted():
    from wave_losses import VARIANTS, distances

    noise = 0.1 * torch.randn(4, 8192, generator=torch.Generator().manual_seed(0))
    same = distances(noise, noise, 24000)
    assert same["mel_db"] == same["l1"] == same["level_bias_db"] == 0
    quiet = distances(noise, 0.5 * noise, 24000)
    assert quiet["level_bias_db"] == pytest.approx(-6.02, abs=0.01)
    dull = torch.nn.functional.avg_pool1d(noise[:, None], 5, 1, 2)[:, 0]
    assert distances(noise, dull, 24000)["upper_bands_bias_db"] < -3
    assert len({str(weights) for weights in VARIANTS.values()}) == len(VARIANTS)
