"""A training step on a GPU: packed batches, repeating shapes, and no reads from the device.

Forward and backward pass of the blocks are captured as CUDA graphs, one pair for each batch shape,
and the update as another one. Between the two passes the loss is launched kernel by kernel, because
its shapes (number of targets of each codebook) differ at every step, but are known on the host.

The same code runs on a CPU, without graphs, for tests.

Shapes: T inputs and U targets of a packed batch, D width, C modalities.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nano4m.compute.graphs import Captured, GraphRecorder
from nano4m.model.attention import has_varlen_kernel
from nano4m.model.fourm import FourM
from nano4m.training.device_update import DeviceUpdate
from nano4m.training.loss import linear_cross_entropy, packed_cross_entropy, score_gradient
from nano4m.training.packed_batch import PackedBatch, PackedShape, unpack

WARM = 2
"""Eager runs of a shape before it is captured."""
MOST_SCORES = 1 << 28
"""Logits of a chunk of the loss on a large card: 1 GiB in float32."""


@dataclass
class _Passes:
    """The passes of one shape: number of runs, their buffers, and their graphs."""

    flat: Tensor
    d_states_UD: Tensor
    seen: int = 0
    forward: Captured[Tensor] | None = None
    backward: Captured[None] | None = None


class DeviceStep:
    """Computes gradients of packed batches and updates the weights.

    Args:
        model: float32, on the device; the optimizers update it.
        dtype: Compute type.
        optimizers: From ``build_optimizers`` for this device.
        most: Maximum gradient norm.
        progress_state: Progress state of a resumed run, see ``DeviceUpdate``.
        compiled: Compile the blocks and the loss (TorchInductor).
        graphs: Capture passes and update as CUDA graphs.

    Attributes:
        warm_seconds: Time spent in compiling and capturing so far.
        computing: The compute copy; ``model`` itself in float32.
    """

    def __init__(
        self,
        model: FourM,
        dtype: torch.dtype,
        optimizers: Sequence[torch.optim.Optimizer],
        most: float,
        progress_state: dict[str, Any],
        compiled: bool = False,
        graphs: bool = False,
    ) -> None:
        self.device = model.device
        is_copy = dtype != torch.float32
        own: FourM = copy.deepcopy(model).to(dtype) if is_copy else model
        copies: list[Tensor] = list(own.parameters()) if is_copy else []
        self.model, self.computing, self.dtype = model, own, dtype
        self.update = DeviceUpdate(
            model, copies, optimizers, most, dtype, len(model.modalities), progress_state
        )
        named = list(own.named_parameters())
        pairs = list(zip(named, self.update.gradients, strict=True))
        # Heads get their gradients from the loss; tied ones from both, so they are accumulated.
        heads = {id(own.head_rows(c, self._is_full)[0]) for c in range(len(own.modalities))}
        self.head_gradients = {id(p): g for (_, p), g in pairs if id(p) in heads}
        trunk = [(p, g) for (name, p), g in pairs if not name.startswith("heads.")]
        self.trunk = [p for p, _ in trunk]
        self.only_trunk = [id(p) not in heads for p in self.trunk]
        self.trunk_gradients = [g for _, g in trunk]
        self.fused = has_varlen_kernel(self.device, dtype, model.config.head_dim)
        self.score = score_gradient
        if compiled:
            # Only the blocks: they are alike, so each kind is compiled once.
            for block in (*own.encoder, *own.decoder):
                block.compile()
            self.score = torch.compile(score_gradient)
        self.recorder = GraphRecorder() if graphs else None
        self.passes: dict[tuple[PackedShape, bool], _Passes] = {}
        self.written: set[int] = set()
        self.updates = 0
        self.captured_update: Captured[None] | None = None
        self.warms_up, self.warm_seconds = compiled or graphs, 0.0
        # On the device, so that a change reaches the captured graphs' loss without a read.
        self.factors_C = torch.ones(len(model.modalities), device=self.device)
        self.most_scores = MOST_SCORES
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
            self.most_scores = max(1 << 23, min(MOST_SCORES, free // 128))

    def set_factors(self, factors: Sequence[float]) -> None:
        """Set the factor of each modality's loss."""
        self.factors_C.copy_(torch.tensor(factors))

    @property
    def _is_full(self) -> bool:
        return self.model.config.tables == "shared"

    @property
    def warming(self) -> str:
        """Number of shapes and warm-up time so far, as text for a summary."""
        shapes = len({shape for shape, _ in self.passes})
        warmed = f", {self.warm_seconds:.1f} s to warm up" if self.warms_up else ""
        return f", shapes {shapes}{warmed}"

    def __call__(self, batches: Sequence[PackedBatch], rate: float) -> None:
        """Take a step: accumulate the gradients of all ``batches``, then update once.

        Args:
            batches: Parts of one step, see ``Packer.parts``.
            rate: Learning rate.
        """
        self.update.set_rate(rate)
        for number, batch in enumerate(batches):
            self._add_gradients(batch, number == 0)
        self._update()

    def _add_gradients(self, batch: PackedBatch, is_first: bool) -> None:
        found = self._passes_of(batch, is_first)
        found.flat.copy_(self._sent(batch), non_blocking=True)
        began = time.perf_counter()
        tensors = unpack(found.flat, batch, self.fused)
        is_new = found.seen < WARM
        if self.recorder and found.seen == WARM:
            # The autograd graph links the passes: both are captured before either is replayed.
            found.forward = self.recorder.capture(lambda: self.computing.packed_states(tensors))
            states_UD, d_states_UD = found.forward.result, found.d_states_UD
            found.backward = self.recorder.capture(
                lambda: self._backward(states_UD, d_states_UD, is_first)
            )
            # Detached, so that the memory of the autograd graph is free for the next shape.
            found.forward = Captured(found.forward.graph, states_UD.detach())
            is_new = True
        if found.forward and found.backward:
            self._loss(found.forward.replay(), found, batch, is_first)
            found.backward.replay()
        else:
            states_UD = self.computing.packed_states(tensors)
            self._loss(states_UD, found, batch, is_first)
            self._backward(states_UD, found.d_states_UD, is_first)
        found.seen += 1
        if is_new:
            self.warm_seconds += time.perf_counter() - began

    def _sent(self, batch: PackedBatch) -> Tensor:
        """Return the data of a batch in memory that is copied to the device asynchronously."""
        flat = torch.from_numpy(batch.flat)
        return flat.pin_memory() if self.device.type == "cuda" else flat

    def _passes_of(self, batch: PackedBatch, is_first: bool) -> _Passes:
        key = (batch.shape, is_first)
        if key not in self.passes:
            width = self.model.config.dim
            self.passes[key] = _Passes(
                flat=torch.empty(len(batch.flat), dtype=torch.int32, device=self.device),
                d_states_UD=torch.empty(
                    batch.shape.targets, width, dtype=self.dtype, device=self.device
                ),
            )
        return self.passes[key]

    def _loss(self, states_UD: Tensor, found: _Passes, batch: PackedBatch, is_first: bool) -> None:
        if is_first:
            self._begin(batch)
        tensors = unpack(found.flat, batch, self.fused)
        packed_cross_entropy(
            self.computing, states_UD.detach(), tensors, batch.counts, self.head_gradients,
            self.written, found.d_states_UD, self.update.sums_C,
            self.update.scale * self.factors_C,
            self.most_scores, self.score,
        )  # fmt: skip
        self.update.counts_C += tensors.counts_C

    def _begin(self, batch: PackedBatch) -> None:
        """Reset the gradients of heads; those that a single product writes need not be zeroed."""
        owners = [
            (id(self.computing.head_rows(c, self._is_full)[0]), min(by_book))
            for c, by_book in enumerate(batch.counts)
        ]
        alone = len(self.head_gradients) == len(owners)
        fresh = {owner for owner, count in owners if alone and count}
        self.written = set(self.head_gradients) - fresh
        if self.written:
            torch._foreach_zero_([self.head_gradients[owner] for owner in sorted(self.written)])

    def _backward(self, states_UD: Tensor, d_states_UD: Tensor, is_first: bool) -> None:
        grads = torch.autograd.grad(states_UD, self.trunk, d_states_UD)
        with torch.no_grad():
            fresh: tuple[list[Tensor], list[Tensor]] = ([], [])
            for grad, total, is_only in zip(
                grads, self.trunk_gradients, self.only_trunk, strict=True
            ):
                if is_first and is_only:
                    fresh[0].append(total)
                    fresh[1].append(grad)
                else:
                    total += grad
            if fresh[0]:
                torch._foreach_copy_(*fresh)

    def _update(self) -> None:
        if self.recorder is None or self.updates < WARM:
            self.update()
        else:
            if self.captured_update is None:
                began = time.perf_counter()
                self.captured_update = self.recorder.capture(self.update)
                self.warm_seconds += time.perf_counter() - began
            self.captured_update.replay()
        self.updates += 1

    @torch.no_grad()
    def evaluate(self, batches: Sequence[PackedBatch]) -> Tensor:
        """Return the summed cross-entropy of each modality, float32 (C,) on the device."""
        sums_C = torch.zeros_like(self.update.sums_C)
        self.computing.eval()
        for batch in batches:
            tensors = unpack(self._sent(batch).to(self.device), batch, self.fused)
            with torch.compiler.set_stance("force_eager"):
                states_UD = self.computing.packed_states(tensors)
                sums_C += self._evaluated(states_UD, tensors.order_U, tensors.target_ids_U, batch)
        self.computing.train()
        return sums_C

    def _evaluated(
        self, states_UD: Tensor, order_U: Tensor, ids_U: Tensor, batch: PackedBatch
    ) -> Tensor:
        sorted_UD, ids_U = states_UD.index_select(0, order_U), ids_U.index_select(0, order_U)
        cap, start = self.model.config.logit_soft_cap, 0
        sums_C = states_UD.new_zeros(len(batch.counts), dtype=torch.float32)
        for c, by_book in enumerate(batch.counts):
            parts, factor = self.computing.loss_heads(c)
            vocabulary = 0
            for weight_VD, own in zip(
                parts, by_book if len(parts) > 1 else (sum(by_book),), strict=True
            ):
                states_TD = sorted_UD[start : start + own] * factor
                ids_T = ids_U[start : start + own].long() - vocabulary
                sums_C[c] += linear_cross_entropy(states_TD, weight_VD, ids_T, cap)
                start, vocabulary = start + own, vocabulary + len(weight_VD)
        return sums_C

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the model's weights to the compute copy."""
        if self.update.compute_params:
            masters = [m.detach() for m in self.update.master_params]
            torch._foreach_copy_(self.update.compute_params, masters)
