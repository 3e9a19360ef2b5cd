"""Clips that lack modalities: dense groups, few passes, and no absent token is used."""

import dataclasses
import time

import numpy as np
import pytest
import torch
from gaps import MARKED, with_captions, with_gaps

from conftest import small_config, tiny_table
from nano4m.checkpoints.folder import load_model
from nano4m.config.masking import MaskingConfig
from nano4m.masking import STRATEGIES
from nano4m.tokens.table import FREE, Samples
from nano4m.training.batch_sampler import BatchSampler
from nano4m.training.batches import BatchMaker, masked_batches
from nano4m.training.packed_batch import packer
from nano4m.training.trainer import train_model
from nano4m.training.validation import validation_batches, validation_masks

# One prefix of a caption a clip, so that each row is a clip.
MASKING = small_config().masking.model_copy(update={"prefixes": 1})
SHARES = (0.0, 0.1, 0.3, 0.5)


def _sampler(table, seed=0, groups=2, rows=None):
    samples = table.variants(table.rows("train") if rows is None else rows)
    return BatchSampler(samples, table.counts(*samples), MASKING.group_size, groups, seed)


def _maker(table, batch_size=16):
    own = packer(table.modalities, True, batch_size, MASKING)
    return BatchMaker(masking=MASKING, seed=0, steps=100, packer=own)


@pytest.mark.parametrize("missing", SHARES)
def test_a_step_takes_one_pass_a_group_whatever_clips_lack(missing):
    table = with_captions(with_gaps(missing))
    maker = _maker(table, 32)
    for number, picked in enumerate(_sampler(table, groups=4).steps(0, 12)):
        batches = maker.masked(table, number, picked)
        assert len(batches) == 4 and {len(b.input_ids_BN) for b in batches} == {8}


@pytest.mark.parametrize("seed", range(3))
def test_groups_have_equal_counts_and_free_views_are_drawn(seed):
    table = with_captions(with_gaps(0.3, seed=seed), seed=seed)
    frames = set()
    for number, (rows, views) in enumerate(_sampler(table, seed).steps(0, 40)):
        drawn = table.draw_views(Samples(rows, views), np.random.default_rng(number))
        assert ((drawn == views) | (views == FREE)).all() and (drawn >= 0).all()
        assert (drawn[:, 0] == drawn[:, 1]).all(), "pictures and depth are one frame"
        frames |= set(drawn[:, 0].tolist())
        counts = table.counts(rows, drawn).reshape(2, 8, -1)
        assert (counts == counts[:, :1]).all()
        ids, valid = table.gather(rows, drawn)
        assert np.array_equal(valid.sum(1), counts.reshape(16, -1).sum(1)) and not ids[~valid].any()
    assert frames == {0, 1, 2}


def _uses(steps, order, rows, seeds):
    found = np.zeros((seeds, rows))
    for seed in range(seeds):
        taken = np.concatenate([step.rows for step in order(seed).steps(0, steps)])
        found[seed] = np.bincount(taken, minlength=rows)
    return found


@pytest.mark.parametrize("steps", [2, 9, 40])
def test_rare_and_common_clips_are_expected_equally_often_in_runs_of_any_length(steps):
    """One clip alone of its kind, pairs, and a common kind: the same mean over seeds."""
    counts = np.array([[4, 1]] * 70 + [[4, 0]] * 9 + [[0, 2]] * 2 + [[3, 3]])
    samples = Samples(np.arange(82), np.full((82, 2), FREE))
    seeds = 500
    found = _uses(steps, lambda s: BatchSampler(samples, counts, 8, 2, s), 82, seeds)
    expected = steps * 16 / 82
    kinds = (slice(0, 70), slice(70, 79), slice(79, 81), slice(81, 82))
    for kind in kinds:
        means = found[:, kind].mean(1)
        error = means.std() / np.sqrt(seeds)
        assert abs(means.mean() - expected) < 4.5 * error + 0.02 * expected, kind


@pytest.mark.parametrize("seed", range(2))
def test_every_caption_of_a_clip_is_used_equally_often(seed):
    table = with_captions(with_gaps(0.2), captions=3)
    rows = table.rows("train")
    order = _sampler(table, seed)
    steps = 6 * 3 * len(rows) // 16
    used = np.zeros((len(table.clip_ids), 3))
    for picked in order.steps(0, steps):
        np.add.at(used, (picked.rows, picked.views[:, 4]), 1)
    assert abs(used[rows].mean() - 6) < 0.2 and abs(used[rows].mean(0) - 6).max() < 0.4
    assert not used[table.rows("val")].any()


@pytest.mark.parametrize("start", [1, 13, 150])
def test_a_later_start_gives_the_same_samples(start):
    table = with_captions(with_gaps(0.3))
    whole = list(_sampler(table).steps(0, 160))[start:]
    for one, other in zip(whole, _sampler(table).steps(start, 160), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_epoch_of_a_million_clips_takes_less_than_two_seconds():
    rng = np.random.default_rng(0)
    counts = np.array([16, 16, 16, 64, 1]) * (rng.random((1_000_000, 5)) < 0.7)
    counts[:, 4] = rng.integers(4, 28, len(counts))
    samples = Samples(np.arange(len(counts)), np.full(counts.shape, FREE, dtype=np.int8))
    order = BatchSampler(samples, counts, 16, 4, 0)
    seconds = []
    for step in (0, 10**6):
        begun = time.process_time()
        next(order.steps(step, step + 1))
        seconds.append(time.process_time() - begun)
    assert max(seconds) < 2, seconds


def _marked(batch, names):
    """Return whether an input or a target has an id that only absent slots hold."""
    found = False
    for ids, index in (
        (batch.input_ids_BN, batch.input_modality_BN),
        (batch.target_ids_BM, batch.target_modality_BM),
    ):
        marks = torch.tensor([MARKED[name] for name in names])
        found |= bool((ids == marks[index]).any())
    return found


ALONE = {name: {n: float(n == name) for n in STRATEGIES} for name in STRATEGIES}
BUDGETS = {"min_inputs": 2, "max_inputs": 7, "min_targets": 2, "max_targets": 7}
SETTINGS = ALONE | {
    "mixture": {},
    "pairs": ALONE["dirichlet"] | BUDGETS | {"paired_totals": True, "num_inputs_weights": (1.0,)},
    "one source": ALONE["any_to_any"] | {"num_inputs_weights": (0.0, 1.0)},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_absent_tokens_are_never_inputs_or_targets(name):
    """Of no strategy, also with clips that have a single modality."""
    config = MaskingConfig(**{"group_size": 8} | SETTINGS[name])
    table = with_gaps(0.5, keep=())
    names = [m.name for m in table.modalities]
    order = _sampler(table)
    present = order.counts > 0
    assert (present.sum(1) == 1).any() and (present.sum(1) == 5).any()
    for step, (rows, views) in enumerate(order.steps(0, 60)):
        for batch in masked_batches(table, rows, config, 0, 2, step, 0.5, views):
            assert not _marked(batch, names)


def test_a_table_that_calls_absent_tokens_present_is_caught():
    table = with_gaps(0.5, keep=())
    lengths = {"caption": table.lengths["caption"]}
    planted = dataclasses.replace(table, lengths=lengths)
    (row, *_) = np.flatnonzero(table.present("caption") & ~table.present("sound"))
    for whole, leaks in ((table, False), (planted, True)):
        found = [
            _marked(batch, [m.name for m in table.modalities])
            for step in range(10)
            for batch in masked_batches(whole, np.repeat(row, 8), MASKING, 0, 2, step)
        ]
        assert any(found) == leaks


@pytest.mark.parametrize("packed", ["off", "on"])
def test_training_with_gaps_resumes_to_the_same_bits(tmp_path, packed):
    table = with_captions(with_gaps(0.3))
    config = small_config(packed=packed)
    weights = []
    for folder, stop in (("whole", 99), ("again", 99), ("halves", 5)):
        (tmp_path / folder).mkdir()
        try:
            train_model(config, table, tmp_path / folder, lambda step, stop=stop: step == stop)
        except KeyboardInterrupt:
            train_model(config, table, tmp_path / folder)
        model, _ = load_model(tmp_path / folder / "checkpoint")
        weights.append(model.state_dict())
    for other in weights[1:]:
        assert all(torch.equal(v, other[k]) for k, v in weights[0].items())


def test_validation_is_in_groups_of_equal_counts_and_holds_every_row():
    table = with_captions(with_gaps(0.3))
    rows = np.resize(table.rows("val"), 50)
    config = small_config()
    batches = validation_batches(table, rows, config)
    assert sum(len(b.input_ids_BN) for b in batches) == 50
    again = validation_batches(table, rows, config)
    assert all(torch.equal(a, b) for x, y in zip(batches, again, strict=True)
               for a, b in zip(x, y, strict=True))  # fmt: skip
    whole = validation_batches(tiny_table(), np.repeat(tiny_table().rows("val")[:1], 32), config)
    assert len(whole) == 32 // validation_masks(config).group_size
