"""A section for each kind of tokenizer, a file each, with the form of its tokens.

The form of the tokens follows from this section and that of the clips, before anything is fitted.
"""

from typing import Annotated, cast, get_args

from pydantic import Field

from nano4m.config.tokenizers.bpe import Bpe
from nano4m.config.tokenizers.codec import Dac, Encodec24, Encodec48, Mimi, SpeechTok, XCodec
from nano4m.config.tokenizers.form import TokenizerSection
from nano4m.config.tokenizers.image_vq import ImageVQ
from nano4m.config.tokenizers.mel_vq import MelVQ
from nano4m.config.tokenizers.semantic import Semantic
from nano4m.config.tokenizers.wave_vq import WaveVQ
from nano4m.errors import UserError, nearest

__all__ = [
    "SECTIONS",
    "Bpe",
    "Dac",
    "Encodec24",
    "Encodec48",
    "ImageVQ",
    "MelVQ",
    "Mimi",
    "Semantic",
    "SpeechTok",
    "TokenizerConfig",
    "TokenizerSection",
    "WaveVQ",
    "XCodec",
    "of_kind",
]

TokenizerConfig = Annotated[
    ImageVQ
    | MelVQ
    | WaveVQ
    | Semantic
    | Bpe
    | Encodec24
    | Encodec48
    | Dac
    | Mimi
    | XCodec
    | SpeechTok,
    Field(discriminator="kind"),
]

SECTIONS: dict[str, type[TokenizerSection]] = {
    section.model_fields["kind"].default: section
    for section in get_args(get_args(TokenizerConfig)[0])
}
"""Kind -> its section."""


FIT_FIELDS = {"steps", "batch_size", "lr", "width", "code_dim"}
"""Settings of a fit, which mean something else to another kind."""


def of_kind(name: str, kind: str, before: TokenizerConfig) -> TokenizerConfig:
    """Return the section of another kind for the modality ``name``.

    Settings that both kinds have are those of ``before`` where they are not its kind's defaults;
    all others, and those of the fit, are the new kind's defaults.

    Raises:
        UserError: No such kind, or one whose tokens have another layout.
    """
    fitting = [k for k, section in SECTIONS.items() if section.layout == before.layout]
    if kind not in fitting:
        raise UserError(
            f"--tokenizers.{name}.kind {kind}: {name} has tokens of the layout {before.layout!r}; "
            f"{nearest(kind, fitting)}"
        )
    section = SECTIONS[kind]
    if section is type(before):
        return before
    own = section.model_fields.keys() - {"kind"} - FIT_FIELDS
    chosen = {
        name: getattr(before, name)
        for name, field in type(before).model_fields.items()
        if name in own and getattr(before, name) != field.default
    }
    # SECTIONS holds the members of this union.
    return cast(TokenizerConfig, section(**chosen))
