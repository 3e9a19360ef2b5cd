"""Packed batches: the groups of a step concatenated, with repeating shapes.

A GPU is fast with few, large kernels launched in the same order at every step. So all samples of a
step, of any lengths, form one row of tokens; the boundaries of samples are data, and the number of
tokens is padded to a multiple of a quantum. The padding consists of filler sequences, which no
sample attends to and which have no targets, so real tokens give the same results as alone.

All data of a step are one int32 array, which reaches the device in one copy.

Shapes: S sequences, T inputs and U targets of all of them, C modalities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nano4m.config.masking import MaskingConfig
from nano4m.modalities import Modality
from nano4m.model.attention import Segments
from nano4m.model.fourm import PackedTensors
from nano4m.tokens.batch import MaskedBatch
from nano4m.training.loss import count_targets, modality_weights

ALIGNED = 64
"""Quantum if all steps have equally many tokens."""
FRACTION = 8
"""Otherwise the quantum is the longest batch over this, for few distinct shapes."""


@dataclass(frozen=True)
class PackedShape:
    """Everything on which the kernels of a step depend.

    Attributes:
        inputs, targets: T and U, padded.
        sequences: S.
        longest: Maximum inputs and targets of a sample in the run.
    """

    inputs: int
    targets: int
    sequences: int
    longest: tuple[int, int]


@dataclass(frozen=True)
class PackedBatch:
    """A packed batch on the host.

    Attributes:
        shape: Shape of its tensors.
        flat: int32, all of ``PackedTensors`` concatenated.
        counts: Targets of each codebook of each modality.
        groups: (samples, inputs with register, targets) of each group, then of the filler
            sequences.
        num_real: Number of groups without the filler.
        tokens: Real tokens, inputs and targets.
    """

    shape: PackedShape
    flat: np.ndarray
    counts: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[int, int, int], ...]
    num_real: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Packer:
    """Packs the groups of a step.

    Args:
        modalities: Modalities of the model.
        has_register: Whether each sample begins with a register token.
        batch_size: Maximum samples of a packed batch.
        quantum: Numbers of inputs and of targets are padded to a multiple of it.
        longest: Maximum inputs, register included, and targets of a sample.
    """

    modalities: tuple[Modality, ...]
    has_register: bool
    batch_size: int
    quantum: int
    longest: tuple[int, int]

    @cached_property
    def fillers(self) -> int:
        """Filler sequences of a full batch: enough for a whole quantum and one input each."""
        return -(-self.quantum // max(1, min(self.longest[0] - 1, self.longest[1]))) + 1

    @cached_property
    def codebooks(self) -> tuple[np.ndarray, np.ndarray]:
        """Number of the first codebook of each modality, and how many it has, int64 (C,) each."""
        books_C = np.array([m.num_codebooks for m in self.modalities])
        return books_C.cumsum() - books_C, books_C

    def parts(self, batches: Sequence[MaskedBatch], passes: int = 1) -> list[PackedBatch]:
        """Return a step as packed batches of about equally many samples, with its loss weights.

        Args:
            batches: Groups of the step, which stay whole and in order.
            passes: Number of packed batches; more where one cannot hold its samples.
        """
        weights_C = modality_weights(count_targets(batches, len(self.modalities)))
        ends = np.cumsum([len(b.input_ids_BN) for b in batches])
        # A group belongs to the part in which its middle lies.
        middle = ends - np.diff(ends, prepend=0) / 2
        which = (middle * passes / ends[-1]).astype(np.int64).tolist()
        parts: list[list[MaskedBatch]] = []
        samples, held = 0, -1
        for batch, part in zip(batches, which, strict=True):
            if part != held or samples + len(batch.input_ids_BN) > self.batch_size:
                parts.append([])
                samples, held = 0, part
            parts[-1].append(batch)
            samples += len(batch.input_ids_BN)
        return [self(part, weights_C) for part in parts]

    def __call__(
        self, batches: Sequence[MaskedBatch], weights_C: Tensor | None = None
    ) -> PackedBatch:
        """Return the samples of ``batches`` concatenated, group after group.

        Args:
            batches: Groups, each of one length.
            weights_C: float32, loss weight of a target of each modality; None: those of these
                batches.

        Raises:
            ValueError: More samples than ``batch_size``.
        """
        register = int(self.has_register)
        sizes = [
            (len(b.input_ids_BN), b.input_ids_BN.shape[1], b.target_ids_BM.shape[1])
            for b in batches
        ]
        samples = sum(rows for rows, _, _ in sizes)
        if samples > self.batch_size:
            raise ValueError(f"{samples} samples do not fit a packed batch of {self.batch_size}")
        num_inputs = sum(rows * (n + register) for rows, n, _ in sizes)
        num_targets = sum(rows * m for rows, _, m in sizes)
        # Filler sequences also replace the samples that an incomplete batch lacks.
        spare = self.fillers + self.batch_size - samples
        # Each filler sequence has an input, because attention without keys is undefined.
        inputs = -(-(num_inputs + spare) // self.quantum) * self.quantum
        targets = -(-num_targets // self.quantum) * self.quantum
        groups = [(rows, n + register, m) for rows, n, m in sizes]
        groups += self._filling(inputs - num_inputs, targets - num_targets, spare)
        target_modality = np.concatenate(
            [b.target_modality_BM.numpy().reshape(-1) for b in batches]
        )
        codebook = np.concatenate(
            [b.target_coords_BM2[..., 1].numpy().reshape(-1) for b in batches]
        )
        # Numbers of the codebooks of all modalities, in order.
        first_C, books_C = self.codebooks
        kind = first_C[target_modality] + np.minimum(codebook, books_C[target_modality] - 1)
        by_kind = np.bincount(kind, minlength=int(books_C.sum()))
        counts = np.add.reduceat(by_kind, first_C)
        if weights_C is None:
            weights_C = modality_weights(torch.from_numpy(counts).float())
        starts = [np.repeat([g[i] for g in groups], [g[0] for g in groups]) for i in (1, 2)]
        order = np.arange(targets, dtype=np.int32)
        order[:num_targets] = np.argsort(kind, kind="stable")
        parts = [
            *(self._inputs([getattr(b, f"input_{f}") for b in batches], register, inputs, fill)
              for f, fill in (("ids_BN", -1), ("modality_BN", 0), ("coords_BN2", 0))),
            *(_padded([getattr(b, f"target_{f}").numpy().reshape(-1) for b in batches], targets * w)
              for f, w in (("ids_BM", 1), ("modality_BM", 1), ("coords_BM2", 2))),
            order,
            weights_C.numpy().view(np.int32),
            counts.astype(np.float32).view(np.int32),
            *(np.concatenate([[0], np.cumsum(lengths)]) for lengths in starts),
        ]  # fmt: skip
        flat = np.concatenate([np.asarray(part, dtype=np.int32).reshape(-1) for part in parts])
        shape = PackedShape(inputs, targets, len(starts[0]), self.longest)
        tokens = num_inputs - samples * register + num_targets
        found = tuple(
            tuple(by_kind[first : first + books].tolist())
            for first, books in zip(first_C, books_C, strict=True)
        )
        return PackedBatch(shape, flat, found, tuple(groups), len(batches), tokens)

    def _filling(self, inputs: int, targets: int, sequences: int) -> list[tuple[int, int, int]]:
        """Return the filler sequences, none longer than a sample can be."""
        found = []
        for left in range(sequences, 0, -1):
            num_inputs = min(self.longest[0], inputs - (left - 1))
            num_targets = min(self.longest[1], targets)
            found.append((1, num_inputs, num_targets))
            inputs, targets = inputs - num_inputs, targets - num_targets
        assert not inputs and not targets, "the sequences that fill up hold a whole quantum"
        assert all(num_inputs > 0 for _, num_inputs, _ in found), "each has an input"
        return found

    def _inputs(self, parts: Sequence[Tensor], register: int, total: int, fill: int) -> np.ndarray:
        """Return inputs concatenated, each sample's register (``fill``) first."""
        width = parts[0].shape[2] if parts[0].ndim == 3 else 1
        flat = np.full((total, width), fill, dtype=np.int32)
        place = 0
        for part in parts:
            rows, length = part.shape[:2]
            end = place + rows * (length + register)
            own = flat[place:end].reshape(rows, length + register, width)
            own[:, register:] = part.numpy().reshape(rows, length, width)
            place = end
        return flat


def _padded(parts: Sequence[np.ndarray], total: int) -> np.ndarray:
    flat = np.zeros(total, dtype=np.int32)
    joined = np.concatenate(parts)
    flat[: len(joined)] = joined
    return flat


def most_rows(modalities: Sequence[Modality], masking: MaskingConfig) -> int:
    """Return the most rows of a batch that one clip can fill."""
    if not masking.uses("any_to_any", "inference_aligned"):
        return 1
    texts = [min(m.length, masking.prefixes_of(m.length)) for m in modalities if m.is_text]
    return 1 + sum(number - 1 for number in texts)


def packer(
    modalities: tuple[Modality, ...],
    has_register: bool,
    batch_size: int,
    masking: MaskingConfig,
    quantum: int | None = None,
) -> Packer:
    """Return the packer of a run; see ``TrainConfig.quantum`` for the default of None.

    A packed batch has room for ``batch_size`` clips, each in as many rows as its caption's prefixes
    can take.
    """
    if quantum is None:
        slots = sum(m.length for m in modalities) * batch_size
        # Totals are constant only over whole pairs of groups.
        repeats = masking.totals_repeat and batch_size % (2 * masking.group_size) == 0
        quantum = ALIGNED if repeats else -(-slots // FRACTION // ALIGNED) * ALIGNED
    # Kernels for sequences of any lengths are launched for the longest possible one.
    slots = sum(m.length for m in modalities)
    longest = slots, slots
    if masking.totals_repeat:
        longest = min(slots, masking.max_inputs or slots), min(slots, masking.max_targets or slots)
    return Packer(
        longest=(longest[0] + 1, longest[1]),
        modalities=modalities,
        has_register=has_register,
        batch_size=batch_size * most_rows(modalities, masking),
        quantum=max(ALIGNED, quantum),
    )


def unpack(flat: Tensor, batch: PackedBatch, fused: bool) -> PackedTensors:
    """Return the tensors of a packed batch, views of ``flat`` (int32, on any device).

    Args:
        flat: As long as ``batch.flat``, with its content.
        batch: Batch whose shape it has.
        fused: Whether a kernel supports sequences of different lengths; see ``Segments.groups``.
    """
    shape, modalities = batch.shape, len(batch.counts)
    t, u, s = shape.inputs, shape.targets, shape.sequences + 1
    sizes = [t, t, 2 * t, u, u, 2 * u, u, modalities, modalities, s, s]
    (
        ids,
        kinds,
        coords,
        target_ids,
        target_kinds,
        target_coords,
        order,
        weights,
        counts,
        input_side,
        target_side,
    ) = flat.split(sizes)
    groups = batch.groups

    def segments(queries: Tensor, keys: Tensor, own: int, other: int) -> Segments:
        pairs = () if fused else tuple((g[0], g[own], g[other]) for g in groups)
        longest = shape.longest
        return Segments(queries, keys, longest[own - 1], longest[other - 1], pairs)

    return PackedTensors(
        ids, kinds, coords.view(-1, 2), target_ids, target_kinds, target_coords.view(-1, 2), order,
        weights.view(torch.float32), counts.view(torch.float32),
        segments(input_side, input_side, 1, 1), segments(target_side, target_side, 2, 2),
        segments(target_side, input_side, 2, 1),
    )  # fmt: skip
