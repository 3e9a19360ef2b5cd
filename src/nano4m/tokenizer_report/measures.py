"""What a tokenizer costs, what comes back, and how fast it is."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nano4m.media import media_kind
from nano4m.media.sound import rms_db
from nano4m.media.sound_distances import (
    clicks_a_second,
    log_spectral_distance,
    mel_distance,
    multi_resolution_stft,
    si_sdr,
)
from nano4m.tokenizers.quality import code_use

BATCH = 32
"""Items that are encoded or decoded together."""

TIMED, REPEATS, LONG_S = 8, 3, 20.0
"""Items of a speed measurement, and how often it is repeated; one that took so long is not."""


def encoded(tokenizer: Any, media: Tensor) -> Tensor:
    """Return the ids of media, on the CPU."""
    return torch.cat([tokenizer.encode(part).cpu() for part in media.split(BATCH)])


def decoded(tokenizer: Any, ids: Tensor) -> Tensor:
    """Return the media of ids, on the CPU."""
    return torch.cat([tokenizer.decode(part).float().cpu() for part in ids.split(BATCH)])


def cost(tokenizer: Any, seconds: float | None) -> dict[str, float]:
    """Return tokens and bits of an item; of a sound of so many seconds, also those a second."""
    tokens = math.prod(tokenizer.shape)
    bits = tokens * math.log2(tokenizer.vocab_size / tokenizer.num_codebooks)
    found: dict[str, float] = {"tokens": tokens, "bits": bits}
    if seconds:
        found |= {"tokens_a_second": tokens / seconds, "bits_a_second": bits / seconds}
    net = getattr(tokenizer, "net", None)
    if net is not None:
        found["parameters"] = sum(p.numel() for p in net.parameters())
    return found


def level_use(tokenizer: Any, ids: Tensor) -> list[dict[str, float]]:
    """Return share of used codes and perplexity of each codebook, coarse first."""
    books = tokenizer.num_codebooks
    size = tokenizer.vocab_size // books
    own = ids.reshape(len(ids), -1, books)
    return [
        {"vocab": size, **code_use(own[..., k] - k * size, size)} for k in range(books)
    ]  # fmt: skip


def sound_fidelity(original: Tensor, made: Tensor, sample_rate: int) -> dict[str, float]:
    """Return distances between sounds and their round trips (n, samples), means over sounds."""
    level = rms_db(made) - rms_db(original)
    figures = {
        "si_sdr_db": si_sdr(original, made),
        "log_spectral_distance_db": log_spectral_distance(original, made),
        "multi_resolution_stft": multi_resolution_stft(original, made),
        "mel_distance_db": mel_distance(original, made, sample_rate),
        "rms_bias_db": level,
        "rms_error_db": level.abs(),
        "clicks_a_second": clicks_a_second(made, sample_rate),
        "clicks_a_second_before": clicks_a_second(original, sample_rate),
    }
    return {name: float(values.mean()) for name, values in figures.items()}


def fidelity(
    tokenizer: Any, kind: str, original: Tensor, made: Tensor, sample_rate: int
) -> dict[str, float]:
    """Return how far round trips are from their originals, by the measures of the kind."""
    known = media_kind(kind)
    if known.is_plane:
        return known.part("fidelity")(original, made, tokenizer)
    return sound_fidelity(original, made, sample_rate)


def _seconds(work: Callable[[], Any]) -> float:
    best = math.inf
    for _ in range(REPEATS):
        started = time.thread_time()
        work()
        best = min(best, time.thread_time() - started)
        if best > LONG_S:
            break
    return best


def speed(tokenizer: Any, media: Tensor, seconds: float | None) -> dict[str, float]:
    """Return how many items a second one thread encodes and decodes; of sounds also how many
    seconds of sound.

    On the CPU, in processor time of the thread, the best of REPEATS: what else the machine does
    counts as little as it can.
    """
    before, device = torch.get_num_threads(), tokenizer.device
    torch.set_num_threads(1)
    try:
        tokenizer.to("cpu")
        # One item first: a decoder that makes one sample at a time would take minutes for all.
        ids = tokenizer.encode(media[:1])
        started = time.thread_time()
        tokenizer.decode(ids)
        count = 1 if time.thread_time() - started > LONG_S / 8 else min(TIMED, len(media))
        part = media[:count]
        ids = tokenizer.encode(part)
        taken = {
            "encode": _seconds(lambda: tokenizer.encode(part)),
            "decode": _seconds(lambda: tokenizer.decode(ids)),
        }
    finally:
        torch.set_num_threads(before)
        tokenizer.to(device)
    found = {f"{name}_items_a_second": count / spent for name, spent in taken.items()}
    if seconds:
        found |= {f"{name}_real_time": count * seconds / spent for name, spent in taken.items()}
    return found
