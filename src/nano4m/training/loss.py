"""Cross-entropy of the targets, each over its own modality's vocabulary.

Shapes: B batch, M decoder tokens, T tokens of one modality, D width, V vocabulary, C modalities.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nano4m.model.fourm import FourM, PackedTensors
from nano4m.tokens.batch import MaskedBatch

MOST_LOGITS = 1 << 23
"""Maximum logits in memory at once: 32 MiB in float32."""


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of ``states @ weight.T`` in chunks, gradients in the forward pass.

    The logits of a chunk live until its gradients are computed; logits, softmax and sums are
    float32 at least, whatever the type of the matrices. ``F.linear_cross_entropy`` sums in the type
    of its inputs, and its chunks take several times as long on a CPU (docs/PERFORMANCE.md).
    """

    @staticmethod
    def forward(
        ctx: Any, states_TD: Tensor, weight_VD: Tensor, ids_T: Tensor, cap: float
    ) -> Tensor:
        rows = max(1, MOST_LOGITS // len(weight_VD))
        wants = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        single = len(states_TD) <= rows
        exact = torch.promote_types(states_TD.dtype, torch.float32)
        total = states_TD.new_zeros((), dtype=exact)
        d_states, d_weight = [], None
        for own_TD, own_T in zip(states_TD.split(rows), ids_T.split(rows), strict=True):
            score_TV = own_TD @ weight_VD.T
            slope_TV = None
            if cap:
                score_TV = (score_TV.to(exact) / cap).tanh_()
                slope_TV = 1 - score_TV.square() if wants else None
                score_TV = score_TV * cap
            log_TV = score_TV.log_softmax(1, dtype=exact)
            total -= log_TV.gather(1, own_T[:, None]).sum()
            if not wants:
                continue
            # In place where possible, because each pass over a chunk takes time.
            d_TV = log_TV.exp_()
            d_TV.scatter_add_(1, own_T[:, None], d_TV.new_full((len(own_T), 1), -1.0))
            if slope_TV is not None:
                d_TV *= slope_TV
            d_TV = d_TV.to(own_TD.dtype)
            d_states.append(d_TV @ weight_VD)
            if single or d_weight is None:
                d_weight = (d_TV.T @ own_TD).to(own_TD.dtype if single else exact)
            elif exact == own_TD.dtype:
                d_weight.addmm_(d_TV.T, own_TD)
            else:
                d_weight += d_TV.T @ own_TD
        if wants:
            none = torch.zeros_like
            ctx.save_for_backward(
                torch.cat(d_states) if d_states else none(states_TD),
                none(weight_VD) if d_weight is None else d_weight.to(weight_VD.dtype),
            )
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_states, d_weight = ctx.saved_tensors
        # A 0-d tensor does not promote a half-precision matrix, and is not rounded to its type.
        return d_states * grads[0], d_weight * grads[0], None, None


def linear_cross_entropy(
    states_TD: Tensor, weight_VD: Tensor, ids_T: Tensor, cap: float = 0.0
) -> Tensor:
    """Return the summed cross-entropy of logits ``states @ weight.T``, a scalar in nats.

    It is float32, or float64 for states in float64.

    Args:
        states_TD: In float32, bf16 or fp16, like ``weight_VD``.
        weight_VD: Rows of the vocabulary.
        ids_T: int64 in 0..V-1.
        cap: Logits become cap * tanh(logit / cap); 0: no cap.
    """
    return _LinearCrossEntropy.apply(states_TD, weight_VD, ids_T, cap)


# The number of targets of a modality depends on the data: a compiler would break the graph at every
# modality and recompile for every vocabulary, to speed up what are matrix products anyway.
@torch.compiler.disable
def token_cross_entropy(model: FourM, states_BMD: Tensor, batch: MaskedBatch) -> Tensor:
    """Return the summed cross-entropy of each modality, float32 (C,), in nats.

    Logits are computed for targets only, over the target's own vocabulary; with shared tables over
    the whole shared one, as the reference trains.
    """
    flat_TD, ids_T = states_BMD.flatten(0, 1), batch.target_ids_BM.flatten()
    modality_T = batch.target_modality_BM.flatten()
    sums = []
    for c in range(len(model.modalities)):
        # Absent modalities are included, so that every parameter has a gradient in every pass.
        chosen = (modality_T == c).nonzero()[:, 0]
        weight_VD, scale = model.head(c, full=model.config.tables == "shared")
        states_TD = flat_TD[chosen] if scale == 1 else flat_TD[chosen] * scale
        cap = model.config.logit_soft_cap
        sums.append(linear_cross_entropy(states_TD, weight_VD, ids_T[chosen], cap))
    return torch.stack(sums)


def score_gradient(
    score_TV: Tensor, ids_T: Tensor, weight: Tensor, cap: float
) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy of logits, and ``weight`` times its gradient, (T, V).

    Plain operations, which a compiler fuses into two passes over the logits; the gradient has their
    type, softmax and sum are float32 at least.

    Args:
        score_TV: Logits before the soft cap.
        ids_T: Target ids, integers.
        weight: A scalar on the device.
        cap: As for ``linear_cross_entropy``.
    """
    exact = torch.promote_types(score_TV.dtype, torch.float32)
    wide_TV = score_TV.to(exact)
    if cap:
        wide_TV = torch.tanh(wide_TV / cap) * cap
    # Reduced by rows, never over all logits, so that one kernel handles a whole row.
    most_T1 = wide_TV.amax(1, keepdim=True)
    sum_T1 = (wide_TV - most_T1).exp().sum(1, keepdim=True)
    right_T1 = wide_TV.gather(1, ids_T[:, None].long())
    total = (sum_T1.log() + most_T1 - right_T1).sum()
    is_right_TV = torch.arange(score_TV.shape[1], device=ids_T.device) == ids_T[:, None]
    share_TV = (wide_TV - most_T1).exp() * (1 / sum_T1)
    d_TV = (share_TV - is_right_TV.to(exact)) * weight
    if cap:
        d_TV = d_TV * (1 - (wide_TV / cap).square())
    return total, d_TV.to(score_TV.dtype)


ScoreGradient = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


@torch.no_grad()
def packed_cross_entropy(
    model: FourM,
    states_UD: Tensor,
    batch: PackedTensors,
    counts: Sequence[int],
    gradients: dict[int, Tensor],
    written: set[int],
    d_states_UD: Tensor,
    sums_C: Tensor,
    scale: Tensor,
    most: int,
    score: ScoreGradient = score_gradient,
) -> None:
    """Add the cross-entropy of a packed batch to ``sums_C``, and compute its gradients.

    The number of targets of each modality is known on the host, so nothing is read from the device.

    Args:
        model: The compute copy.
        states_UD: Decoder states.
        batch: The batch on the device.
        counts: Targets of each modality.
        gradients: Gradients of heads, by the ``id`` of their parameter in ``model``.
        written: Heads whose gradients have values of this step and are accumulated; kept up to
            date.
        d_states_UD: Output: the gradient of the weighted loss, 0 for filler slots.
        sums_C: float32, summed cross-entropy of each modality; accumulated.
        scale: Factor on the loss before the gradient, a scalar on the device.
        most: Maximum logits in memory at once.
        score: ``score_gradient``, possibly compiled.
    """
    weights_C = batch.weights_C * scale
    sorted_UD = states_UD.index_select(0, batch.order_U)
    ids_U = batch.target_ids_U.index_select(0, batch.order_U)
    d_sorted_UD = torch.empty_like(sorted_UD)
    cap, is_full, start = model.config.logit_soft_cap, model.config.tables == "shared", 0
    for c, count in enumerate(counts):
        if not count:
            continue
        parameter, own_rows = model.head_rows(c, is_full)
        weight_VD, factor = model.head(c, is_full)
        gradient_VD = gradients[id(parameter)][own_rows]
        rows = max(1, most // len(weight_VD))
        for first in range(start, start + count, rows):
            span = slice(first, min(first + rows, start + count))
            states_TD = sorted_UD[span] if factor == 1 else sorted_UD[span] * factor
            total, d_TV = score(states_TD @ weight_VD.T, ids_U[span], weights_C[c], cap)
            sums_C[c] += total
            torch.mm(d_TV, weight_VD, out=d_sorted_UD[span])
            if id(parameter) in written or first > start:
                gradient_VD += d_TV.T @ states_TD
            else:
                gradient_VD.copy_(d_TV.T @ states_TD)
        # A head shared by all modalities was zeroed before; its rows accumulate.
        written.add(id(parameter))
        if factor != 1:
            d_sorted_UD[start : start + count] *= factor
        start += count
    d_sorted_UD[start:] = 0
    d_states_UD.index_copy_(0, batch.order_U.long(), d_sorted_UD)


class MaskedLoss(nn.Module):
    """The model with its loss, as the one module that a step calls and shards."""

    def __init__(self, model: FourM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: MaskedBatch) -> Tensor:
        """Return the summed cross-entropy of each modality, float32 (C,)."""
        return token_cross_entropy(self.model, self.model(batch), batch)


def count_targets(batches: Sequence[MaskedBatch], num_modalities: int) -> Tensor:
    """Return the number of targets of each modality over all ``batches``, float32 (C,)."""
    counts = torch.zeros(num_modalities)
    for batch in batches:
        counts += torch.bincount(batch.target_modality_BM.flatten().cpu(), minlength=num_modalities)
    return counts


def modality_weights(counts_C: Tensor) -> Tensor:
    """Return the weight of one token of each modality; absent modalities have weight 0.

    The loss is the sum over modalities of weight times summed cross-entropy: the mean, over the
    modalities that have targets, of their mean cross-entropy.
    """
    present = counts_C > 0
    return torch.where(present, 1.0 / (counts_C.clamp(min=1) * present.sum()), 0.0)
