"""Presets: complete configurations by name, and sizes of the model by name.

``nano4m run PRESET`` starts from one, ``--size SIZE`` gives it another size.
"""

from collections.abc import Sequence
from typing import Any

from nano4m.config.clips import ClipsConfig
from nano4m.config.datasets import DigitsDataset, FarmDataset, FolderDataset
from nano4m.config.generation import GenerateConfig
from nano4m.config.masking import MaskingConfig, default_num_inputs_weights
from nano4m.config.model import ModelConfig
from nano4m.config.run import Config, EvaluateConfig
from nano4m.config.study import STUDY_WAVE
from nano4m.config.tokenizers import Bpe, Encodec24, ImageVQ, MelVQ, of_kind
from nano4m.config.training import TrainConfig
from nano4m.errors import UserError, nearest

SIZE_FIELDS = {"encoder_depth", "decoder_depth", "dim", "head_dim", "mlp_ratio"}


def _size(encoder_depth: int, decoder_depth: int, dim: int, head_dim: int = 64) -> ModelConfig:
    return ModelConfig(
        encoder_depth=encoder_depth, decoder_depth=decoder_depth, dim=dim, head_dim=head_dim
    )


def derived(base: Config, **changes: Any) -> Config:
    """Return a configuration like ``base`` with other fields; what follows from its number of
    modalities follows from the new number.
    """
    masking = base.masking
    if masking.num_inputs_weights == default_num_inputs_weights(len(base.tokenizers)):
        masking = masking.model_copy(update={"num_inputs_weights": None})
    return Config(**dict(base) | {"masking": masking} | changes)


SIZES: dict[str, ModelConfig] = {
    # Ours, for 2 CPU cores; its width is that of DeiT-Ti (arXiv:2012.12877).
    "tiny": _size(3, 3, 192, 32),
    # The sizes that nano4M-Audio compares: blocks on each side, width.
    "d5-w384": _size(5, 5, 384),
    "d6-w512": _size(6, 6, 512),
    "d8-w640": _size(8, 8, 640),
    # 4M (arXiv:2312.06647), Ti, S and B.
    "4m-ti": _size(6, 6, 384),
    "4m-s": _size(8, 8, 512),
    "4m-b": _size(12, 12, 768),
}

# The architecture of published nano4M checkpoints; their size is their own.
PUBLISHED_MODEL = ModelConfig(
    **SIZES["d6-w512"].model_dump(include=SIZE_FIELDS),
    positions="sincos1d",
    tables="shared",
    register_token=False,
    context="positioned",
    init="normal",
)

# Compared on spoken digits, two or three seeds each: docs/RESULTS.md.
SMALL = ModelConfig(positions="rope1d", mlp="swiglu")
# Chosen on validation clips: docs/GENERATION.md.
GUIDED = GenerateConfig(
    guidance=3.0,
    temperature=0.8,
    modalities={"sound": {"temperature": 1.0}, "caption": {"guidance": 1.0}},
)

FARM = Config(
    preset="farm",
    dataset=FarmDataset(train=5000),
    clips=ClipsConfig(window_seconds=1.024, picture_size=64),
    tokenizers={
        "rgb": ImageVQ(grid=8, vocab=512, width=64),
        # Few tokens for outlines that vary in size and heading: fitted for longer.
        "depth": ImageVQ(grid=4, vocab=512, steps=1000),
        "normals": ImageVQ(grid=4, vocab=512, steps=800),
        "sound": MelVQ(downsample=4, vocab=512),
        "caption": Bpe(vocab=256, max_length=16),
    },
    model=SMALL,
    train=TrainConfig(steps=1400),
    generate=GUIDED,
    evaluate=EvaluateConfig(classifier_steps=600),
)

FARM_SILHOUETTE = derived(
    FARM,
    preset="farm-silhouette",
    tokenizers=FARM.tokenizers | {"silhouette": ImageVQ(grid=4, vocab=512)},
)

# For a machine with 16 cores and one GPU. Pictures are cut into 8 x 8 pixels, as on the farm, and
# depth and normals as finely: their outlines are the picture's. Three grids are 768 of 808 tokens.
FARM_LARGE = Config(
    preset="farm-large",
    dataset=FarmDataset(train=100_000, val=1000, test=2000, picture_size=128),
    clips=ClipsConfig(window_seconds=1.024, picture_size=128),
    tokenizers={
        "rgb": ImageVQ(grid=16, vocab=2048, width=128, steps=4000),
        "depth": ImageVQ(grid=16, vocab=1024, width=128, steps=2000),
        "normals": ImageVQ(grid=16, vocab=1024, width=128, steps=2000),
        "sound": MelVQ(downsample=4, vocab=1024, width=256, steps=2000),
        "caption": Bpe(vocab=256, max_length=16),
    },
    # Inputs from all other modalities are less often long with three long grids: more weight.
    masking=MaskingConfig(group_size=32, num_inputs_weights=(0.08, 0.5, 0.2, 0.1, 0.12)),
    model=ModelConfig(**SMALL.model_dump() | SIZES["d6-w512"].model_dump(include=SIZE_FIELDS)),
    # Four times the batch of the farm and seven times its steps: a lower peak, and an average over
    # the last tenth of the run.
    train=TrainConfig(
        steps=10_000,
        batch_size=256,
        lr=2e-3,
        min_lr=2e-5,
        warmup=300,
        ema=0.999,
        val_every=500,
        val_samples=512,
        save_every=500,
    ),
    generate=GUIDED,
    evaluate=EvaluateConfig(clips=1100, classifier_steps=1000),
)

DIGITS = Config(
    preset="digits",
    dataset=DigitsDataset(),
    clips=ClipsConfig(window_seconds=20480 / 24000, picture_size=32, frames=8, target_rms_db=-23.0),
    tokenizers={
        "rgb": ImageVQ(grid=4, vocab=256),
        "sound": MelVQ(downsample=4, vocab=512, augmentations=8, steps=700),
        "caption": Bpe(vocab=64, max_length=4),
    },
    model=SMALL,
    train=TrainConfig(steps=1800, dropout=0.1),
    generate=GUIDED,
    evaluate=EvaluateConfig(split="val", clips=300),
)

ANIMALS = Config(
    preset="animals",
    dataset=FolderDataset(),
    clips=ClipsConfig(
        window_seconds=65536 / 24000, picture_size=64, frames=4, target_rms_db=-23.0, require=()
    ),
    tokenizers={
        "rgb": ImageVQ(grid=8, vocab=512),
        "sound": MelVQ(downsample=8, vocab=256, augmentations=8),
        "caption": Bpe(vocab=512, max_length=24),
    },
    model=SMALL,
    train=TrainConfig(steps=200, dropout=0.1, val_every=40),
    generate=GUIDED,
    evaluate=EvaluateConfig(split="val"),
)

# The recipe of nano4M-Audio. Its sound is EnCodec at 1.5 kbit/s, which is downloaded once; with
# --tokenizers.sound.kind mel_vq it runs without. For pictures and captions, tokenizers of this
# project stand for its pretrained ones, with the sizes of 4M's and of GPT-2's BPE.
REFERENCE = Config(
    preset="reference",
    dataset=FolderDataset(val_share=0.1, test_share=0.1),
    clips=ClipsConfig(window_seconds=81920 / 24000, picture_size=224, frames=10, require=()),
    tokenizers={
        "rgb": ImageVQ(grid=14, vocab=16384),
        "sound": Encodec24(codebooks=2),
        "depth": ImageVQ(grid=14, vocab=8192),
        "normals": ImageVQ(grid=14, vocab=8192),
        "caption": Bpe(vocab=50304, max_length=64),
    },
    masking=MaskingConfig(
        any_to_any=0.0,
        dirichlet=0.0,
        inference_aligned=0.0,
        suffix=0.0,
        infill=0.0,
        reference_span=1.0,
        paired_totals=True,
        alphas=(1.0,),
        min_inputs=16,
        max_inputs=256,
        min_targets=16,
        max_targets=256,
    ),
    model=PUBLISHED_MODEL,
    generate=GenerateConfig(guidance=1.0),
    train=TrainConfig(
        steps=18311,
        batch_size=64,
        optimizer="adamw",
        lr=1e-4,
        min_lr=1e-6,
        warmup=916,
        weight_decay=0.05,
        beta2=0.95,
        clip_norm=1.0,
        ema=0.0,
        init_from_codebook=False,
        decay_tables=True,
        precision="fp32",
        val_every=763,
        save_every=763,
    ),
)

PRESETS: dict[str, Config] = {
    config.preset: config
    for config in (
        FARM,
        FARM_SILHOUETTE,
        DIGITS,
        ANIMALS,
        REFERENCE,
        FARM_LARGE,
        STUDY_WAVE,
    )
}


def preset(name: str) -> Config:
    """Return the preset of this name.

    Raises:
        UserError: No preset has this name.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; {nearest(name, PRESETS)}")
    return PRESETS[name]


def without_modalities(config: Config, names: Sequence[str]) -> Config:
    """Return the configuration with fewer modalities.

    Raises:
        UserError: It has no such modality, or fewer than two are left.
    """
    left = dict(config.tokenizers)
    for name in (name.strip() for name in names):
        if name not in left:
            raise UserError(f"--without {name}: {nearest(name, left)}")
        del left[name]
    if len(left) < 2:
        raise UserError(
            f"--without {','.join(names)} leaves {', '.join(left) or 'nothing'}; an any-to-any "
            "model needs two modalities or more"
        )
    return derived(config, tokenizers=left)


def with_tokenizer_kind(config: Config, name: str, kind: str) -> Config:
    """Return the configuration with another kind of tokenizer for a modality.

    Settings that both kinds have stay, the others are the new kind's defaults.

    Raises:
        UserError: No such kind, or one that does not suit the modality.
    """
    section = of_kind(name, kind, config.tokenizers[name])
    return config.model_copy(update={"tokenizers": {**config.tokenizers, name: section}})


def with_size(config: Config, name: str) -> Config:
    """Return the configuration with depth, width and head width of a named size.

    Raises:
        UserError: No size has this name.
    """
    if name not in SIZES:
        raise UserError(f"unknown size {name!r}; {nearest(name, SIZES)}")
    fields = SIZES[name].model_dump(include=SIZE_FIELDS)
    model = ModelConfig(**(config.model.model_dump() | fields))
    return config.model_copy(update={"model": model})
