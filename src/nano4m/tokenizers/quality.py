"""How much of the media survives a tokenizer: round trips against the original.

Every function takes originals and round trips of one kind and returns named numbers; MEASURES
chooses by kind. Legend: B batch, C channels, H height, W width.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nano4m.tokenizers.mel import FLOOR_DB, MelSpectrogram
from nano4m.tokenizers.on_device import repeatable


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture in dB, (B,), for values in [0, 1]."""
    return -10 * (x - y).square().flatten(1).mean(1).clamp_min(1e-10).log10()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the structural similarity of each picture, (B,), for values in [0, 1].

    Wang et al. 2004 (https://doi.org/10.1109/TIP.2003.819861): Gaussian window of 11 pixels and
    deviation 1.5, only where it fits inside, mean over places and channels.

    Raises:
        ValueError: Pictures smaller than the window.
    """
    if min(x.shape[-2:]) < 11:
        raise ValueError(f"ssim needs 11 pixels a side, not {tuple(x.shape[-2:])}")
    ramp = torch.arange(11, device=x.device) - 5.0
    line = torch.exp(-ramp.square() / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2)[None, None]

    def blur(z: Tensor) -> Tensor:
        return F.conv2d(z.flatten(0, 1)[:, None], window)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    cov = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    value = value / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return value.flatten(1).mean(1).view(x.shape[:2]).mean(1)


def _picture(x: Tensor, y: Tensor, tokenizer: Any) -> dict[str, float]:
    numbers = {"psnr_db": psnr(x, y).mean().item()}
    if min(x.shape[-2:]) >= 11:
        numbers["ssim"] = ssim(x, y).mean().item()
    return numbers


def _depth(x: Tensor, y: Tensor, tokenizer: Any) -> dict[str, float]:
    # The ratio of distances is the inverse ratio of inverse depths; the sky has none.
    near = x > 1e-3
    ratio = torch.maximum(x[near] / y[near].clamp_min(1e-6), y[near] / x[near])
    return {
        "inverse_depth_error": (x - y).abs().mean().item(),
        "within_1.25_share": (ratio < 1.25).float().mean().item() if ratio.numel() else 0.0,
    }


def _normals(x: Tensor, y: Tensor, tokenizer: Any) -> dict[str, float]:
    cosine = (F.normalize(x, dim=1) * F.normalize(y, dim=1)).sum(1).clamp(-1, 1)
    return {"angle_error_degrees": math.degrees(cosine.acos().mean().item())}


def rms_db(sound: Tensor) -> Tensor:
    """Return the level of each sound (B, samples) in dB of full scale, not below FLOOR_DB."""
    return (10 * sound.square().mean(1).clamp_min(1e-12).log10()).clamp_min(FLOOR_DB)


def _sound(x: Tensor, y: Tensor, tokenizer: Any) -> dict[str, float]:
    section = tokenizer.section
    mel = MelSpectrogram(tokenizer.sample_rate, section.n_fft, section.hop, section.mels)
    mel = mel.to(x.device)
    original = mel(x)
    decoded = torch.cat([tokenizer.decode_logmel(tokenizer.encode(s)) for s in x.split(64)])
    loud = original > original.amax((1, 2), keepdim=True) - 40
    level = rms_db(y) - rms_db(x)
    return {
        "logmel_error_db": (decoded - original).abs().mean().item(),
        "logmel_error_loud_db": (decoded - original).abs()[loud].mean().item(),
        "waveform_logmel_error_db": (mel(y) - original).abs().mean().item(),
        "rms_error_db": level.abs().mean().item(),
        "rms_bias_db": level.mean().item(),
    }


def _caption(x: list[str], y: list[str], tokenizer: Any) -> dict[str, float]:
    ids = tokenizer.encode(x)
    tokens = int(tokenizer.lengths(ids).sum())
    return {
        "exact_share": sum(a == b for a, b in zip(x, y, strict=True)) / len(x),
        "tokens_a_caption": tokens / len(x),
        "unknown_share": int(tokenizer.unknown(ids).sum()) / tokens,
    }


MEASURES: dict[str, Callable[[Any, Any, Any], dict[str, float]]] = {
    "picture": _picture,
    "depth": _depth,
    "normals": _normals,
    "sound": _sound,
    "caption": _caption,
}


def code_use(ids: Tensor, vocab_size: int) -> dict[str, float]:
    """Return the share of ids that occur and the perplexity of their histogram."""
    counts = torch.bincount(ids.flatten(), minlength=vocab_size).double()
    share = counts / counts.sum()
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return {
        "codes_used_share": (counts > 0).double().mean().item(),
        "perplexity": entropy.exp().item(),
    }


def measure(tokenizer: Any, kind: str, media: Any) -> dict[str, float]:
    """Return all numbers of one tokenizer on held-out media (one item a clip), from any device.

    Raises:
        KeyError: A kind that MEASURES does not know.
    """
    # Small parts stay in the cache of a CPU; a GPU is idle with them.
    batch = 64 if tokenizer.device.type == "cpu" else 256
    ids = torch.cat([tokenizer.encode(media[i : i + batch]) for i in range(0, len(media), batch)])
    parts = [tokenizer.decode(chunk) for chunk in ids.split(batch)]
    is_text = isinstance(media, list)
    decoded = [c for part in parts for c in part] if is_text else torch.cat(parts)
    original = media if is_text else media.to(tokenizer.device)
    with repeatable(tokenizer.device, exact=True):
        numbers = MEASURES[kind](original, decoded, tokenizer)
    if is_text:
        read = torch.cat([r[:n] for r, n in zip(ids, tokenizer.lengths(ids), strict=True)])
        bits = len(read) / len(ids) * math.log2(tokenizer.vocab_size)
    else:
        read = ids
        bits = ids[0].numel() * math.log2(tokenizer.section.vocab)
    return numbers | code_use(read, tokenizer.vocab_size) | {"bits_a_clip": bits}
