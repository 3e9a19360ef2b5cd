"""State of decoding one modality: its ids, its known slots, the forward passes for the rest.

On a CPU all tensors are there. With ``on_device``, ids and masks are on the model's device; which
slots are known between two codebooks is tracked on the CPU too (it follows from counts), so rows
are grouped without reading from the device.

Shapes: B batch, L all token slots of a clip, T slots of one modality, N unknown slots, W ids that
one slot may have, R rows that are decoded together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nano4m.config.generation import Sampling
from nano4m.generation.draw import FreshNumbers, PredrawnNumbers, RandomNumbers
from nano4m.generation.guidance import Guide
from nano4m.modalities import Modality

OnStep = Callable[[str, int, int, Tensor, Tensor], None]
"""Called after every step with the target, the number of the step, the number of steps, int64
ids (B, L) and bool mask of known slots (B, L), on the sampler's device; both are read-only."""


@dataclass(kw_only=True)
class DecodingState:
    """State of decoding one modality; ids and mask of its span are written in place.

    Attributes:
        guide, modality, span, settings: Source of logits, modality, its slots, sampling settings.
        ids_BL, inputs_BL: int64 ids and bool mask of known slots, on the sampler's device.
        known_BL: bool on the CPU: slots known before the current codebook or text.
        generators: One a row, on the CPU.
        confidence_BT: float32, log-probability of each drawn token.
        on_step: See ``OnStep``.
        steps: Total number of steps.
        done: Steps done.
    """

    guide: Guide
    modality: Modality
    span: slice
    settings: Sampling
    ids_BL: Tensor
    inputs_BL: Tensor
    known_BL: Tensor
    generators: Sequence[torch.Generator]
    confidence_BT: Tensor
    on_step: OnStep | None = None
    steps: int = 0
    done: int = 0

    def send(self, values: Tensor) -> Tensor:
        """Return a CPU tensor on the sampler's device."""
        device = self.ids_BL.device
        # Only copies from pinned memory overlap with work on the device.
        values = values.pin_memory() if device.type == "cuda" else values
        return values.to(device, non_blocking=True)

    def forward_logits(
        self,
        rows: Tensor,
        slots_RT: Tensor,
        count: int,
        factor: float,
        shown: Sequence[int],
        codebook: int | None = None,
    ) -> Tensor:
        """Return logits (R, count, W) of the first slots over the ids of their own codebook.

        Args:
            rows: int64 (R,), on the sampler's device.
            slots_RT: int64 slots of the modality; the decoder queries all of them.
            count: Number of slots whose logits are returned.
            factor: Fraction of the guidance in effect, see ``guidance_factor``.
            shown: Input tokens of each branch of the guide; not read on a CPU.
            codebook: The codebook of all these slots; None: each its own.
        """
        ids, inputs, targets = self.ids_BL[rows], self.inputs_BL[rows], slots_RT + self.span.start
        if self.guide.on_device:
            own = (
                slots_RT[:, :count] % self.modality.num_codebooks if codebook is None else codebook
            )
            return self.guide.logits_there(ids, inputs, targets, factor, shown, count, own)
        # The head runs for all slots, because fewer would change the last bit of its products.
        return self.guide.logits(ids, inputs, targets, factor)[:, :count]

    def write(self, rows: Tensor, slots_RN: Tensor, drawn_RN: Tensor) -> None:
        """Store drawn tokens as ids of their slots' codebooks and mark the slots as known."""
        modality = self.modality
        ids = drawn_RN + slots_RN % modality.num_codebooks * modality.codebook_size
        self.ids_BL[rows[:, None], slots_RN + self.span.start] = ids
        self.mark(rows, slots_RN, torch.ones_like(slots_RN, dtype=torch.bool))

    def mark(self, rows: Tensor, slots_RN: Tensor, inputs_RN: Tensor) -> None:
        """Set whether slots are known."""
        self.inputs_BL[rows[:, None], slots_RN + self.span.start] = inputs_RN

    def own(self, rows: Tensor) -> list[torch.Generator]:
        """Return the generators of some rows, whose numbers are on the CPU."""
        return [self.generators[row] for row in rows.tolist()]

    def random(self, own: Sequence[torch.Generator], total: int) -> RandomNumbers:
        """Return the random numbers of some rows, ``total`` each if they are predrawn."""
        return (
            PredrawnNumbers(total, own, self.ids_BL.device)
            if self.guide.on_device
            else FreshNumbers(own)
        )

    def step_done(self, ids_BL: Tensor | None = None, inputs_BL: Tensor | None = None) -> None:
        """Count a step and call ``on_step``."""
        if self.on_step is not None:
            ids, inputs = (self.ids_BL, self.inputs_BL) if ids_BL is None else (ids_BL, inputs_BL)
            assert inputs is not None
            self.on_step(self.modality.name, self.done, self.steps, ids, inputs)
        self.done += 1


def alike(*keys_B: Tensor, batch_size: int) -> list[Tensor]:
    """Return groups of row numbers with equal keys, at most ``batch_size`` rows each."""
    kinds, kind_B = torch.stack(keys_B, 1).unique(dim=0, return_inverse=True)
    same = [(kind_B == kind).nonzero()[:, 0] for kind in range(len(kinds))]
    return [part for rows in same for part in rows.split(batch_size)]
