"""Cross-entropy of the asked-for tokens, each over its own modality's vocabulary.

Shapes: B batch, M decoder tokens, D width, C modalities.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nano4m.batch import MaskedBatch
from nano4m.model.fourm import FourM


def token_cross_entropy(model: FourM, states_BMD: Tensor, batch: MaskedBatch) -> Tensor:
    """Return the summed cross-entropy of each modality, float32 (C,), in nats.

    Logits exist only for targets and only over the target's own vocabulary.
    """
    flat_TD, ids_T = states_BMD.flatten(0, 1), batch.dec_ids_BM.flatten()
    modality_T = batch.dec_modality_BM.flatten()
    sums = []
    for c in range(len(model.modalities)):
        # An absent modality goes the same way: every parameter then has a gradient in every pass.
        chosen = (modality_T == c).nonzero()[:, 0]
        logits = model.logits(flat_TD[chosen], c).float()
        sums.append(F.cross_entropy(logits, ids_T[chosen], reduction="sum"))
    return torch.stack(sums)


def count_targets(batches: Sequence[MaskedBatch], num_modalities: int) -> Tensor:
    """Return the number of targets of each modality over all ``batches``, float32 (C,)."""
    counts = torch.zeros(num_modalities)
    for batch in batches:
        counts += torch.bincount(batch.dec_modality_BM.flatten().cpu(), minlength=num_modalities)
    return counts


def modality_weights(counts_C: Tensor) -> Tensor:
    """Return the weight of one token of each modality: its mean counts once, absent ones not.

    The loss is the sum over modalities of weight times summed cross-entropy, that is the mean over
    the modalities that have targets of their mean cross-entropy.
    """
    present = counts_C > 0
    return torch.where(present, 1.0 / (counts_C.clamp(min=1) * present.sum()), 0.0)
