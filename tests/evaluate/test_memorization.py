"""Memorisation: a copier is caught, and a sampler that is independent of the train clips is not."""

from dataclasses import replace

import numpy as np
import pytest
from test_evaluate import Stub, make_evaluator

from nano4m.evaluate import memorization as module
from nano4m.evaluate.memorization import memorization, nearest_train
from nano4m.modalities import MODALITIES
from nano4m.tokens.table import TokenSpec, TokenTable

RGB = MODALITIES["rgb"].with_tokens((4, 4), 16)
SOUND = MODALITIES["sound"].with_tokens((8, 1), 16)
CAPTION = MODALITIES["caption"].with_tokens((5,), 16)
TRAIN, TEST, VIEWS = 300, 120, 2


def draw(rng, count, length):
    """Sequences of one distribution: one of eight prototypes with a third of its tokens redrawn."""
    kinds = np.random.default_rng(7).integers(16, size=(8, length))
    own = kinds[rng.integers(8, size=count)]
    return np.where(rng.random(own.shape) < 0.35, rng.integers(16, size=own.shape), own)


def planted(seed):
    """Return an evaluator and a table of pictures and sounds without any class."""
    rng = np.random.default_rng(seed)
    total = TRAIN + TEST
    ids = {
        m.name: draw(rng, total * VIEWS, m.length).reshape(total, VIEWS, -1).astype(np.uint16)
        for m in (RGB, SOUND)
    }
    table = TokenTable(
        TokenSpec((RGB, SOUND), {"rgb": "0", "sound": "0"}),
        np.array([f"clip{i}" for i in range(total)]), np.array(["one"] * total),
        np.array(["train"] * TRAIN + ["test"] * TEST), ids, {},
    )  # fmt: skip
    return make_evaluator(table, Stub(table)), table, rng


def figure(evaluator, table, generated, target=0):
    real = np.asarray(table.ids[evaluator.names[target]][evaluator.rows])[:, 0]
    return memorization(evaluator, table, table.rows("train"), target, generated, real)


# -- the nearest train sequence ------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 5000, 1 << 20])
def test_the_nearest_is_that_of_a_plain_loop(most, monkeypatch):
    monkeypatch.setattr(module, "MOST_PAIRS", most)
    _, table, rng = planted(0)
    queries, rows = draw(rng, 9, 16), table.rows("train")[:40]
    found = nearest_train(queries, table, RGB, rows)
    for q, query in enumerate(queries):
        equal = [
            ((table.ids["rgb"][row, view] == query).mean(), row, view)
            for row in rows
            for view in range(VIEWS)
        ]
        best = max(share for share, _, _ in equal)
        first = next((row, view) for share, row, view in equal if share == best)
        assert found.equal_Q[q] == best and (found.row_Q[q], found.view_Q[q]) == first


def test_texts_are_compared_up_to_the_longer_end():
    ids = np.array([[3, 4, 0, 0, 0], [3, 4, 5, 6, 0]])[:, None].astype(np.uint16)
    table = TokenTable(
        TokenSpec((CAPTION,), {"caption": "0"}), np.array(["a", "b"]), np.array(["x", "x"]),
        np.array(["train", "train"]), {"caption": ids}, {"caption": np.array([[3], [5]])},
    )  # fmt: skip
    queries = np.array([[3, 4, 0, 9, 9], [3, 4, 5, 0, 0], [7, 7, 7, 7, 0]])
    found = nearest_train(queries, table, CAPTION, np.arange(2))
    assert found.equal_Q.tolist() == pytest.approx([1.0, 3 / 5, 1 / 5])
    assert found.row_Q.tolist() == [0, 1, 1]


# -- who copies ----------------------------------------------------------------------------------


def test_an_independent_sampler_is_at_one_half():
    values, covered = [], 0
    for seed in range(12):
        evaluator, table, rng = planted(seed)
        (found,) = figure(evaluator, table, {1: draw(rng, TEST, 16)})
        values.append(found.value)
        covered += found.low <= 0.5 <= found.high
        assert (found.source, found.target, found.n) == ("sound", "rgb", TEST)
        assert found.made_equal == pytest.approx(found.real_equal, abs=0.07)
    assert np.mean(values) == pytest.approx(0.5, abs=0.04) and covered >= 10


@pytest.mark.parametrize("kept", [1.0, 0.9])
def test_a_planted_copier_is_caught(kept):
    evaluator, table, rng = planted(1)
    sources, views = rng.integers(TRAIN, size=TEST), rng.integers(VIEWS, size=TEST)
    copies = table.ids["rgb"][sources, views].astype(int)
    made = np.where(rng.random(copies.shape) < kept, copies, rng.integers(16, size=copies.shape))
    (found,) = figure(evaluator, table, {1: made})
    assert found.value > 0.9 and found.low > 0.8 and found.made_equal > found.real_equal + 0.2
    clips = {table.clip_ids[row]: i for i, row in enumerate(evaluator.rows)}
    assert len({pair.clip_id for pair in found.closest}) == len(found.closest) == module.SHOWN
    for pair in found.closest:
        place = clips[pair.clip_id]
        assert pair.source == "sound" and pair.train_clip_id == f"clip{sources[place]}"
        assert pair.train_view == views[place] or kept < 1
        own = table.ids["rgb"][sources[place], pair.train_view]
        assert pair.equal == (made[place] == own).mean()


def test_a_copier_of_half_of_the_clips_is_between():
    evaluator, table, rng = planted(2)
    made = draw(rng, TEST, 16)
    made[: TEST // 2] = table.ids["rgb"][: TEST // 2, 0]
    (found,) = figure(evaluator, table, {1: made})
    assert 0.68 < found.value < 0.82 and found.low > 0.55


def test_ties_count_half_and_all_sources_are_together_first():
    evaluator, table, rng = planted(3)
    real = np.asarray(table.ids["rgb"][evaluator.rows])[:, 0]
    made = {1: real, 0: draw(rng, TEST, 16)}
    both, same, other = figure(evaluator, table, made)
    assert same.value == 0.5 and same.made_equal == same.real_equal
    assert both.source is None and both.n == 2 * TEST
    assert both.value == pytest.approx((same.value + other.value) / 2)
    assert both.closest[0].equal == max(same.closest[0].equal, other.closest[0].equal)


def test_clips_of_one_recording_widen_the_interval(monkeypatch):
    evaluator, table, rng = planted(4)
    made = draw(rng, TEST, 16)
    (alone,) = figure(evaluator, table, {1: made})
    monkeypatch.setattr(type(evaluator), "clusters", lambda self, of: np.arange(TEST) // 12)
    made = np.repeat(made[::12], 12, axis=0)
    evaluator.rows[:] = np.repeat(evaluator.rows[::12], 12)
    (joined,) = figure(evaluator, table, {1: made})
    assert joined.clusters == TEST // 12 and joined.effective < TEST / 6
    assert joined.high - joined.low > 2 * (alone.high - alone.low)


def without(evaluator, modality, clips):
    """Return the evaluator of the same clips, some of which lack a modality."""
    valid_BL = evaluator.valid_BL.clone()
    valid_BL[clips, evaluator.tokens.slices[modality]] = False
    return replace(evaluator, valid_BL=valid_BL, _pairs={}, _parts={})


def test_clips_that_lack_a_modality_do_not_count():
    evaluator, table, rng = planted(6)
    made = draw(rng, TEST, 16)
    (whole,) = figure(evaluator, table, {1: made})
    lacking = rng.permutation(TEST)[:30]
    evaluator = without(evaluator, 0, lacking[:20])
    evaluator = without(evaluator, 1, lacking[20:])
    copies = np.asarray(table.ids["rgb"][:30, 0])
    made[lacking] = copies  # if they counted, they would be found
    (found,) = figure(evaluator, table, {1: made})
    assert found.n == TEST - 30 and found.value == pytest.approx(whole.value, abs=0.1)
    named = set(table.clip_ids[evaluator.rows[lacking]].tolist())
    assert not named & {pair.clip_id for pair in found.closest}
    evaluator = without(evaluator, 1, np.arange(TEST))
    assert figure(evaluator, table, {1: made}) == []


def test_without_train_sequences_nothing_is_near():
    _, table, _ = planted(5)
    found = nearest_train(np.zeros((3, 16), np.int64), table, RGB, np.zeros(0, int))
    assert found.equal_Q.tolist() == [0, 0, 0]
