"""Groups packed into one batch: the same gradients, fillers that change nothing, few shapes."""

from collections import Counter

import numpy as np
import pytest
import torch
from packed_steps import CPU, MODELS, groups_of, model_of, step_of

from conftest import small_config, tiny_table
from nano4m.config.run import MaskingConfig
from nano4m.training.batch_sampler import MASKS
from nano4m.training.batches import masked_batches
from nano4m.training.mixed_precision import MixedPrecisionModule
from nano4m.training.packed_batch import Packer, packer, unpack


@pytest.mark.parametrize("choices", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("passes", [1, 2])
def test_packed_gradients_are_those_of_the_groups(choices, passes):
    table = tiny_table()
    for seed in range(3):
        groups, masking = groups_of(table, seed)
        ours, theirs = (model_of(choices, table) for _ in range(2))
        sums, counts = MixedPrecisionModule(theirs, torch.float32, CPU).gradients(groups)
        size = 32 // passes
        pack = packer(table.modalities, theirs.register is not None, size, masking)
        step = step_of(ours)
        parts = pack.parts(groups, passes)
        assert len(parts) == passes
        for number, part in enumerate(parts):
            step._add_gradients(part, number == 0)
        assert torch.allclose(step.update.sums_C, sums, rtol=1e-5)
        assert torch.equal(step.update.counts_C, counts)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(a.grad, b.grad, atol=1e-6)


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_a_step_takes_the_passes_that_it_is_cut_into(passes):
    """Of groups of one size, whatever their tokens; none waits for a pass of its own."""
    table = tiny_table()
    masking = small_config().masking.model_copy(update={"prefixes": 1})
    pack = packer(table.modalities, True, 32 // passes, masking)
    for seed in range(20):
        groups, _ = groups_of(table, seed, masking)
        parts = pack.parts(groups, passes)
        assert [sum(g[0] for g in p.groups[: p.num_real]) for p in parts] == [32 // passes] * passes


def test_what_fills_a_batch_up_changes_nothing():
    table = tiny_table()
    groups, masking = groups_of(table, 1)
    found = []
    for quantum in (64, 512, 4096):
        model = model_of({}, table)
        batch = packer(table.modalities, True, 40, masking, quantum)(groups)
        assert batch.shape.inputs % quantum == batch.shape.targets % quantum == 0
        step = step_of(model)
        step._add_gradients(batch, True)
        found.append([step.update.sums_C, *(p.grad for p in model.parameters())])
    for other in found[1:]:
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("quantum", [64, 128, 1000])
def test_a_batch_that_is_not_full_is_filled_up(quantum):
    table = tiny_table()
    groups, masking = groups_of(table, 1)
    model = model_of({}, table)
    wanted, _ = MixedPrecisionModule(model, torch.float32, CPU).evaluate(groups)
    for size in (32, 64, 256):
        batch = packer(table.modalities, True, size, masking, quantum)(groups)
        assert min(given for _, given, _ in batch.groups) >= 1
        assert torch.allclose(step_of(model).evaluate([batch]), wanted, rtol=1e-5)


def test_sequences_that_fill_up_hold_whatever_is_left():
    modalities = tiny_table().modalities
    for longest in ((5, 16), (16, 5), (33, 64), (2, 2)):
        for quantum in (64, 4096):
            own = Packer(
                modalities=modalities, has_register=True, batch_size=4, quantum=quantum,
                longest=longest,
            )  # fmt: skip
            for extra in range(0, quantum, 7):
                spare = own.fillers + 4
                found = own._filling(spare + extra, extra, spare)
                assert sum(g for _, g, _ in found) == spare + extra
                assert max(g for _, g, _ in found) <= longest[0]


def test_a_batch_that_is_packed_holds_every_token_once():
    table = tiny_table()
    for seed in range(20):
        groups, masking = groups_of(table, seed)
        batch = packer(table.modalities, True, 32, masking)(groups)
        real = sum(b.input_ids_BN.numel() + b.target_ids_BM.numel() for b in groups)
        assert batch.tokens == real
        assert sum(map(sum, batch.counts)) == sum(b.target_ids_BM.numel() for b in groups)
        assert [len(by_book) for by_book in batch.counts] == [1, 1, 1, 2, 1]
        # Sorted by modality and codebook: the ids of a part are those of its codebook alone.
        tensors = unpack(torch.from_numpy(batch.flat), batch, fused=False)
        ids, first = tensors.target_ids_U[tensors.order_U.long()], 0
        kinds = tensors.target_modality_U[tensors.order_U.long()]
        for c, (modality, by_book) in enumerate(zip(table.modalities, batch.counts, strict=True)):
            for book, count in enumerate(by_book):
                own, size = ids[first : first + count], modality.codebook_size
                assert (own // size == book).all() and (kinds[first : first + count] == c).all()
                first += count
        sizes = np.array(batch.groups)
        assert (sizes[:, 0] * sizes[:, 1]).sum() == batch.shape.inputs
        assert (sizes[:, 0] * sizes[:, 2]).sum() == batch.shape.targets
        assert sizes[:, 0].sum() == batch.shape.sequences
        # Nothing attends to nothing, and nothing is longer than a sample can be.
        assert sizes[:, 1].min() >= 1 and sizes[:, 1:].max() <= batch.shape.longest[0]


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_shapes_repeat_whatever_a_step_is_cut_into(accumulate):
    table = tiny_table(96)
    others = dict.fromkeys(("any_to_any", "inference_aligned", "suffix", "infill"), 0.0)
    limits = {"min_inputs": 2, "max_inputs": 7, "min_targets": 2, "max_targets": 7}
    masking = MaskingConfig(
        **others,
        **limits,
        dirichlet=1.0,
        group_size=8,
        paired_totals=True,
        num_inputs_weights=(1.0,),
    )
    same = np.flatnonzero(table.lengths["caption"][:, 0] == 3)
    pack = packer(table.modalities, True, 32 // accumulate, masking)
    shapes = {
        part.shape
        for step in range(100)
        for part in pack.parts(masked_batches(table, np.resize(same, 32), masking, 0, MASKS, step))
    }
    assert len(shapes) <= (16 if accumulate == 4 else 2)


@pytest.mark.parametrize("name", ["mixture", "paired"])
def test_few_shapes_come_up_in_a_thousand_steps(name):
    table = tiny_table()
    own = {"group_size": 8}
    if name == "paired":
        zeros = dict.fromkeys(("any_to_any", "inference_aligned", "suffix", "infill"), 0.0)
        own |= zeros | {"dirichlet": 1.0, "paired_totals": True, "num_inputs_weights": (1.0,)}
        own |= {"min_inputs": 2, "max_inputs": 12, "min_targets": 2, "max_targets": 8}
    masking = MaskingConfig(**own)
    rows = table.rows("train")
    pack = packer(table.modalities, True, 32, masking)
    picked = np.resize(rows[np.argsort(table.lengths["caption"][rows, 0], kind="stable")], 32)
    shapes = Counter(
        pack(masked_batches(table, picked, masking, 0, MASKS, step)).shape for step in range(1000)
    )
    assert len(shapes) <= (1 if name == "paired" else 45)
