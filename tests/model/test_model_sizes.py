"""Sizes and settings of a model: numbers of parameters by hand, and models that cannot be."""

import json

import pytest
from model_variants import MODALITIES, VARIANTS, build
from pydantic import ValidationError

from nano4m.config.model import ModelConfig
from nano4m.config.presets import PRESETS, SIZES, preset, with_size
from nano4m.config.run import Config
from nano4m.errors import UserError
from nano4m.model.layers import Mlp, SwiGlu
from nano4m.pipeline.info import describe_preset, info


def test_parameters_by_hand():
    d, k, sizes = 16, 8, [m.vocab_size for m in MODALITIES]
    mlp = 2 * d * 48
    trunk = 2 * (4 * d * d + mlp + 2 * d) + 2 * (8 * d * d + mlp + 4 * d) + d * d + 2 * d
    ends = 2 * sum(sizes) * d + 2 * 5 * d + d
    # 2/3 of 48 is 32, a multiple of 8; every attention has two norms of a head's width.
    changes = {
        "default": 0, "sincos1d": 0, "rope1d": 0, "rope2d": 0, "swiglu": 0, "soft_cap": 0,
        "coarse_first": 0, "delay": 0,
        "qk_norm": (2 + 2 * 2) * 2 * k, "tied": -sum(sizes) * d, "no_register": -d,
        "positioned": d, "shared": 2 * (max(sizes) - sum(sizes)) * d,
        "tied_shared": (max(sizes) - 2 * sum(sizes)) * d,
        "published": 2 * (max(sizes) - sum(sizes)) * d, "modern": (2 + 2 * 2) * 2 * k,
    }  # fmt: skip
    assert changes.keys() == VARIANTS.keys()
    for name, change in changes.items():
        model = build(name)
        assert model.num_parameters == trunk + ends + change, name
        if name in ("default", "shared", "tied", "no_register"):
            assert model.trunk_parameters == trunk, name


@pytest.mark.parametrize("dim, ratio", [(192, 4.0), (512, 4.0), (640, 4.0), (768, 3.5)])
def test_the_gated_mlp_has_about_as_many_parameters(dim, ratio):
    gated, plain = (
        sum(p.numel() for p in kind(dim, int(dim * ratio)).parameters()) for kind in (SwiGlu, Mlp)
    )
    assert 1 <= gated / plain < 1.01


def test_the_reference_has_the_published_number_of_parameters():
    told = json.loads(info("reference", as_json=True))
    assert told["parameters"] == 95_838_720
    assert told["trunk_parameters"] == 6 * 3_146_752 + 6 * 4_196_352 + 512 * 512 + 512 + 2 * 512
    assert {n: (m["shape"], m["vocabulary"]) for n, m in told["modalities"].items()} == {
        "rgb": ([14, 14], 16384),
        "sound": ([256, 2], 2048),
        "depth": ([14, 14], 8192),
        "normals": ([14, 14], 8192),
        "caption": ([64], 50304),
    }


def test_sizes_have_the_trunks_of_their_papers():
    told = json.loads(info("sizes", as_json=True))
    assert told.keys() == SIZES.keys()
    for name, size in told.items():
        d = size["dim"]
        blocks = size["encoder_depth"] * (12 * d + 2) + size["decoder_depth"] * (16 * d + 4)
        assert size["trunk"] == d * (blocks + d + 2), name
    # Ti, S and B of 4M in millions.
    assert [told[n]["trunk"] // 10**6 for n in ("4m-ti", "4m-s", "4m-b")] == [24, 59, 198]


def test_a_size_replaces_the_size_alone():
    config = with_size(preset("reference"), "d8-w640")
    assert (config.model.encoder_depth, config.model.dim, config.model.head_dim) == (8, 640, 64)
    assert config.model.tables == "shared" and config.train == preset("reference").train
    with pytest.raises(UserError, match="unknown size 'd8-w64'; did you mean 'd8-w640'"):
        with_size(preset("farm"), "d8-w64")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_takes_every_size(name):
    for size in SIZES:
        told = describe_preset(with_size(preset(name), size))
        assert told["dim"] == SIZES[size].dim


# -- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"dim": 100, "head_dim": 32}, "dim 100 is not a multiple of head_dim 32"),
        ({"dim": 6, "head_dim": 3}, "dim 6 is not a multiple of 4"),
        (
            {"dim": 12, "head_dim": 3, "positions": "rope1d"},
            "head_dim 3 is not a multiple of 2, which positions rope1d needs",
        ),
        (
            {"dim": 12, "head_dim": 6, "positions": "rope2d"},
            "head_dim 6 is not a multiple of 4, which positions rope2d needs",
        ),
        ({"positions": "rope2d", "context": "positioned"}, "use context plain"),
        ({"positions": "learnt"}, "'sincos1d', 'sincos2d', 'rope1d' or 'rope2d'"),
        ({"logit_soft_cap": -1.0}, "must be 0, or a finite number from 0.01"),
        ({"tables": "both"}, "'modality' or 'shared'"),
    ],
)
def test_a_model_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig(**fields)


def test_codes_for_a_shared_table_are_refused_before_anything_runs():
    farm = preset("farm").model_dump()
    with pytest.raises(ValidationError, match="--train.no-init-from-codebook"):
        Config(**(farm | {"model": {"tables": "shared"}}))
    without = farm["train"] | {"init_from_codebook": False}
    assert Config(**(farm | {"model": {"tables": "shared"}, "train": without}))
