"""Cross-entropy of the targets, each over the ids of its own codebook.

A modality with one codebook has one vocabulary; with Q, each slot has V / Q ids. So an untrained
model starts at ln(V / Q). With shared tables it is the whole shared vocabulary.

Shapes: B batch, M decoder tokens, T tokens of one codebook, D width, V its vocabulary, C
modalities.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nano4m.model.fourm import FourM, PackedTensors
from nano4m.model.wide_product import wide_product
from nano4m.tokens.batch import MaskedBatch

MOST_LOGITS = 1 << 23
"""Maximum logits in memory at once: 32 MiB in float32."""


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of ``states @ weight.T`` in chunks, gradients in the forward pass.

    The logits of a chunk live until its gradients are computed; logits, softmax and sums are
    float32 at least, whatever the type of the matrices (``wide_product``); the gradient of the
    logits is rounded to that type before its own products. ``F.linear_cross_entropy`` sums in the
    type of its inputs, and its chunks take several times as long on a CPU (docs/PERFORMANCE.md).
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
            score_TV = wide_product(own_TD, weight_VD)
            slope_TV = None
            if cap:
                score_TV = (score_TV / cap).tanh_()
                slope_TV = 1 - score_TV.square() if wants else None
                score_TV = score_TV * cap
            log_TV = score_TV.log_softmax(1)
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
    if not torch.is_grad_enabled():
        # Otherwise a parameter would have its gradient computed even where none is recorded.
        states_TD, weight_VD = states_TD.detach(), weight_VD.detach()
    return _LinearCrossEntropy.apply(states_TD, weight_VD, ids_T, cap)


# The number of targets of a modality depends on the data: a compiler would break the graph at every
# modality and recompile for every vocabulary, to speed up what are matrix products anyway.
@torch.compiler.disable
def token_cross_entropy(model: FourM, states_BMD: Tensor, batch: MaskedBatch) -> Tensor:
    """Return the summed cross-entropy of each modality, float32 (C,), in nats.

    Logits are computed for targets only, over the ids of the target's own codebook; with shared
    tables over the whole shared vocabulary, as the reference trains.
    """
    flat_TD, ids_T = states_BMD.flatten(0, 1), batch.target_ids_BM.flatten()
    modality_T = batch.target_modality_BM.flatten()
    codebook_T = batch.target_coords_BM2[..., 1].flatten()
    cap, sums = model.config.logit_soft_cap, []
    for c in range(len(model.modalities)):
        # Absent modalities are included, so that every parameter has a gradient in every pass.
        is_own_T, (parts, scale) = modality_T == c, model.loss_heads(c)
        found, first = [], 0
        for book, weight_VD in enumerate(parts):
            is_here_T = is_own_T & (codebook_T == book) if len(parts) > 1 else is_own_T
            chosen = is_here_T.nonzero()[:, 0]
            states_TD = flat_TD[chosen] if scale == 1 else flat_TD[chosen] * scale
            found.append(linear_cross_entropy(states_TD, weight_VD, ids_T[chosen] - first, cap))
            first += len(weight_VD)
        sums.append(torch.stack(found).sum())
    return torch.stack(sums)


def score_gradient(
    score_TV: Tensor, ids_T: Tensor, weight: Tensor, cap: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy of logits, and ``weight`` times its gradient, (T, V).

    Plain operations, which a compiler fuses into two passes over the logits.

    Args:
        score_TV: Logits before the soft cap, float32 at least.
        ids_T: Target ids, integers.
        weight: A scalar on the device.
        cap: As for ``linear_cross_entropy``.
        dtype: Type of the gradient, that of the matrices of its products.
    """
    if cap:
        score_TV = torch.tanh(score_TV / cap) * cap
    # Reduced by rows, never over all logits, so that one kernel handles a whole row.
    most_T1 = score_TV.amax(1, keepdim=True)
    sum_T1 = (score_TV - most_T1).exp().sum(1, keepdim=True)
    right_T1 = score_TV.gather(1, ids_T[:, None].long())
    total = (sum_T1.log() + most_T1 - right_T1).sum()
    is_right_TV = torch.arange(score_TV.shape[1], device=ids_T.device) == ids_T[:, None]
    share_TV = (score_TV - most_T1).exp() * (1 / sum_T1)
    d_TV = (share_TV - is_right_TV.to(score_TV.dtype)) * weight
    if cap:
        d_TV = d_TV * (1 - (score_TV / cap).square())
    return total, d_TV.to(dtype)


ScoreGradient = Callable[[Tensor, Tensor, Tensor, float, torch.dtype], tuple[Tensor, Tensor]]


@torch.no_grad()
def packed_cross_entropy(
    model: FourM,
    states_UD: Tensor,
    batch: PackedTensors,
    counts: Sequence[Sequence[int]],
    gradients: dict[int, Tensor],
    written: set[int],
    d_states_UD: Tensor,
    sums_C: Tensor,
    scale: Tensor,
    most: int,
    score: ScoreGradient = score_gradient,
) -> None:
    """Add the cross-entropy of a packed batch to ``sums_C``, and compute its gradients.

    The number of targets of each codebook is known on the host, so nothing is read from the device.

    Args:
        model: The compute copy.
        states_UD: Decoder states.
        batch: The batch on the device.
        counts: Targets of each codebook of each modality.
        gradients: Gradients of heads, by the ``id`` of their parameter in ``model``.
        written: Heads whose gradients have values of this step and are accumulated; kept up to
            date.
        d_states_UD: Output: the gradient of the weighted loss, 0 for filler slots.
        sums_C: float32, summed cross-entropy of each modality; accumulated.
        scale: Factor on the loss before the gradient, a scalar or (C,) on the device.
        most: Maximum logits in memory at once.
        score: ``score_gradient``, possibly compiled.
    """
    weights_C = batch.weights_C * scale
    sorted_UD = states_UD.index_select(0, batch.order_U)
    ids_U = batch.target_ids_U.index_select(0, batch.order_U)
    d_sorted_UD = torch.empty_like(sorted_UD)
    cap, start = model.config.logit_soft_cap, 0
    for c, by_book in enumerate(counts):
        count = sum(by_book)
        if not count:
            continue
        parts, factor = model.loss_heads(c)
        parameter, own_rows = model.head_rows(c, model.config.tables == "shared")
        gradient_parts = gradients[id(parameter)][own_rows].chunk(len(parts))
        begin, vocabulary = start, 0
        for weight_VD, gradient_VD, own in zip(
            parts, gradient_parts, by_book if len(parts) > 1 else (count,), strict=True
        ):
            rows = max(1, most // len(weight_VD))
            for first in range(begin, begin + own, rows):
                span = slice(first, min(first + rows, begin + own))
                states_TD = sorted_UD[span] if factor == 1 else sorted_UD[span] * factor
                ids_T = ids_U[span] - vocabulary if vocabulary else ids_U[span]
                score_TV = wide_product(states_TD, weight_VD)
                total, d_TV = score(score_TV, ids_T, weights_C[c], cap, states_TD.dtype)
                sums_C[c] += total
                torch.mm(d_TV, weight_VD, out=d_sorted_UD[span])
                if id(parameter) in written or first > begin:
                    gradient_VD += d_TV.T @ states_TD
                else:
                    gradient_VD.copy_(d_TV.T @ states_TD)
            begin, vocabulary = begin + own, vocabulary + len(weight_VD)
        # A head shared by all modalities was zeroed before; its rows accumulate.
        written.add(id(parameter))
        if factor != 1:
            d_sorted_UD[start:begin] *= factor
        start = begin
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
