"""Quality of a tokenizer: round trips compared with the original media.

Each kind of media has its own measures (``fidelity`` of ``nano4m.media``); those of all are here.
"""

import math
from typing import Any

import torch
from torch import Tensor

from nano4m.compute.on_device import repeatable
from nano4m.media import media_kind


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
    """Return all measures of a tokenizer on held-out media (one item a clip) of any device.

    Raises:
        UserError: An unknown kind.
    """
    # Small parts fit the cache of a CPU; they would leave a GPU idle.
    batch = 64 if tokenizer.device.type == "cpu" else 256
    ids = torch.cat([tokenizer.encode(media[i : i + batch]) for i in range(0, len(media), batch)])
    parts = [tokenizer.decode(chunk) for chunk in ids.split(batch)]
    is_text = isinstance(media, list)
    decoded = [c for part in parts for c in part] if is_text else torch.cat(parts)
    original = media if is_text else media.to(tokenizer.device)
    with repeatable(tokenizer.device, exact=True):
        numbers = media_kind(kind).part("fidelity")(original, decoded, tokenizer)
    if is_text:
        read = torch.cat([r[:n] for r, n in zip(ids, tokenizer.lengths(ids), strict=True)])
        bits = len(read) / len(ids) * math.log2(tokenizer.vocab_size)
    else:
        read = ids
        bits = ids[0].numel() * math.log2(tokenizer.vocab_size / tokenizer.num_codebooks)
    return numbers | code_use(read, tokenizer.vocab_size) | {"bits_a_clip": bits}
