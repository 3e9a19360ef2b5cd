"""Where clips come from: a section for each source."""

from typing import Annotated, Literal

from pydantic import Field

from nano4m.config.section import Positive, Section, Share

FREE_TEXT = {"vocab": 512, "max_length": 24}
"""Least settings of a Bpe for free captions of the farm: they have at most 22 tokens, and 279 ids
are enough for every word to be one token."""


class FarmDataset(Section):
    """Eleven toy animals, ray-traced and voiced on the fly; nothing to download."""

    name: Literal["farm"] = "farm"
    train: Positive = Field(3000, description="Clips to train on.")
    val: Positive = Field(220, description="Clips to validate on.")
    test: Positive = Field(330, description="Clips for the evaluation alone.")
    picture_size: Annotated[int, Field(ge=16, le=512)] = Field(64, description="Pixels a side.")
    seconds: Annotated[float, Field(gt=0.2, le=10)] = Field(1.024, description="Length of a sound.")
    captions: Literal["short", "free"] = Field(
        "short",
        description="short: size and class, such as small cat meowing; free: a sentence with some "
        "of size, colour, distance and heading, in many wordings; the tokenizer has room for it.",
    )


class DigitsDataset(Section):
    """Spoken digits (Free Spoken Digit Dataset, under --data), scikit-learn's handwritten ones."""

    name: Literal["digits"] = "digits"
    picture_size: Annotated[int, Field(ge=8, le=128)] = Field(32, description="Pixels a side.")
    pictures_per_sound: Positive = Field(
        8, description="Pictures of its class a recording is paired with."
    )
    val_takes: tuple[int, int] = Field(
        (5, 9), description="First and last take of the validation split."
    )


class FolderDataset(Section):
    """A folder of videos, of sounds and pictures by class, or with a pairs.csv (--data)."""

    name: Literal["folder"] = "folder"
    val_share: Share = Field(0.15, description="Share of recordings for validation, by class.")
    test_share: Share = Field(0.0, description="Share of recordings for the test split, by class.")
    pictures_per_sound: Positive = Field(
        4, description="Pictures of its class a sound is paired with."
    )
    min_per_class: Positive = Field(
        5, description="A class with fewer recordings is left out, with a message."
    )


DatasetConfig = Annotated[FarmDataset | DigitsDataset | FolderDataset, Field(discriminator="name")]
