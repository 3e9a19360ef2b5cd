"""Validation compares runs: the same clips and masks whatever the seed and the mixture of masks."""

import numpy as np
import pytest
import torch

from conftest import small_config, tiny_table
from nano4m.config.masking import MaskingConfig
from nano4m.masking.conditions import levels_of
from nano4m.tokens.batch import TokenSequence
from nano4m.training.trainer import Trainer, train_model
from nano4m.training.validation import validation_batches, validation_masks, validation_rows


def _trainer(table, folder, masking=None, seed=0, **train):
    from nano4m.compute.distributed import DistributedContext

    config = small_config(**train).model_copy(update={"seed": seed})
    if masking is not None:
        config = config.model_copy(update={"masking": masking})
    return Trainer(config, table, folder, DistributedContext(torch.device("cpu")))


@pytest.mark.parametrize("count", [5, 20, 40, 100])
def test_clips_in_the_order_of_their_names_are_stratified_by_class(count):
    """Ten classes, one folder after the other: the first rows would be one class."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 400, 10)
    labels = np.repeat([f"class {c}" for c in range(10)], sizes)
    rows = 1000 + np.arange(len(labels))
    chosen = validation_rows(rows, labels, count)
    assert len(set(chosen)) == count and set(chosen) <= set(rows)
    _, found = np.unique(labels[chosen - 1000], return_counts=True)
    assert found.max() - found.min() <= 1 and len(found) == min(10, count)
    assert np.array_equal(chosen, validation_rows(rows, labels, count))
    # The planted fault: the first rows.
    assert len(np.unique(labels[:count])) < len(found)


def test_a_rare_class_gives_all_it_has_and_few_clips_are_repeated():
    labels = np.array(["a"] * 3 + ["b"] * 50 + ["c"] * 50)
    chosen = validation_rows(np.arange(103), labels, 63)
    assert [int((labels[chosen] == c).sum()) for c in "abc"] == [3, 30, 30]
    times = np.bincount(validation_rows(np.arange(7), np.array(list("aaaaabb")), 30), minlength=7)
    assert times.sum() == 30 and times.max() - times.min() == 1


def test_every_seed_and_mixture_is_validated_on_the_same_batches(tmp_path):
    table = tiny_table(96)
    others = MaskingConfig(any_to_any=0, dirichlet=1, inference_aligned=0, suffix=0, infill=0,
                           group_size=8)  # fmt: skip
    more = MaskingConfig(prefixes=4, decode_steps=(1, 2), num_inputs_weights=(0, 1), group_size=4,
                         decode_orders=("raster",), codebooks="together")  # fmt: skip
    found = [
        _trainer(table, tmp_path / str(number), masking, seed).validation
        for number, (masking, seed) in enumerate([(None, 0), (None, 7), (others, 3), (more, 1)])
    ]
    for batches in found[1:]:
        for ours, theirs in zip(found[0], batches, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_its_masks_are_those_of_generation():
    table = tiny_table(96)
    sequence = TokenSequence(table.modalities)
    masks = validation_masks(small_config())
    assert masks.uses("inference_aligned") and not masks.uses("any_to_any", "dirichlet", "suffix")
    targets = set()
    rows = validation_rows(table.rows("val"), table.labels[table.rows("val")], 256)
    for batch in validation_batches(table, rows, small_config()):
        kinds = batch.target_modality_BM.unique().tolist()
        assert len(kinds) == 1
        targets.add(kinds[0])
        if sequence.modalities[kinds[0]].is_text:
            assert batch.target_ids_BM.shape[1] == 1
    assert targets == set(range(5))
    assert levels_of(masks, sequence) == [1, 1, 1, 2, 0]


def test_the_loss_of_validation_needs_no_luck(tmp_path):
    """Another seed of the run changes its weights, not what they are measured on."""
    table = tiny_table(96)
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
    losses = [
        train_model(
            small_config(steps=4, lr=1e-9, val_samples=64, dropout=0.0).model_copy(
                update={"seed": seed}
            ),
            table, tmp_path / str(seed),
        )["val"]
        for seed in (0, 1)
    ]  # fmt: skip
    for name, value in losses[0].items():
        assert value == pytest.approx(losses[1][name], rel=0.05)
