"""Which losses of ``wave_vq`` are worth their time: L1, STFT, both, with mel, with discriminators.

Every variant is fitted on the same crops of the same train clips, with all else equal, and measured
on the same validation clips while it learns (the curve) and at its end. See docs/TOKENIZERS.md.

    python benchmarks/wave_losses.py --clips RUN/clips --steps 800 > losses.json
"""

import time
from pathlib import Path
from typing import Any

import torch
from measure import Report, arguments, now

from nano4m.compute.precision import float32_math
from nano4m.config.tokenizers import WaveVQ
from nano4m.data.clip_table import open_clips
from nano4m.media.mel import MelSpectrogram
from nano4m.media.sound import rms_db
from nano4m.media.sound_distances import (
    clicks_a_second,
    log_spectral_distance,
    mel_distance,
    multi_resolution_stft,
    si_sdr,
)
from nano4m.tokenizers.quality import code_use
from nano4m.tokenizers.quantize import Autoencoder
from nano4m.tokenizers.wave_vq import WaveVQTokenizer

ALONE = {"l1_weight": 0.0, "stft_weight": 0.0, "mel_weight": 0.0, "level_weight": 0.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "L1": ALONE | {"l1_weight": 1.0},
    "STFT": ALONE | {"stft_weight": 1.0},
    "L1 + STFT": ALONE | {"l1_weight": 1.0, "stft_weight": 1.0},
    "L1 + STFT + mel": ALONE | {"l1_weight": 1.0, "stft_weight": 1.0, "mel_weight": 1.0},
    "L1 + STFT + mel + adversarial": ALONE
    | {"l1_weight": 1.0, "stft_weight": 1.0, "mel_weight": 1.0, "discriminators": "stft"},
    "default": {},
}
"""Name -> weights of the losses; the default adds the levels of its spectra, and little L1."""


def distances(real: torch.Tensor, made: torch.Tensor, sample_rate: int) -> dict[str, float]:
    """Return the mean distances of made sounds (B, samples) from real ones, and their faults."""
    mel = MelSpectrogram(sample_rate, 1024, 256, 64)
    quiet_real, quiet_made = (_share_of_high(mel(sound)) for sound in (real, made))
    found = {
        "log_spectral_db": log_spectral_distance(real, made),
        "mel_db": mel_distance(real, made, sample_rate),
        "multi_resolution_stft": multi_resolution_stft(real, made),
        "l1": (real - made).abs(),
        "si_sdr_db": si_sdr(real, made),
        "level_bias_db": rms_db(made) - rms_db(real),
        "upper_bands_bias_db": quiet_made - quiet_real,
        "clicks_a_second": clicks_a_second(made, sample_rate),
        "clicks_a_second_real": clicks_a_second(real, sample_rate),
    }
    return {name: float(f"{value.mean().item():.4g}") for name, value in found.items()}


def _share_of_high(logmel: torch.Tensor) -> torch.Tensor:
    # Level of the upper half of the bands, in dB: what is dull or hisses differs here.
    power = (10 ** (logmel[:, logmel.shape[1] // 2 :] / 10)).mean((1, 2))
    return 10 * power.log10()


def fit(
    section: WaveVQ, train: torch.Tensor, val: torch.Tensor, rate: int, seed: int, points: int
) -> dict[str, Any]:
    """Fit one variant; return its figures, and the curve at so many points of its steps."""
    curve: list[dict[str, float]] = []
    few, every = val[:64], max(1, section.steps // points)

    def watch(step: int, loss: float, net: Autoencoder) -> None:
        if (step + 1) % every:
            return
        net.eval()
        with torch.no_grad():
            padded = torch.nn.functional.pad(few, (0, -few.shape[1] % section.hop))
            quantized = net.quantizer(net.encoder(padded).transpose(1, 2))[0].transpose(1, 2)
            made = net.decoder(quantized)[:, : few.shape[1]].clamp(-1, 1)
        net.train()
        own = distances(few, made, rate)
        curve.append({"step": step + 1, "log_spectral_db": own["log_spectral_db"],
                      "mel_db": own["mel_db"], "l1": own["l1"]})  # fmt: skip

    started = now()
    tokenizer = WaveVQTokenizer.fit(section, train, rate, seed, on_step=watch)
    seconds = now() - started
    begun = time.process_time()
    ids = tokenizer.encode(val)
    between = time.process_time()
    made = tokenizer.decode(ids)
    ended = time.process_time()
    length = val.numel() / rate
    return {
        **distances(val, made, rate),
        "codes_used_share": code_use(ids, tokenizer.vocab_size)["codes_used_share"],
        "fit_seconds": round(seconds, 1),
        "encode_x_real_time": round(length / (between - begun)),
        "decode_x_real_time": round(length / (ended - between)),
        "curve": curve,
    }


@float32_math(fast=False)
def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__, threads=1, repeats=1)
    parser.add_argument("--clips", help="folder of the clips of a run; none: made up")
    parser.add_argument("--steps", type=int, default=800, help="of every variant (%(default)s)")
    parser.add_argument("--train", type=int, default=2000, help="train clips (%(default)s)")
    parser.add_argument("--val", type=int, default=200, help="validation clips (%(default)s)")
    parser.add_argument("--points", type=int, default=8, help="of the curve (%(default)s)")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    options = parser.parse_args()
    report = Report("wave_losses", options)
    sounds: dict[str, torch.Tensor] = {}
    if options.clips is None:
        rate = 24000
        sounds = {split: 0.1 * torch.randn(16, 4096) for split in ("train", "val")}
    else:
        clips = open_clips(Path(options.clips))
        rate = clips.sample_rate
        for split, most in (("train", options.train), ("val", options.val)):
            rows = clips.rows(split)[:most]
            sounds[split] = clips.media("sound", rows)
    settings: dict[str, Any] = {"steps": options.steps}
    if options.quick:
        settings |= {"steps": 4, "width": 8, "vocab": 16, "crop_seconds": 0.1, "batch_size": 4}
    found = {}
    for name in options.variants:
        section = WaveVQ(**settings | VARIANTS[name])
        own = (sounds["train"], sounds["val"], rate)
        found[name] = fit(section, *own, options.seed, options.points)
    shown = ("log_spectral_db", "mel_db", "multi_resolution_stft", "l1", "si_sdr_db",
             "level_bias_db", "upper_bands_bias_db", "codes_used_share", "fit_seconds")  # fmt: skip
    rows = [("losses", *shown)]
    rows += [(name, *(f"{own[key]:.3g}" for key in shown)) for name, own in found.items()]
    report.finish(rows, bits_a_second=_bits(WaveVQ(**settings), rate), variants=found)


def _bits(section: WaveVQ, rate: int) -> float:
    return round(rate / section.hop * section.codebooks * (section.vocab - 1).bit_length(), 1)


if __name__ == "__main__":
    main()
