"""Where clips come from: a section for each source."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nano4m.config.numbers import Range
from nano4m.config.section import Clips, Section, Share

FREE_TEXT = {"vocab": 512, "max_length": 24}
"""Least settings of a Bpe for free captions of the farm: they have at most 22 tokens, and 279 ids
are enough for every word to be one token."""
Take = Annotated[int, Range(0, 10**6)]


class FarmDataset(Section):
    """Eleven toy animals, ray-traced and voiced on the fly; nothing to download."""

    name: Literal["farm"] = "farm"
    train: Clips = Field(3000, description="Clips to train on.")
    val: Clips = Field(220, description="Clips to validate on.")
    test: Clips = Field(330, description="Clips for the evaluation alone.")
    picture_size: Annotated[int, Range(16, 512)] = Field(64, description="Pixels a side.")
    seconds: Annotated[float, Range(0.2, 10, above=True)] = Field(
        1.024, description="Length of a sound."
    )
    captions: Literal["short", "free"] = Field(
        "short",
        description="short: size and class, such as small cat meowing; free: a sentence with some "
        "of size, colour, distance and heading, in many wordings; the tokenizer has room for it.",
    )


class DigitsDataset(Section):
    """Spoken digits (Free Spoken Digit Dataset, under --data), scikit-learn's handwritten ones."""

    name: Literal["digits"] = "digits"
    picture_size: Annotated[int, Range(8, 128)] = Field(32, description="Pixels a side.")
    pictures_per_sound: Annotated[int, Range(1, 1024)] = Field(
        8, description="Pictures of its class a recording is paired with."
    )
    val_takes: tuple[Take, Take] = Field(
        (5, 9), description="First and last take of the validation split."
    )

    @model_validator(mode="after")
    def _takes_are_in_order(self) -> "DigitsDataset":
        first, last = self.val_takes
        if first > last:
            raise ValueError(f"val_takes {first} {last}: first and last, first <= last")
        return self


class FolderDataset(Section):
    """A folder of videos, of sounds and pictures by class, or with a pairs.csv (--data)."""

    name: Literal["folder"] = "folder"
    val_share: Share = Field(0.15, description="Share of recordings for validation, by class.")
    test_share: Share = Field(0.0, description="Share of recordings for the test split, by class.")
    pictures_per_sound: Annotated[int, Range(1, 1024)] = Field(
        4, description="Pictures of its class a sound is paired with."
    )
    min_per_class: Clips = Field(
        5, description="A class with fewer recordings is left out, with a message."
    )
    group_by: str = Field(
        "auto",
        description="What keeps recordings in one split. auto: a column group, recording_group, "
        "video_id or speaker of the list, else names such as ID_000030 and NAME_001; off: such a "
        "column, and no names; or the name of another column.",
    )
    split_column: str = Field(
        "auto",
        description="Column that says train, val (valid, dev) or test. auto: split in pairs.csv or "
        "labels.csv; off: none; a name: that column, also of metadata.csv.",
    )

    @model_validator(mode="after")
    def _leaves_some_to_train(self) -> "FolderDataset":
        if self.val_share + self.test_share >= 1:
            raise ValueError(
                f"val_share {self.val_share} and test_share {self.test_share} leave nothing to "
                "train on; their sum must be below 1"
            )
        return self


DatasetConfig = Annotated[FarmDataset | DigitsDataset | FolderDataset, Field(discriminator="name")]
