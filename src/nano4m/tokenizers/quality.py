"""Quality of a tokenizer: round trips compared with the original media.

Each kind of media has its own measures (``fidelity`` of ``nano4m.media``); those of all are here.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nano4m.compute.on_device import repeatable
from nano4m.media import media_kind
from nano4m.tokenizers.verdict import Verdict, check_ids_fit, judge


def code_use(ids: Tensor, vocab_size: int) -> dict[str, float]:
    """Return the share of ids that occur and the perplexity of their histogram."""
    counts = torch.bincount(ids.flatten(), minlength=vocab_size).double()
    share = counts / counts.sum()
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return {
        "codes_used_share": (counts > 0).double().mean().item(),
        "perplexity": entropy.exp().item(),
    }


class Examined(NamedTuple):
    """What held-out media say of a tokenizer: figures, and whether it is broken."""

    figures: dict[str, float]
    verdict: Verdict


def measure(tokenizer: Any, kind: str, media: Any) -> dict[str, float]:
    """Return the figures of ``examine``."""
    return examine(tokenizer, kind, media).figures


def examine(tokenizer: Any, kind: str, media: Any) -> Examined:
    """Return all measures of a tokenizer on held-out media (one item a clip) of any device.

    Of one whose ids do not fit its vocabulary there are none, as nothing can be decoded.

    Raises:
        UserError: An unknown kind.
    """
    # Small parts fit the cache of a CPU; they would leave a GPU idle.
    batch = 64 if tokenizer.device.type == "cpu" else 256
    ids = torch.cat([tokenizer.encode(media[i : i + batch]) for i in range(0, len(media), batch)])
    is_text = isinstance(media, list)
    misfit = check_ids_fit(tokenizer, ids)
    if misfit is not None:
        return Examined({}, misfit)
    parts = [tokenizer.decode(chunk) for chunk in ids.split(batch)]
    decoded = [c for part in parts for c in part] if is_text else torch.cat(parts)
    original = media if is_text else media.to(tokenizer.device)
    verdict = judge(tokenizer, kind, media, ids, decoded)
    with repeatable(tokenizer.device, exact=True):
        numbers = media_kind(kind).part("fidelity")(original, decoded, tokenizer)
    # A file of JSON holds no NaN; the verdict says why they are missing.
    numbers = {name: value for name, value in numbers.items() if math.isfinite(value)}
    if is_text:
        read = torch.cat([r[:n] for r, n in zip(ids, tokenizer.lengths(ids), strict=True)])
        bits = len(read) / len(ids) * math.log2(tokenizer.vocab_size)
    else:
        read = ids
        bits = ids[0].numel() * math.log2(tokenizer.vocab_size / tokenizer.num_codebooks)
    numbers |= code_use(read, tokenizer.vocab_size) | {"bits_a_clip": bits}
    if verdict.own_nearer_share is not None:
        numbers["own_nearer_share"] = verdict.own_nearer_share
    return Examined(numbers, verdict)
