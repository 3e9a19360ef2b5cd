"""Totals in pairs: every group is drawn as without them, and all steps are equally long."""

import numpy as np
import pytest
import torch
from scipy import stats

from conftest import tiny_modalities, tiny_table
from nano4m.config.masking import MaskingConfig
from nano4m.config.presets import REFERENCE
from nano4m.masking import STRATEGIES, mask
from nano4m.tokens.batch import TokenSequence

TOKENS = TokenSequence(tiny_modalities())


def _totals(name, paired, seeds, rows=32, low=2, high=7):
    """Return inputs and targets of each group of ``seeds`` batches, (seeds, groups, 2)."""
    settings = {n: float(n == name) for n in STRATEGIES} | {
        "group_size": 8,
        "num_inputs_weights": (1.0,),
    }
    settings |= {"min_inputs": low, "max_inputs": high, "min_targets": low, "max_targets": high}
    config = MaskingConfig(**settings, paired_totals=paired)
    table = tiny_table(96)
    # Captions of one length, so that the limits of all groups are equal.
    same = np.flatnonzero(table.lengths["caption"][:, 0] == 3)
    ids, valid = (torch.from_numpy(t) for t in table.gather(np.resize(same, rows), None))
    found = []
    for seed in range(seeds):
        batches = mask(ids, valid, TOKENS, config, torch.Generator().manual_seed(seed))
        found.append([(b.input_ids_BN.shape[1], b.target_ids_BM.shape[1]) for b in batches])
    return np.array(found)


@pytest.mark.parametrize("name", ["dirichlet", "span", "reference_span"])
def test_each_group_is_uniform_and_pairs_have_one_sum(name):
    low, high, seeds = 2, 7, 400
    totals = _totals(name, True, seeds)
    assert (totals[:, ::2] + totals[:, 1::2] == low + high).all()
    single = _totals(name, False, seeds)
    for side in (0, 1):
        for group in range(totals.shape[1]):
            counts = np.bincount(totals[:, group, side], minlength=high + 1)[low:]
            # Uniform between the fewest and the most: mean and range are those of the recipe.
            assert stats.chisquare(counts).pvalue > 1e-4
            alone = np.bincount(single[:, group, side], minlength=high + 1)[low:]
            assert counts.sum() == alone.sum() == seeds
    # Inputs say nothing about the targets of the same group.
    assert abs(np.corrcoef(totals[:, 0, 0], totals[:, 0, 1])[0, 1]) < 0.2


def test_a_group_that_is_left_over_is_drawn_alone():
    totals = _totals("dirichlet", True, 50, rows=24)
    assert totals.shape[1] == 3
    assert (totals[:, 0] + totals[:, 1] == 9).all()
    assert len(np.unique(totals[:, 2, 0])) > 4


def test_marginals_of_a_token_are_those_of_single_totals():
    """How often a slot is given or asked for does not change."""
    rates = []
    for paired in (False, True):
        names = {n: float(n == "dirichlet") for n in STRATEGIES}
        limits = {"min_inputs": 2, "max_inputs": 9, "min_targets": 2, "max_targets": 9}
        config = MaskingConfig(
            **names, **limits, group_size=8, num_inputs_weights=(1.0,), paired_totals=paired
        )
        table = tiny_table(48)
        ids, valid = (torch.from_numpy(t) for t in table.gather(np.arange(32), None))
        seen = torch.zeros(2, len(TOKENS.modalities))
        for seed in range(300):
            for batch in mask(ids, valid, TOKENS, config, torch.Generator().manual_seed(seed)):
                for side, kinds in enumerate((batch.input_modality_BN, batch.target_modality_BM)):
                    seen[side] += torch.bincount(kinds.flatten(), minlength=seen.shape[1])
        rates.append(seen / 300 / 32)
    assert torch.allclose(rates[0], rates[1], atol=0.12)


def test_the_reference_is_one_shape_and_the_mixtures_are_not():
    assert REFERENCE.masking.totals_repeat
    assert not MaskingConfig().totals_repeat
    assert not MaskingConfig(paired_totals=True).totals_repeat
