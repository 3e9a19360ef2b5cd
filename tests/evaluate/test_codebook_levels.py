"""Likelihoods of several codebooks follow the levels of decoding, over one codebook's ids each."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_evaluate import Oracle, Stub, make_evaluator, make_table, random_model

from conftest import with_codebooks
from nano4m.evaluate.cross_entropy import half_inputs, half_of_itself
from nano4m.masking.level_states import level_states

SOUND = 1


@pytest.fixture(params=[1, 2, 8])
def books(request):
    return request.param


def by_hand(evaluator, inputs_BL, targets_BT):
    """Each clip alone, level by level, from the rows of the head."""
    model, tokens, span = evaluator.model, evaluator.tokens, evaluator.tokens.slices[SOUND]
    modality, total = tokens.modalities[SOUND], []
    for ids_L, inputs_L, targets_T in zip(evaluator.ids_BL, inputs_BL, targets_BT, strict=True):
        inputs_L, log_p = inputs_L.clone(), 0.0
        for book in range(modality.shape[1]):
            slots = [s for s in range(book, modality.length, modality.shape[1]) if targets_T[s]]
            if not slots:
                continue
            asked, seen = torch.tensor(slots)[None] + span.start, inputs_L.nonzero()[:, 0][None]
            with torch.no_grad():
                context = model.encode(ids_L[seen], tokens.modality_L[seen], tokens.coords_L2[seen])
                states = model.decode(context, tokens.modality_L[asked], tokens.coords_L2[asked])
                rows = model.heads[SOUND].weight[4 * book : 4 * book + 4]
                scores = (states[0] @ rows.T).double().log_softmax(-1)
            log_p += sum(
                float(row[int(ids_L[slot]) - 4 * book])
                for row, slot in zip(scores, asked[0], strict=True)
            )
            inputs_L[asked[0]] = True
        total.append(log_p)
    return np.array(total)


def test_the_log_probability_of_a_clip_is_the_sum_over_levels(books):
    table = with_codebooks(make_table(4), 2, books, 4)
    evaluator = make_evaluator(table, random_model(table))
    span = evaluator.tokens.slices[SOUND]
    for sources in ([], [0], [0, 2]):
        ids, inputs = evaluator.inputs(sources)
        wanted = by_hand(evaluator, inputs, evaluator.valid_BL[:, span])
        assert evaluator.own(SOUND, ids, inputs) == pytest.approx(wanted, abs=1e-4)
        assert evaluator.own_given(SOUND, sources) == pytest.approx(wanted, abs=1e-4)
    # A part of the sound is given, another number of tokens in each clip and level.
    given = torch.rand(len(evaluator), 2 * books, generator=torch.Generator().manual_seed(0)) < 0.4
    inputs = torch.zeros_like(evaluator.valid_BL)
    inputs[:, span] = given
    found = evaluator.own(SOUND, evaluator.ids_BL * inputs, inputs, ~given)
    assert found == pytest.approx(by_hand(evaluator, inputs, ~given), abs=1e-4)


def test_a_uniform_model_pays_for_one_codebook(books):
    table = with_codebooks(make_table(4), 2, books, 4)
    evaluator = make_evaluator(table, Stub(table))
    wanted = 2 * books * math.log(4)
    for sources in ([], [0], [0, 2]):
        assert evaluator.own_given(SOUND, sources) == pytest.approx(-wanted, abs=1e-3)
    assert evaluator.pairwise(0, SOUND) == pytest.approx(-wanted, abs=1e-3)
    nats, count = half_of_itself(evaluator, SOUND)
    assert nats / count == pytest.approx(math.log(4), abs=1e-5)


def test_what_the_first_codebook_tells_of_the_second_counts_and_not_at_once():
    table = with_codebooks(make_table(4), 2, 2, 4)
    # The first codebook is a coin in each frame; the second repeats it.
    coins = np.random.default_rng(3).integers(4, size=(len(table.labels), 1, 2))
    coins[len(coins) // 2 :] = coins[: len(coins) // 2]
    table.ids["sound"] = np.stack([coins, coins + 4], -1).reshape(len(coins), 1, 4)
    evaluator = make_evaluator(table, Oracle(table))
    levels, at_once = evaluator.own_given(SOUND, []), evaluator.unconditional(SOUND)
    first = torch.tensor([[True, False, True, False]]).expand(len(evaluator), -1)
    ids, inputs = evaluator.inputs([])
    assert levels == pytest.approx(evaluator.own(SOUND, ids, inputs, first), abs=1e-3)
    assert at_once == pytest.approx(2 * levels, rel=1e-3) and (at_once < levels - 1).all()


def test_one_codebook_takes_what_the_pairs_have_computed():
    table = make_table(4)
    evaluator = make_evaluator(table, random_model(table))
    pairs = evaluator.pairwise(0, SOUND)
    assert np.array_equal(evaluator.own_given(SOUND, [0]), np.diag(pairs))
    assert evaluator.own_given(SOUND, [0]) == pytest.approx(
        evaluator.own(SOUND, *evaluator.inputs([0])), abs=1e-4
    )
    rows = np.roll(np.arange(len(evaluator)), 1)
    moved = evaluator.own_given(SOUND, [0], rows)
    assert moved == pytest.approx(pairs[rows, np.arange(len(rows))], abs=1e-4)


def test_the_given_half_is_of_whole_frames_that_decoding_may_begin_with(books):
    table = with_codebooks(make_table(6), 6, books, 4)
    evaluator = make_evaluator(table, Stub(table))
    inputs_BT = half_inputs(evaluator, SOUND)
    assert (inputs_BT.sum(1) == 3 * books).all() and len(inputs_BT.unique(dim=0)) > 1
    for level in range(books):
        asked_BT = ~inputs_BT & (torch.arange(6 * books) % books == level)
        states = level_states(inputs_BT, asked_BT, torch.ones_like(inputs_BT), books)
        assert (states.level_B == level).all()
        inputs_BT = inputs_BT | asked_BT


def test_codebooks_that_are_decoded_together_are_rated_together(books):
    table = with_codebooks(make_table(4), 2, books, 4)
    evaluator = replace(make_evaluator(table, random_model(table)), together=True)
    assert evaluator.levels(SOUND) == 1
    at_once = evaluator.unconditional(SOUND)
    assert evaluator.own_given(SOUND, []) == pytest.approx(at_once)
    assert evaluator.own(SOUND, *evaluator.inputs([])) == pytest.approx(at_once, abs=1e-4)
    # Any tokens are the given half, as in the masks of training.
    frames = half_inputs(evaluator, SOUND).unflatten(1, (2, books))
    assert (frames.sum((1, 2)) == books).all()
