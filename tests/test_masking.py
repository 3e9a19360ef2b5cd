"""Masking: properties over many seeds, planted faults, and the conditions that generation needs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import tiny_modalities, tiny_table
from nano4m.batch import TokenSequence, pack
from nano4m.config import MaskingConfig
from nano4m.masking import STRATEGIES, mask, place

TOKENS = TokenSequence(tiny_modalities())


def _batch(rows=16, seed=0):
    table = tiny_table(seed=seed)
    ids, valid = table.gather(np.arange(rows), None)
    return torch.from_numpy(ids), torch.from_numpy(valid)


def _config(name: str, **more) -> MaskingConfig:
    weights = {n: float(n == name) for n in STRATEGIES}
    return MaskingConfig(**weights, group_size=8, **more)


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_batches_are_dense_disjoint_and_lose_nothing(name, seed):
    ids, valid = _batch()
    # Every id is its own slot number, so that a token tells where it comes from.
    slots = torch.arange(TOKENS.length).expand_as(ids)
    batches = mask(slots, valid, TOKENS, _config(name), torch.Generator().manual_seed(seed))
    assert sum(len(b.enc_ids_BN) for b in batches) == len(ids)
    for b in batches:
        assert b.dec_ids_BM.shape[1] >= 1
        for row in range(len(b.enc_ids_BN)):
            inputs, targets = b.enc_ids_BN[row].tolist(), b.dec_ids_BM[row].tolist()
            assert len(set(inputs)) == len(inputs) and len(set(targets)) == len(targets)
            assert not set(inputs) & set(targets)
        assert torch.equal(b.enc_modality_BN, TOKENS.modality_L[b.enc_ids_BN])
        assert torch.equal(b.dec_coords_BM2, TOKENS.coords_L2[b.dec_ids_BM])


@pytest.mark.parametrize("name", STRATEGIES)
def test_padding_is_never_an_input_or_a_target(name):
    ids, valid = _batch()
    poisoned = ids.masked_fill(~valid, 999)
    for seed in range(200):
        for b in mask(poisoned, valid, TOKENS, _config(name), torch.Generator().manual_seed(seed)):
            assert (b.enc_ids_BN != 999).all() and (b.dec_ids_BM != 999).all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_texts_are_given_from_the_start_and_asked_for_from_where_that_ends(name):
    ids, valid = _batch()
    caption = TOKENS.index("caption")
    seen = 0
    for seed in range(100):
        for b in mask(ids, valid, TOKENS, _config(name), torch.Generator().manual_seed(seed)):
            for row in range(len(b.enc_ids_BN)):
                given = b.enc_coords_BN2[row, b.enc_modality_BN[row] == caption, 0].tolist()
                asked = b.dec_coords_BM2[row, b.dec_modality_BM[row] == caption, 0].tolist()
                assert given == list(range(len(given)))
                assert asked == list(range(len(given), len(given) + len(asked)))
                seen += bool(asked)
    assert seen > 100


def test_dirichlet_totals_are_exact_and_alphas_change_the_spread():
    _, valid = _batch(48)
    counts = TOKENS.count(valid)
    largest = {}
    for alpha in (0.05, 50.0):
        config = _config("dirichlet", alphas=(alpha,), max_inputs=12, max_targets=6)
        shares = []
        for seed in range(100):
            draw = torch.Generator().manual_seed(seed)
            budgets = STRATEGIES["dirichlet"](counts, TOKENS, config, draw)
            for budget in budgets:
                assert len(set(budget.sum(1).tolist())) == 1
            assert (budgets.inputs_BC + budgets.targets_BC <= counts).all()
            total = budgets.inputs_BC.sum(1, keepdim=True)
            if int(total[0]) >= 6:
                shares.append((budgets.inputs_BC / total).max(1).values)
        largest[alpha] = float(torch.cat(shares).mean())
    assert largest[0.05] > largest[50.0] + 0.1


def test_the_default_mixture_trains_what_generation_asks_for():
    """The share of every condition that a probe or a generation call uses, of 20,000 samples."""
    ids, valid = _batch(16)
    config = MaskingConfig(group_size=8)
    counts = TOKENS.count(valid)
    names = [m.name for m in TOKENS.modalities]
    whole = {(a, b): 0 for a in names for b in names if a != b}
    halfway = dict(whole)
    nothing, next_token, samples = 0, 0, 0
    for seed in range(1250):
        for b in mask(ids, valid, TOKENS, config, torch.Generator().manual_seed(seed)):
            n = len(b.enc_ids_BN)
            samples += n
            given = torch.bincount(b.enc_modality_BN[0], minlength=5).tolist()
            asked = torch.bincount(b.dec_modality_BM[0], minlength=5).tolist()
            full = [g + a for g, a in zip(given, asked, strict=True)]
            if not sum(given):
                nothing += n
            for s, source in enumerate(names):
                others = [g for i, g in enumerate(given) if i != s]
                if asked[s] == 0 and given[s] and full[s] in counts[:, s].tolist():
                    for t, target in enumerate(names):
                        if t == s or not asked[t]:
                            continue
                        if sum(others) == 0:
                            whole[source, target] += n
                        elif sum(others) == given[t]:
                            halfway[source, target] += n
            next_token += n * (asked[4] == 1)
    assert samples == 20_000
    for pair, count in whole.items():
        print(f"{pair[0]} alone -> {pair[1]}: {count / samples:.1%} whole, "
              f"{halfway[pair] / samples:.1%} with a part known")  # fmt: skip
    assert min(whole.values()) / samples > 0.01
    assert nothing / samples > 0.02
    assert next_token / samples > 0.1


def test_same_generator_same_batches():
    ids, valid = _batch()
    runs = [
        mask(ids, valid, TOKENS, MaskingConfig(group_size=8), torch.Generator().manual_seed(3))
        for _ in range(2)
    ]
    for a, b in zip(*runs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_planted_leak_and_ragged_rows_are_caught():
    ids, valid = _batch(4)
    chosen = torch.zeros_like(valid)
    chosen[:, :3] = True
    with pytest.raises(ValueError, match="given and asked for at once"):
        pack(ids, chosen, chosen, TOKENS)
    ragged = torch.zeros_like(valid)
    ragged[:, 5] = True
    ragged[0, 6] = True
    with pytest.raises(ValueError, match="different numbers of targets"):
        pack(ids, chosen, ragged, TOKENS)
    with pytest.raises(ValueError, match="nothing is asked for"):
        pack(ids, chosen, torch.zeros_like(valid), TOKENS)


def test_place_takes_every_slot_of_a_grid_equally_often():
    _, valid = _batch(16)
    counts = TOKENS.count(valid)
    one = torch.zeros_like(counts)
    one[:, 2] = 1
    budgets = type(STRATEGIES["dirichlet"](counts, TOKENS, MaskingConfig(), torch.Generator()))(
        one, torch.zeros_like(one)
    )
    draw = torch.Generator().manual_seed(0)
    hits = sum(place(budgets, valid, TOKENS, draw)[0].sum(0) for _ in range(600))
    span = TOKENS.slices[2]
    share = hits[span] / hits[span].sum()
    assert torch.allclose(share, torch.full_like(share, 1 / 6), atol=0.02)
