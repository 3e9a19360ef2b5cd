"""Masks and files of the reference studies, written anew: what the benchmarks compare with.

A clip is one ``.npy`` a modality with ten keyframes or ten copies, and a JSON list of ten captions.
Each sample reads them all, takes one of the ten, tokenises the caption, fills it up with [PAD] and
draws its masks in a loop over modalities. Two things differ, both in favour of the baseline: the
caption's tokenizer is a byte-level BPE of the tokenizers library, fitted on the eleven captions,
called without the wrapper of transformers around GPT-2's; and Dirichlet draws call the sampler
without building a distribution.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from reference_baseline import ABSENT, END, PAD, SLOTS, START, PaddedBatch
from torch import Tensor

import tokenizers
from nano4m.modalities import Modality
from tokenizers import models, pre_tokenizers, processors, trainers

COPIES = 10
CAPTIONS = (
    "cat meowing",
    "chicken clucking",
    "cow lowing",
    "coyote howling",
    "dog barking",
    "duck quacking",
    "horse neighing",
    "lions roaring",
    "pig oinking",
    "sheep bleating",
    "pigeon cooing",
)


def _budget(total: int, most_C: Tensor, generator: torch.Generator) -> Tensor:
    """Split a total by a flat Dirichlet, int64 (C,); what does not fit a modality is lost."""
    flat_C = torch.ones(len(most_C))
    budget_C = (torch._sample_dirichlet(flat_C, generator) * total).long()
    missing = total - int(budget_C.sum())
    if missing > 0:
        more = torch._sample_dirichlet(flat_C.expand(missing, -1).contiguous(), generator)
        budget_C += torch.bincount(more.argmax(1), minlength=len(most_C))
    return torch.minimum(budget_C, most_C)


def _runs(
    given: int, asked: int, length: int, frame: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return positions of one given run of whole frames and of the run asked for right after it."""
    given, asked = given - given % frame, asked - asked % frame
    if given + asked == 0:
        given = frame
    elif given == 0 and asked >= 2 * frame:
        given, asked = frame, asked - frame
    total = min(given + asked, length)
    given = min(given, total)
    places = (length - total) // frame + 1
    start = frame * int(torch.randint(places, (), generator=generator))
    return torch.arange(start, start + given), torch.arange(start + given, start + total)


def mask_sample(
    ids: Sequence[Tensor],
    modalities: tuple[Modality, ...],
    generator: torch.Generator,
    totals: tuple[int, int] = (16, 256),
) -> PaddedBatch:
    """Draw what is given and asked for of one sample, padded to SLOTS; tensors are (slots,).

    Args:
        ids: int64 ids of each modality, captions with their PAD.
        modalities: Of the sample.
        generator: Of everything random here.
        totals: Fewest and most tokens of each side.
    """
    low, high = totals
    length_C = torch.tensor([len(i) for i in ids])
    sides = [int(n) for n in torch.randint(low, high + 1, (2,), generator=generator)]
    given_C = _budget(sides[0], length_C, generator)
    asked_C = _budget(sides[1], length_C - given_C, generator)
    chosen: tuple[list[Tensor], list[Tensor]] = ([], [])
    for m, given, asked in zip(modalities, given_C.tolist(), asked_C.tolist(), strict=True):
        if m.layout == "codebooks":
            pair = _runs(given, asked, m.length, m.columns, generator)
        else:
            order = torch.randperm(m.length, generator=generator)
            pair = order[:given].sort().values, order[given : given + asked].sort().values
        for side, positions in zip(chosen, pair, strict=True):
            side.append(positions)
    fields: list[Tensor] = []
    for positions, filler in zip(chosen, (0, ABSENT), strict=True):
        tokens = torch.cat([i[p] for i, p in zip(ids, positions, strict=True)])[:SLOTS]
        kinds = torch.cat([torch.full_like(p, c) for c, p in enumerate(positions)])[:SLOTS]
        missing = (0, SLOTS - len(tokens))
        fields += [F.pad(tokens, missing, value=filler), F.pad(kinds, missing)]
        fields += [F.pad(torch.cat(positions)[:SLOTS], missing)]
        fields += [F.pad(torch.ones_like(tokens, dtype=torch.bool), missing, value=False)]
    return PaddedBatch(*fields)


def collate(samples: Sequence[PaddedBatch]) -> PaddedBatch:
    """Stack samples to a batch."""
    return PaddedBatch(*(torch.stack(field) for field in zip(*samples, strict=True)))


def caption_tokenizer(longest: int) -> tokenizers.Tokenizer:
    """Fit a BPE on the captions; it frames them with START and END and fills them up with PAD."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=80, show_progress=False)
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[SOS] $A [EOS]", special_tokens=[("[SOS]", START), ("[EOS]", END)]
    )
    tokenizer.enable_padding(length=longest, pad_id=PAD, pad_token="[PAD]")
    return tokenizer


def write_clips(
    folder: Path, count: int, modalities: tuple[Modality, ...], rng: np.random.Generator
) -> None:
    """Write clips of random ids: a folder a modality, a file a clip."""
    for m in modalities:
        (folder / m.name).mkdir(parents=True)
        for clip in range(count):
            if m.is_text:
                text = CAPTIONS[clip % len(CAPTIONS)]
                path = folder / m.name / f"{clip:06d}.json"
                path.write_text(json.dumps([text] * COPIES))
            else:
                ids = rng.integers(m.vocab_size, size=(COPIES, m.length), dtype=np.int32)
                np.save(folder / m.name / f"{clip:06d}.npy", ids)


class ClipFiles:
    """Masked samples, read from files one by one."""

    def __init__(
        self, folder: Path, count: int, modalities: tuple[Modality, ...], seed: int
    ) -> None:
        self.folder, self.count, self.modalities = folder, count, modalities
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        texts = [m.length for m in modalities if m.is_text]
        self.tokenizer = caption_tokenizer(max(texts, default=1))

    def __getitem__(self, clip: int) -> PaddedBatch:
        copy = self.random.randrange(COPIES)
        ids = []
        for m in self.modalities:
            path = self.folder / m.name / f"{clip:06d}"
            if m.is_text:
                text = json.loads(path.with_suffix(".json").read_text())[copy]
                ids.append(torch.tensor(self.tokenizer.encode(text).ids))
            else:
                ids.append(torch.from_numpy(np.load(path.with_suffix(".npy"))[copy]).long())
        return mask_sample(ids, self.modalities, self.generator)

    def batch(self, clips: Sequence[int]) -> PaddedBatch:
        """Return the masked batch of some clips."""
        return collate([self[clip] for clip in clips])
