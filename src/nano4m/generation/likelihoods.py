"""Log-probabilities of tokens, gathered on the device that computes the logits.

Logits of all slots over a whole vocabulary are the largest tensor of an evaluation (64 pictures of
14 x 14 tokens of 16,384: 0.8 GB), so slots are processed in parts, and each part is reduced before
the next is computed.

Shapes: B rows, n rows of one pass, T targets, t targets of one part, W ids of one codebook.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from nano4m.generation.guidance import codebook_of, decoded
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import TokenSequence

MOST_SCORES = {"cpu": 1 << 26, "cuda": 1 << 28}
"""Maximum number of logits in memory at once, by kind of device."""


def log_prob_parts(
    model: FourM,
    tokens: TokenSequence,
    ids_BL: Tensor,
    inputs_BL: Tensor,
    targets_BT: Tensor,
    batch_size: int = 64,
    count: int | None = None,
) -> Iterator[tuple[Tensor, int, Tensor]]:
    """Yield rows, int64 (n,), first slot t0, and log-probabilities of slots t0 to t0 + t.

    The latter are float32 (n, t, W) on the model's device, over the ids of each slot's codebook:
    column w is the id codebook * W + w. Parts of the same rows come in order.

    Args:
        model: In evaluation mode.
        tokens: Order of the slots.
        ids_BL: int64 ids; only inputs are read.
        inputs_BL: bool, inputs of the encoder; their number may differ between rows.
        targets_BT: int64 slots of one modality, equally many in each row. The decoder queries all T
            at once, as in training.
        batch_size: Rows of a forward pass.
        count: Number of first slots to return; None: all.
    """
    index = int(tokens.modality_L[targets_BT[0, 0]])
    wanted = targets_BT.shape[1] if count is None else count
    most = MOST_SCORES.get(model.device.type, MOST_SCORES["cpu"])
    codebook = codebook_of(tokens, targets_BT)
    # Slots of several codebooks take their parts of the scores of all.
    width = tokens.modalities[index].codebook_size
    width = width if isinstance(codebook, int) else tokens.modalities[index].vocab_size
    for rows, states in decoded(model, tokens, ids_BL, inputs_BL, targets_BT, batch_size):
        size = max(1, most // (len(rows) * width))
        own = codebook if isinstance(codebook, int) else codebook[rows].to(model.device)
        for first in range(0, wanted, size):
            part = slice(first, min(first + size, wanted))
            with torch.inference_mode():
                book = own if isinstance(own, int) else own[:, part]
                logits = model.logits(states[:, part], index, book).float()
            yield rows, first, logits.log_softmax(-1)


def log_probs(
    model: FourM,
    tokens: TokenSequence,
    ids_BL: Tensor,
    inputs_BL: Tensor,
    targets_BT: Tensor,
    wanted_BT: Tensor,
    batch_size: int = 64,
) -> Tensor:
    """Return log-probabilities of one id for each target slot, float32 (B, T) on the CPU.

    Args:
        model, tokens, ids_BL, inputs_BL, targets_BT, batch_size: As for ``log_prob_parts``.
        wanted_BT: int64 ids.
    """
    device = model.device
    width = tokens.modalities[int(tokens.modality_L[targets_BT[0, 0]])].codebook_size
    out_BT = torch.empty(targets_BT.shape, device=device)
    parts = log_prob_parts(model, tokens, ids_BL, inputs_BL, targets_BT, batch_size)
    for rows, first, log_p in parts:
        part = slice(first, first + log_p.shape[1])
        ids = wanted_BT[rows, part].to(device) % width
        out_BT[rows.to(device), part] = log_p.gather(2, ids[..., None])[..., 0]
    return out_BT.cpu()
