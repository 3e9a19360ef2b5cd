"""What the sections of all sound tokenizers have: the views of a training sound, and its length."""

from typing import Annotated, ClassVar

from pydantic import Field

from nano4m.config.clips import ClipsConfig
from nano4m.config.numbers import Range
from nano4m.config.tokenizers.form import TokenizerSection
from nano4m.modalities import Layout

MOST_TOKENS = 16384
"""Most tokens of a sound, beyond which a step fits no memory."""


class SoundSection(TokenizerSection):
    """Base of the sections of sound tokenizers."""

    layout: ClassVar[Layout] = "codebooks"
    length_field: ClassVar[str] = "codebooks"
    length_advice: ClassVar[str] = "fewer codebooks"
    """The field that makes too many tokens, and what to choose instead."""

    augmentations: Annotated[int, Range(1, 1024)] = Field(
        1,
        description="Tokenised versions of a training sound: 1 is as recorded, each further one is "
        "shifted and scaled in level at random.",
    )
    shift_seconds: Annotated[float, Range(0, 30)] = Field(
        0.1, description="Largest shift of a view."
    )
    gain_db: Annotated[float, Range(0, 60)] = Field(
        6.0, description="Largest change of level of a view."
    )

    def check_clips(self, clips: ClipsConfig) -> None:
        """Refuse sounds that are too short or too long for these settings.

        Raises:
            ValueError: The message begins with the field.
        """
        if self.shift_seconds >= clips.window_seconds:
            raise ValueError(
                f"shift_seconds {self.shift_seconds} moves a view out of its window; it must be "
                f"below clips.window_seconds {clips.window_seconds}"
            )
        tokens, books = self.token_shape(clips).shape
        if tokens * books > MOST_TOKENS:
            raise ValueError(
                f"{self.length_field} {getattr(self, self.length_field)} makes {tokens * books} "
                f"tokens of a window of {clips.window_seconds:g} s, at most {MOST_TOKENS}; take "
                f"{self.length_advice}"
            )
