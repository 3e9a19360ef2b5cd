"""Settings of masking: weights that follow progress, and what is refused before anything runs."""

import pytest
import torch
from groups import TOKENS, only, tiny_rows
from pydantic import ValidationError

from nano4m.config.masking import STRATEGY_NAMES, MaskingConfig, default_num_inputs_weights
from nano4m.config.presets import PRESETS, without_modalities
from nano4m.errors import UserError
from nano4m.masking import STRATEGIES, draw_masks
from nano4m.masking.check import check_masking
from nano4m.tokens.batch import TokenSequence


def test_weights_follow_progress_and_the_strategies_have_the_names_of_their_weights():
    assert tuple(STRATEGIES) == STRATEGY_NAMES
    config = only("dirichlet", end_weights={"suffix": 3.0, "dirichlet": 0.0})
    weights = dict(zip(STRATEGY_NAMES, config.weights(0.25), strict=True))
    assert weights["dirichlet"] == 0.75 and weights["suffix"] == 0.75
    assert config.uses("suffix") and config.uses("dirichlet") and not config.uses("infill")
    _, valid = tiny_rows()

    def plans(progress):
        names = []

        def noted(name):
            return lambda *a: names.append(name) or STRATEGIES[name](*a)

        noting = {name: noted(name) for name in STRATEGIES}
        for seed in range(60):
            draw = torch.Generator().manual_seed(seed)
            list(draw_masks(valid, TOKENS, config, draw, progress, noting))
        return set(names)

    assert plans(0.0) == {"dirichlet"} and plans(1.0) == {"suffix"}
    assert plans(0.5) == {"dirichlet", "suffix"}
    with pytest.raises(ValueError, match="progress 1.5"):
        plans(1.5)


@pytest.mark.parametrize(
    "settings, said",
    [
        (dict.fromkeys(STRATEGY_NAMES, 0.0), "every strategy has weight 0; give one of any_to_any"),
        ({"end_weights": dict.fromkeys(STRATEGY_NAMES, 0.0)}, "weight 0 at the end"),
        ({"end_weights": {"dirichlett": 1.0}}, "did you mean 'dirichlet'"),
        ({"any_to_any": -1.0}, "must be 0, or a finite number"),
        ({"alphas": ()}, "alphas is empty"),
        ({"alphas": (1.0, 0.0)}, "must be a finite number from 0.001"),
        ({"input_alphas": {"sound": -1.0}}, "input_alphas"),
        ({"min_inputs": 9, "max_inputs": 8}, "min_inputs 9 is above max_inputs 8"),
        ({"min_targets": 9, "max_targets": 8}, "min_targets 9 is above max_targets 8"),
        ({"input_limits": {"sound": (4, 3)}}, "input_limits.sound 4 3"),
        ({"decode_steps": (0, 3)}, "whole number from 1"),
        ({"decode_orders": ()}, "decode_orders is empty"),
        ({"num_inputs_weights": (0.0, 0.0)}, "every number of sources has weight 0"),
        ({"group_size": 0}, "whole number from 1"),
    ],
)
def test_impossible_settings_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        MaskingConfig(**settings)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"input_alphas": {"sond": 2.0}}, r"input_alphas.sond: no such .* did you mean 'sound'"),
        ({"target_limits": {"audio": (0, 2)}}, "masking.target_limits.audio"),
        ({"max_inputs": 28}, r"max_inputs 28: .* can have 27"),
        ({"max_targets": 29}, r"max_targets 29: .* can have 28"),
        ({"input_limits": {"sound": (0, 9)}}, "at most 8 tokens"),
        ({"input_limits": {"rgb": (3, 4)}, "target_limits": {"rgb": (2, 4)}}, "at least 5"),
        ({"input_limits": {"rgb": (4, 4)}, "max_inputs": 3}, "max_inputs 3"),
        ({"min_inputs": 20, "min_targets": 4}, "shortest clip holds 23"),
        ({"min_inputs": 14, "min_targets": 4, "span": 1.0}, "holds 15 tokens beside its sounds"),
        ({"reference_span": 1.0, "min_targets": 14}, "holds 15 tokens beside its sounds"),
        ({"input_limits": {"sound": (1, 1)}, "span": 1.0}, "whole frames of 2"),
        ({"num_inputs_weights": (0.0,) * 5 + (1.0,)}, "5 modalities allow 0 to 4 sources"),
    ],
)
def test_settings_that_the_modalities_cannot_meet_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        check_masking(MaskingConfig(**settings), TOKENS)


def test_strategies_that_need_what_is_not_there_are_refused():
    grid, text = (TOKENS.modalities[i] for i in (0, 4))
    with pytest.raises(UserError, match="masking.span 1.0: needs a modality of layout codebooks"):
        check_masking(only("span"), TokenSequence((grid, text)))
    with pytest.raises(UserError, match="masking.infill 1.0: no modality has three rows"):
        check_masking(only("infill"), TokenSequence((grid, text)))
    one = (text.with_tokens((1,), 5), grid.with_tokens((1, 4), 5))
    with pytest.raises(UserError, match="masking.suffix 1.0: no modality has two rows"):
        check_masking(only("suffix"), TokenSequence(one))
    for name in STRATEGIES:
        check_masking(only(name), TOKENS)


def test_strategies_are_drawn_by_their_names_whatever_their_order():
    """The planted fault: weights of one list, functions of another in a different order."""
    assert set(STRATEGIES) == set(STRATEGY_NAMES) <= set(MaskingConfig.model_fields)
    config = MaskingConfig(**dict.fromkeys(STRATEGY_NAMES, 0.0) | {"suffix": 1.0})
    turned = dict(reversed(STRATEGIES.items()))
    valid = torch.ones(8, TOKENS.length, dtype=torch.bool)
    found = []
    for own in (STRATEGIES, turned):
        draw = torch.Generator().manual_seed(3)
        found.append([inputs for _, inputs, _ in draw_masks(valid, TOKENS, config, draw, 0.0, own)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("modalities", range(2, 13))
def test_as_many_modalities_as_there_are_have_a_weight_of_their_own(modalities):
    weights = default_num_inputs_weights(modalities)
    assert len(weights) == max(5, modalities) and min(weights) > 0
    assert sum(weights) == pytest.approx(1, abs=1e-3)
    assert not MaskingConfig().untrained(modalities)


def test_a_modality_less_changes_how_many_are_sources():
    six = PRESETS["farm-silhouette"]
    assert six.masking.num_inputs_weights == default_num_inputs_weights(6)
    five = without_modalities(six, ["silhouette"])
    assert five.masking.num_inputs_weights == default_num_inputs_weights(5)
    said = MaskingConfig(num_inputs_weights=(0.5, 0.5))
    two = without_modalities(six.model_copy(update={"masking": said}), ["silhouette", "rgb"])
    assert two.masking == said


def test_what_is_never_trained_is_said():
    five = MaskingConfig(num_inputs_weights=default_num_inputs_weights(5))
    assert "never train a modality from all others" in five.untrained(6)
    assert not five.untrained(5)
    budgets = {n: 0.0 for n in STRATEGY_NAMES} | {"dirichlet": 1.0}
    assert "any_to_any 0.0" in MaskingConfig(**budgets).untrained(5)
