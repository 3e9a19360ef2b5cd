"""Presets: complete configurations by name. ``nano4m run NAME`` starts from one."""

from nano4m.config import (
    Bpe,
    ClipsConfig,
    Config,
    DigitsSource,
    EvaluateConfig,
    FarmSource,
    FolderSource,
    ImageVQ,
    MelVQ,
    TrainConfig,
)
from nano4m.errors import UserError, nearest

FARM = Config(
    preset="farm",
    source=FarmSource(),
    clips=ClipsConfig(window_seconds=1.024, picture_size=64),
    tokenizers={
        "rgb": ImageVQ(grid=8, vocab=512, width=64),
        "depth": ImageVQ(grid=4, vocab=512),
        "normals": ImageVQ(grid=4, vocab=512),
        "sound": MelVQ(downsample=4, vocab=512),
        "caption": Bpe(vocab=256, max_length=16),
    },
    train=TrainConfig(steps=800),
)

DIGITS = Config(
    preset="digits",
    source=DigitsSource(),
    clips=ClipsConfig(window_seconds=20480 / 24000, picture_size=32, frames=8, loudness_db=-23.0),
    tokenizers={
        "rgb": ImageVQ(grid=4, vocab=256),
        "sound": MelVQ(downsample=4, vocab=512, views=8, steps=700),
        "caption": Bpe(vocab=64, max_length=4),
    },
    train=TrainConfig(steps=1800, dropout=0.1),
    evaluate=EvaluateConfig(split="val", clips=300),
)

ANIMALS = Config(
    preset="animals",
    source=FolderSource(),
    clips=ClipsConfig(window_seconds=65536 / 24000, picture_size=64, frames=4, loudness_db=-23.0),
    tokenizers={
        "rgb": ImageVQ(grid=8, vocab=512),
        "sound": MelVQ(downsample=8, vocab=256, views=8),
        "caption": Bpe(vocab=512, max_length=24),
    },
    train=TrainConfig(steps=200, dropout=0.1, val_every=40),
    evaluate=EvaluateConfig(split="val"),
)

PRESETS: dict[str, Config] = {c.preset: c for c in (FARM, DIGITS, ANIMALS)}


def preset(name: str) -> Config:
    """Look a preset up.

    Raises:
        UserError: No preset has this name.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; {nearest(name, PRESETS)}")
    return PRESETS[name]
