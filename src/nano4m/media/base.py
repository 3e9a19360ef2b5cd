"""Description of a kind of media: how it is stored, read, written, compared and shown.

A kind is one file of this room with one ``MediaKind``. Functions import heavy modules when called,
because the command line reads the kinds without loading PyTorch.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nano4m.errors import UserError, nearest
from nano4m.modalities import Modality

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor

Form = Literal["plane", "sound", "text"]
"""plane: pixels, several frames a clip, cropped together; sound: one waveform; text: one string."""

Box = tuple[int, int, int]
"""Left, top and side of a square, in pixels."""

Send = Callable[["Tensor", Any], "Tensor"]
"""Function that moves a tensor to a device asynchronously, see ``compute.on_device.send``."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """The media of one clip: a tensor of one item, as tokenizers give it, or a text."""

    media: str
    value: Any
    sample_rate: int = 0


@dataclass(frozen=True, kw_only=True)
class MediaKind:
    """One kind of media; REQUIRED lists the parts that each form needs.

    Attributes:
        name: Key of the registry, and of the media that a source records.
        form: Form of the arrays, see ``Form``.
        column: Column of the clips table.
        layouts: Layouts of tokens that can hold it.
        channels: Of a plane.
        is_direction: Whether a pixel is a unit vector in [-1, 1]; else values are in [0, 1].
        crop: ``(plane (H, W) or (H, W, 3), box, clips section) -> plane`` as recorded to as stored;
            raises BadMedia for values that the kind cannot have.
        encode: Plane, or ``(sound, rate)``, as stored -> bytes of a cell.
        decode: ``(cells, frame) -> media`` as tokenizers take them: a plane float32 (n, C, H, W),
            or (n, K, C, H, W) where ``frame`` is None; a sound float32 (n, samples); a list of n
            strings.
        claims: How surely a file of a user is of this kind: 0 no, 1 by its name, 2 by its content.
            Files of a kind that claims none are passed by name: ``--in KIND=FILE``.
        suffixes: Of the files that it claims.
        read: ``(path, clips section) -> plane`` as recorded, which ``crop`` takes; or a sound
            (samples, channels) and its rate.
        suffix: Of a file that is written.
        write: ``(one item as tokenizers give it, rate) -> bytes`` of such a file.
        features: ``(rate, device) -> function`` from a batch of media to the input (B, C, H, W) of
            the evaluation's classifier. None: a text is correct if its class has it in train.
        augment: ``(features, generator, send) -> features``, in training of that classifier.
        fidelity: ``(originals, round trips, tokenizer) -> named numbers`` on held-out media.
        limit: Top of the colour scale that an item needs, where items share one.
        default_limit: Top of that scale where no real item sets it.
        pixels: ``(item, top of the shared scale) -> uint8 (H, W, 3)``.
        play: ``item -> bytes`` of a WAV file, for an audible kind.
    """

    name: str
    form: Form
    column: str
    layouts: tuple[str, ...]
    channels: int = 0
    is_direction: bool = False
    crop: "Callable[[np.ndarray, Box, Any], np.ndarray] | None" = None
    encode: Callable[..., bytes] | None = None
    decode: "Callable[[list[Any], int | None], Any] | None" = None
    claims: Callable[[Path], int] = lambda path: 0
    suffixes: frozenset[str] = frozenset()
    read: Callable[[Path, Any], Any] | None = None
    suffix: str = ""
    write: Callable[[Any, int], bytes] | None = None
    features: "Callable[[int, Any], Callable[[Tensor], Tensor]] | None" = None
    augment: "Callable[[Tensor, Generator, Send], Tensor] | None" = None
    fidelity: Callable[[Any, Any, Any], dict[str, float]] | None = None
    limit: Callable[[Item], float] | None = None
    default_limit: float = 1.0
    pixels: "Callable[[Item, float], np.ndarray] | None" = None
    play: Callable[[Item], bytes] | None = None

    @property
    def is_plane(self) -> bool:
        """Whether a clip has several frames of it, cropped with its pictures."""
        return self.form == "plane"

    def part(self, name: str) -> Any:
        """Return a part whose presence ``check_kinds`` ensures."""
        found = getattr(self, name)
        assert found is not None, f"{self.name} has no {name}"
        return found


_ALL = ("decode", "suffix", "write", "fidelity")
_SHOWN = ("encode", "read", "features", "augment", "pixels")
REQUIRED: dict[str, tuple[str, ...]] = {
    "plane": (*_ALL, *_SHOWN, "channels", "crop"),
    "sound": (*_ALL, *_SHOWN, "play", "limit"),
    "text": _ALL,
}
"""Form -> the parts that its kinds must have."""


def check_kinds(kinds: Mapping[str, MediaKind], modalities: Iterable[Modality]) -> None:
    """Refuse kinds that lack a part or conflict, and modalities of a layout that their kind lacks.

    Raises:
        UserError: With the kind's or the modality's name, and what is missing.
    """
    columns: dict[str, str] = {}
    for name, kind in kinds.items():
        if kind.name != name:
            raise UserError(
                f"the KIND of nano4m/media/{name}.py is called {kind.name!r}; call it {name!r}"
            )
        if kind.form not in REQUIRED:
            raise UserError(
                f"the media kind {name!r} has the form {kind.form!r}; "
                f"{nearest(kind.form, REQUIRED)}"
            )
        missing = [part for part in REQUIRED[kind.form] if not getattr(kind, part)]
        if missing:
            raise UserError(
                f"the media kind {name!r} lacks {', '.join(missing)}; a kind of the form "
                f"{kind.form!r} needs {', '.join(REQUIRED[kind.form])}: add to its MediaKind"
            )
        if kind.column in columns:
            raise UserError(
                f"the media kinds {columns[kind.column]!r} and {name!r} share the column "
                f"{kind.column!r} of the clips table; give one another"
            )
        columns[kind.column] = name
    for modality in modalities:
        layouts = kinds[modality.media].layouts
        if modality.layout not in layouts:
            raise UserError(
                f"the modality {modality.name!r} has the layout {modality.layout!r}; tokens of "
                f"{modality.media!r} have {' or '.join(layouts)}"
            )
