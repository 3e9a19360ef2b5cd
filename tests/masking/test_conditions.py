"""The conditions that masks train: of hand-made samples, of the presets, of the reference."""

import pytest
import torch

from conftest import tiny_modalities
from nano4m.config.masking import MaskingConfig
from nano4m.config.presets import PRESETS
from nano4m.masking.check import check_masking
from nano4m.masking.conditions import (
    Condition,
    classify,
    condition_shares,
    draw_groups,
    least_states,
    levels_of,
    rarest,
    used,
)
from nano4m.modalities import MODALITIES
from nano4m.pipeline.info import layouts
from nano4m.tokens.batch import TokenSequence

TOKENS = TokenSequence(tiny_modalities())
ALL = {m.name: range(m.length) for m in TOKENS.modalities}
REFERENCE = TokenSequence(
    tuple(
        MODALITIES[name].with_tokens(*size)
        for name, size in {
            "rgb": ((14, 14), 16384),
            "depth": ((14, 14), 8192),
            "normals": ((14, 14), 8192),
            "sound": ((256, 2), 2048),
            "caption": ((64,), 50304),
        }.items()
    )
)


def _found(given: dict, asked: dict, caption: int = 6, codebooks: str = "together") -> set[str]:
    """Return the conditions of one sample, lengths of inputs apart."""
    inputs_BL, targets_BL, valid_BL = (torch.zeros(1, TOKENS.length, dtype=torch.bool),) * 3
    inputs_BL, targets_BL, valid_BL = inputs_BL.clone(), targets_BL.clone(), ~valid_BL
    valid_BL[0, TOKENS.slices[4].start + caption :] = False
    for mask_BL, chosen in ((inputs_BL, given), (targets_BL, asked)):
        for name, indices in chosen.items():
            start = TOKENS.slices[TOKENS.index(name)].start
            mask_BL[0, [start + i for i in indices]] = True
    own = levels_of(MaskingConfig(codebooks=codebooks), TOKENS)
    found = classify(inputs_BL, targets_BL & valid_BL, valid_BL, TOKENS, own)
    apart = ("input length", "one at a time", "level", "quarter")
    return {str(c) for c, is_B in found.items() if is_B.item() and c.kind not in apart}


@pytest.mark.parametrize(
    "given, asked, conditions",
    [
        ({"rgb": ALL["rgb"]}, {"sound": ALL["sound"]}, {"rgb -> sound", "rgb -> sound (only)"}),
        (
            {"rgb": ALL["rgb"]},
            {"sound": ALL["sound"], "depth": [1]},
            {"rgb -> sound"},
        ),
        ({"rgb": [0, 1, 2]}, {"sound": ALL["sound"]}, set()),
        ({"rgb": ALL["rgb"]}, {"sound": range(7)}, set()),
        ({"rgb": ALL["rgb"], "depth": [0]}, {"sound": ALL["sound"]}, set()),
        ({"rgb": ALL["rgb"], "sound": [1, 6]}, {"sound": [0, 2, 3, 4, 5, 7]},
         {"rgb -> sound (in part)"}),
        ({"rgb": ALL["rgb"], "sound": [1, 6]}, {"sound": [0, 2, 3, 4, 5]}, set()),
        ({"sound": range(4)}, {"sound": range(4, 8)},
         {"nothing -> sound (in part)", "its start -> sound (continuation)"}),
        ({"sound": range(3)}, {"sound": range(3, 8)}, {"nothing -> sound (in part)"}),
        ({"sound": [0, 1, 6, 7]}, {"sound": [2, 3, 4, 5]},
         {"nothing -> sound (in part)", "its sides -> sound (infilling)"}),
        ({"sound": [0, 1, 5, 6, 7]}, {"sound": [2, 3, 4]}, {"nothing -> sound (in part)"}),
        ({"sound": [2, 3, 6, 7]}, {"sound": [0, 1, 4, 5]}, {"nothing -> sound (in part)"}),
        ({"sound": [0, 1, 6, 7], "rgb": [0]}, {"sound": [2, 3, 4, 5]}, set()),
        ({"depth": ALL["depth"], "caption": [0, 1]}, {"caption": [2]},
         {"depth -> caption (next token)", "its start -> caption (continuation)"}),
        ({}, {"caption": range(6)}, {"nothing -> caption", "nothing -> caption (only)"}),
        ({n: ALL[n] for n in ALL if n != "rgb"}, {"rgb": ALL["rgb"]},
         {"all others -> rgb", "all others -> rgb (only)"}),
    ],
)  # fmt: skip
def test_samples_are_classified(given, asked, conditions):
    assert _found(given, asked) == conditions


def test_a_text_is_whole_at_its_own_end():
    assert _found({"rgb": ALL["rgb"]}, {"caption": range(2)}, caption=2) >= {"rgb -> caption"}
    assert _found({"caption": range(2)}, {"rgb": ALL["rgb"]}, caption=2) >= {"caption -> rgb"}
    assert not _found({"caption": range(2)}, {"rgb": ALL["rgb"]}, caption=3)


@pytest.mark.parametrize(
    "given, asked, conditions",
    [
        # Two codebooks: slot t is of codebook t mod 2.
        ({}, {"sound": [0, 2, 4, 6]}, {"nothing -> sound", "nothing -> sound (only)"}),
        ({"sound": [0, 4]}, {"sound": [2, 6]}, {"nothing -> sound (in part)"}),
        ({"sound": [0, 2, 4, 6]}, {"sound": [1, 3, 5, 7]}, {"nothing -> sound (in part)"}),
        ({"sound": [0, 2, 4, 6, 1]}, {"sound": [3, 5, 7]},
         {"nothing -> sound (in part)", "its start -> sound (continuation)"}),
        ({"sound": [0, 2, 4, 6, 3]}, {"sound": [1, 5, 7]}, {"nothing -> sound (in part)"}),
        # A later codebook is known, an earlier one is not, two are asked at once, one is left out.
        ({"sound": [1]}, {"sound": [0, 2, 4, 6]}, set()),
        ({"sound": [0, 2, 4]}, {"sound": [1, 3, 5, 7]}, set()),
        ({"sound": [0, 2, 4]}, {"sound": [6, 1]}, set()),
        ({"sound": [0]}, {"sound": [2, 4]}, set()),
        # Of a finished beginning or of finished sides all codebooks are known.
        ({"sound": [0, 1, 2, 3]}, {"sound": [4, 6]},
         {"nothing -> sound (in part)", "its start -> sound (continuation)"}),
        ({"sound": [0, 1, 2, 3, 4]}, {"sound": [6]},
         {"nothing -> sound (in part)", "its start -> sound (continuation)"}),
        ({"sound": [0, 1, 2, 4, 6, 7]}, {"sound": [3, 5]},
         {"nothing -> sound (in part)", "its sides -> sound (infilling)"}),
    ],
)  # fmt: skip
def test_levels_of_codebooks_are_classified(given, asked, conditions):
    assert _found(given, asked, codebooks="levels") == conditions


def _of_farm(**changed: tuple[tuple[int, ...], int]) -> TokenSequence:
    """Return the farm's modalities, some with other tokens."""
    return TokenSequence(
        tuple(
            m.with_tokens(*changed[m.layout]) if m.layout in changed else m
            for m in layouts(PRESETS["farm"])
        )
    )


# The reference preset repeats the reference's masks, with which most of this is untrained.
DEFAULTS = {
    name: (config.masks, TokenSequence(layouts(config)))
    for name, config in PRESETS.items()
    if name != "reference"
} | {
    name: (PRESETS["farm"].masks, _of_farm(**changed))
    for name, changed in {
        "captions of 24": {"text": ((24,), 512)},
        "captions of 64": {"text": ((64,), 512)},
        "2 codebooks": {"codebooks": ((24, 2), 512)},
        "8 codebooks": {"codebooks": ((24, 8), 2048)},
    }.items()
}
# Least shares of the target tokens of a modality (of all for the length of the inputs).
LEAST = {
    "whole": 0.003,
    "in part": 0.003,
    "next token": 0.01,
    "continuation": 0.004,
    "infilling": 0.002,
    "input length": 0.02,
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_generation_asks_for_has_its_share_of_the_target_tokens(name):
    config, sequence = DEFAULTS[name]
    check_masking(config, sequence)
    # Each of eight levels is the target of few draws.
    shares = condition_shares(config, sequence, 80_000 if name == "8 codebooks" else 16_000)
    short = {str(c): s for c, s in used(shares, sequence).items() if s < LEAST[c.kind]}
    books = {m.name: m.shape[1] for m in sequence.modalities if m.layout == "codebooks"}
    # The first levels of eight are too rarely asked for from each source alone to be counted here.
    if max(books.values()) > 2:
        short = {c: s for c, s in short.items() if "-> sound" not in c}
    assert not short
    assert {c.kind for c in used(shares, sequence)} == set(LEAST)
    for modality, least in least_states(shares).items():
        if "one at a time" in least:
            assert least["one at a time"] >= 0.6
            continue
        levels = [s for source, s in least.items() if source != "least quarter"]
        assert len(levels) == books.get(modality, 1)
        assert min(levels) >= 0.5 / len(levels), (modality, least)
        assert least["least quarter"] >= 0.05, (modality, least)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "reference"])
def test_every_pair_of_modalities_is_trained(name):
    config, sequence = DEFAULTS[name]
    shares = condition_shares(config, sequence, 16_000)
    kinds = ("whole", "in part", "next token")
    found: dict[tuple[str, str], float] = {}
    for c, share in shares.items():
        if c.kind in kinds and c.source in MODALITIES:
            found[c.source, c.target] = found.get((c.source, c.target), 0.0) + share
    count = len(sequence.modalities)
    assert len(found) == count * (count - 1)
    assert min(found.values()) > 0.04 / (count - 1), found


def test_what_was_trained_before_is_found_wanting():
    """The planted fault: captions asked all at once, codebooks in any order, whole targets."""
    config = MaskingConfig(
        any_to_any=0.75, inference_aligned=0.1, all_targets_whole=0.35, whole_target=0.3,
        next_token=0.5, prefixes=1, codebooks="together",
    )  # fmt: skip
    config_now, sequence = DEFAULTS["captions of 64"]
    found = condition_shares(config, sequence, 4000)
    assert least_states(found)["caption"]["one at a time"] < 0.1
    _, sequence = DEFAULTS["8 codebooks"]
    drawn = list(draw_groups(config, sequence, 4000, seed=0, progress=0.0))
    masks = [torch.cat(parts) for parts in zip(*drawn, strict=True)]
    own = levels_of(config_now, sequence)
    states = classify(*masks, sequence, own)
    c = sequence.index("sound")
    tokens_B = sequence.count(masks[1])[:, c].double()
    level = sum(
        float((is_B * tokens_B).sum()) for k, is_B in states.items()
        if k.kind == "level" and k.target == "sound"
    )  # fmt: skip
    assert level / tokens_B.sum() < 0.05


def test_budgets_alone_train_next_to_nothing_of_it():
    """The planted fault: 4M's budgets are not enough, and the measure says so."""
    sequence = TokenSequence(layouts(PRESETS["farm"]))
    config = MaskingConfig(
        any_to_any=0, inference_aligned=0, suffix=0, infill=0, dirichlet=1, next_token=0
    )
    shares = used(condition_shares(config, sequence, samples=4000), sequence)
    short = [c for c, s in shares.items() if s < LEAST[c.kind]]
    assert len(short) > 0.8 * len(shares)


def test_the_reference_never_saw_what_it_was_judged_by():
    """alpha 1, 16 to 256 tokens, one sound span: 0 of 20,000, as measured on the reference."""
    # 5,000 draws of totals instead of 1,250: three standard errors of their mean are 3 tokens.
    config = PRESETS["reference"].masking.model_copy(update={"group_size": 4})
    check_masking(config, REFERENCE)
    groups = list(draw_groups(config, REFERENCE, 20_000, seed=0, progress=0.0))
    given, asked = (torch.cat([REFERENCE.count(g[i]) for g in groups]) for i in (0, 1))
    assert len(given) == 20_000
    one_to_one = (
        ((given > 0).sum(1) == 1) & ((asked > 0).sum(1) == 1) & ~((given * asked) > 0).any(1)
    )
    c = REFERENCE.index("sound")
    print(
        f"one modality to another: {one_to_one.sum()}; mean inputs {given.sum(1).double().mean()}"
    )
    assert one_to_one.sum() == 0
    assert ((given[:, c] == 0) & (asked[:, c] > 2)).sum() == 0
    assert (asked[:, c] == 512).sum() == 0
    assert given.sum(1).max() == 256 and abs(given.sum(1).double().mean() - 136) < 3
    # A sound that is asked for without any of it given: 0.5 % in the reference, one frame each.
    assert 0 < ((given[:, c] == 0) & (asked[:, c] > 0)).double().mean() < 0.02
    inputs, targets, valid = (torch.cat(parts) for parts in zip(*groups, strict=True))
    found = classify(inputs, targets, valid, REFERENCE, [1, 1, 1, 2, 0])
    whole = {str(k): v.sum().item() for k, v in found.items() if k.kind in ("whole", "only")}
    assert sum(whole.values()) == 0, whole


def test_shares_are_repeatable_and_follow_progress():
    config = MaskingConfig(end_weights={"any_to_any": 0.0, "suffix": 9.0})
    runs = [condition_shares(config, TOKENS, 800, seed=1, progress=p) for p in (0.0, 0.0, 1.0)]
    assert runs[0] == runs[1]
    own = [shares[Condition("continuation", "its start", "rgb")] for shares in runs]
    assert own[2] > 3 * own[0] > 0
    assert rarest(runs[0])["continuation"]["share"] <= own[0]
