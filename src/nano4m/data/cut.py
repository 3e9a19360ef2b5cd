"""Cutting a recording to clips: a sound window, keyframes inside it, one square crop.

``cut`` returns the media columns of the clips table; ``windows`` finds and reads the window.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from nano4m.config.clips import ClipsConfig
from nano4m.data.fingerprints import audio_fingerprint, content_hash, image_fingerprint
from nano4m.data.sources.base import RawMedia
from nano4m.data.waveform import silent
from nano4m.data.windows import Window, opened_windows
from nano4m.errors import BadMedia
from nano4m.media import MEDIA, media_kind
from nano4m.media.base import Box
from nano4m.media.picture import crop_picture, jpeg
from nano4m.media.sound import flac

FILTERS = {
    "media": {
        "description": "a clip without a kind of media of clips.require is not kept",
        "licence": "Apache-2.0",
    },
    "samples": {
        "description": "a sound without samples, or with some that are not finite, is not kept",
        "licence": "Apache-2.0",
    },
    "length": {
        "description": "a sound shorter than clips.min_seconds is not kept",
        "licence": "Apache-2.0",
    },
    "silence": {
        "description": "a window quieter than clips.silence_db is not kept",
        "licence": "Apache-2.0",
    },
    "frames": {
        "description": "a clip with too few different frames inside its window is not kept",
        "licence": "Apache-2.0",
    },
}
"""The filters of ``cut``, in order; a clip that one rejects gets a reason."""

LABELLERS = {
    "exact": {
        "description": "values of each pixel that the source knows exactly, such as depth",
        "licence": "that of the source",
    }
}
"""Where the planes other than pictures come from."""


def choose_frames(
    times: tuple[float, ...] | None,
    available: int,
    needed: int,
    start: float,
    end: float,
    number: int = 0,
) -> list[int]:
    """Return the indices of the clip's frames, in order of time.

    Frames of a video are evenly spaced inside [start, end] (seconds); still pictures belong to the
    whole sound and are repeated if there are too few; those of window ``number`` come after those
    of the window before.

    Raises:
        BadMedia: No picture at all, or too few different frames inside the window.
    """
    if not available:
        raise BadMedia("no picture")
    if times is None:
        return [(number * needed + i) % available for i in range(needed)]
    inside = [i for i, time in enumerate(times) if start <= time <= end]
    if len(inside) < needed:
        raise BadMedia(
            f"too few frames: {len(inside)} of {needed} inside the window {start:.2f}-{end:.2f} s"
        )
    ideal = [start + (i + 0.5) / needed * (end - start) for i in range(needed)]
    chosen: list[int] = []
    for position, time in enumerate(ideal):
        # Each frame is used once, and enough are left for the later positions.
        first = inside.index(chosen[-1]) + 1 if chosen else 0
        last = len(inside) - (needed - position - 1)
        chosen.append(min(inside[first:last], key=lambda i: abs(times[i] - time)))
    return chosen


def centre_box(height: int, width: int) -> Box:
    """Return the largest centred square of a picture."""
    side = min(height, width)
    return (width - side) // 2, (height - side) // 2, side


def cut(raw: RawMedia, settings: ClipsConfig) -> dict[str, Any]:
    """Return the columns of media, fingerprints, crop and levels, and ``offset_s``.

    A clip may lack media that ``settings.require`` does not list; without a sound the window begins
    with the recording. Levels are measured without padding, so a short bark is as loud as a long
    howl. ``offset_s`` is where the window starts in the recording. A silent window returns only its
    levels and a ``reason``.

    Raises:
        BadMedia: The clip cannot be used; the message is the reason.
        UserError: The source records a kind of media that is not in the registry.
    """
    one = settings.model_copy(update={"windows_per_recording": 1})
    with opened_windows(raw, one) as windows:
        return cut_window(windows[0], raw, settings)


def cut_windows(raw: RawMedia, settings: ClipsConfig) -> Iterator[dict[str, Any]]:
    """Yield the columns of each window of a recording, the best one first, see ``cut``.

    A window that cannot be used has only a ``reason``. Windows of a sound begin at different
    pictures of those that it has.

    Raises:
        BadMedia: The recording cannot be used.
        UserError: As ``cut``.
    """
    with opened_windows(raw, settings) as windows:
        for number, window in enumerate(windows):
            try:
                yield cut_window(window, raw, settings, number)
            except BadMedia as error:
                yield {"reason": str(error)}


def cut_window(
    window: Window, raw: RawMedia, settings: ClipsConfig, number: int = 0
) -> dict[str, Any]:
    """Return the columns of window ``number`` of an open recording, see ``cut``.

    Raises:
        BadMedia: As ``cut``.
    """
    rate, size = settings.sample_rate, settings.picture_size
    columns: dict[str, Any] = {name: [] for name in ("image_fingerprints", "picture", "crop")}
    columns |= {kind.column: [] for kind in MEDIA.values() if kind.is_plane}
    if window.sound is not None:
        levels = window.sound.levels
        reason = silent(levels["rms_db"], settings)
        if reason:
            return levels | {"reason": reason}
        columns |= levels
        columns |= {
            "audio": flac(window.sound.sound, rate),
            "audio_fingerprint": audio_fingerprint(window.sound.sound, rate),
        }
    columns["offset_s"] = window.start
    frames, times = window.pictures()
    _check_media(window, frames, raw, settings)
    if not frames:
        return columns
    chosen = choose_frames(
        None if times is None else tuple(times),
        len(frames),
        settings.frames,
        window.begin,
        window.end,
        number,
    )
    for index in chosen:
        picture = frames[index]
        original = frames if raw.originals is None else raw.originals
        columns["picture"].append(content_hash(original[index]))
        box = centre_box(*picture.shape[:2])
        columns["crop"].append(list(box))
        cropped = crop_picture(picture, box, size)
        columns["frames"].append(jpeg(cropped))
        columns["image_fingerprints"].append(image_fingerprint(cropped))
        for name, planes in raw.planes.items():
            kind, plane = media_kind(name), planes[index]
            if plane.shape[:2] != picture.shape[:2]:
                raise BadMedia(
                    f"wrong {name}: {plane.shape[:2]} pixels, its picture has {picture.shape[:2]}"
                )
            stored = kind.part("crop")(plane, box, settings)
            columns[kind.column].append(kind.part("encode")(stored))
    return columns


def _check_media(
    window: Window, frames: Sequence[Any], raw: RawMedia, settings: ClipsConfig
) -> None:
    """Refuse a clip without sound and pictures, or without media that all clips must have."""
    sources = {"sound": window.sound is not None, "picture": bool(frames)}
    has = dict.fromkeys(raw.planes, bool(frames)) | sources
    reasons = {"sound": window.no_sound, "picture": window.no_picture}
    for name in settings.require:
        if media_kind(name).form != "text" and not has.get(name):
            raise BadMedia(reasons.get(name) or f"no {name}")
    if not any(sources.values()):
        raise BadMedia("no sound and no picture")
