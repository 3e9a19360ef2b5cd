"""Fingerprints of sounds and pictures, and the search for equal ones in two sets of clips.

The fingerprint of a sound follows Haitsma and Kalker (ISMIR 2002): the sign of the difference in
energy of neighbouring bands, from one frame to the next, which level and equalisation do not
change. Unlike there, frames are short, as windows are, and inaudible ones are ignored. Fingerprints
find candidates; a pair is one recording if the sounds correlate at their best shift. The
fingerprint of a picture is a thumbnail, compared by correlation.

Shapes: n clips, F frames, B bands.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image

BANDS = 16
LOW_HZ, HIGH_HZ = 150.0, 6000.0
FRAME_SECONDS, HOP_SECONDS = 0.08, 0.02
HEARD_DB = 40.0
"""A frame this far below the loudest one is ignored."""
MOST_SHIFT = 13
"""Largest shift between two windows of one recording, in frames: a quarter of a second."""
LEAST_BITS = 96
"""Fewest common bits for a comparison."""
LIKELY = 0.42
"""Agreement of two fingerprints, in [-1, 1], from which the sounds are compared."""
CANDIDATES = 4
"""Likeliest clips of the other set whose sounds are compared with each clip's."""
SAME_SOUND = 0.94
"""Correlation from which two sounds are one recording. Different takes of a spoken digit by one
speaker reach 0.90, voices of the farm 0.63; a shifted and quieter copy, 1.00."""

THUMBNAIL = 16
SAME_PICTURE = 0.997
"""Correlation from which two thumbnails are one picture. Different pictures of the farm reach
0.989, handwritten digits 0.974; a picture scaled up and saved again as a poor JPEG, 0.998."""
PLAIN = 2.0
"""Deviation, of 255, below which a picture is too plain to compare."""

BLOCK = 256


@lru_cache(maxsize=8)
def _window(width: int) -> np.ndarray:
    return np.hanning(width).astype(np.float32)


def audio_fingerprint(sound: np.ndarray, sample_rate: int) -> bytes:
    """Return the fingerprint of a sound (samples,): bytes of int8 (F, B), -1, 1 or 0 (ignored)."""
    hop, width = round(HOP_SECONDS * sample_rate), round(FRAME_SECONDS * sample_rate)
    if len(sound) < width + hop or not np.any(sound):
        return b""
    frames = np.lib.stride_tricks.sliding_window_view(sound, width)[::hop]
    edges = np.geomspace(LOW_HZ, HIGH_HZ, BANDS + 2) * width / sample_rate
    edges = np.ceil(edges).astype(int)
    # Only the bins of the bands: at most rates most of a spectrum lies above them.
    spectrum = np.fft.rfft(frames * _window(width))[:, edges[0] : edges[-1]]
    energy = np.add.reduceat(np.abs(spectrum) ** 2, edges[:-1] - edges[0], axis=1)
    total = energy.sum(1)
    heard = total > total.max() * 10 ** (-HEARD_DB / 10)
    signs = np.where(np.diff(np.diff(energy, axis=1), axis=0) > 0, 1, -1).astype(np.int8)
    signs[~(heard[1:] & heard[:-1])] = 0
    return signs.tobytes()


def image_fingerprint(picture: np.ndarray) -> bytes:
    """Return the thumbnail of uint8 (H, W, 3) as bytes; empty if the picture is too plain."""
    size = (THUMBNAIL, THUMBNAIL)
    small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
    return small.tobytes() if small.std((0, 1)).max() > PLAIN else b""


def content_hash(picture: np.ndarray) -> str:
    """Return the identity of a picture, an array of any shape: twelve hex digits.

    Equal for equal values alone; ``image_fingerprint`` finds pictures that look the same.
    """
    form = f"{picture.dtype.str}{picture.shape}".encode()
    return hashlib.sha256(form + np.ascontiguousarray(picture).tobytes()).hexdigest()[:12]


def agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the agreement of fingerprints at their best shift, float32 (n, m) in [-1, 1].

    Args:
        first, second: int8 (n, F, B) and (m, F, B).
    """
    frames = first.shape[1]
    found = np.full((len(first), len(second)), -1, np.float32)
    heard = [np.abs(x[:, :, 0]).astype(np.float32) for x in (first, second)]
    flat = [x.reshape(len(x), -1).astype(np.float32) for x in (first, second)]
    for shift in range(-min(MOST_SHIFT, frames - 1), min(MOST_SHIFT, frames - 1) + 1):
        start, stop = max(0, shift), frames + min(0, shift)
        other = slice(start - shift, stop - shift)
        bits = slice(other.start * BANDS, other.stop * BANDS)
        alike = flat[0][:, start * BANDS : stop * BANDS] @ flat[1][:, bits].T
        common = heard[0][:, start:stop] @ heard[1][:, other].T * BANDS
        alike /= np.maximum(common, 1)
        alike[common < LEAST_BITS] = -1
        np.maximum(found, alike, out=found)
    return found


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two sounds (samples,) at their best shift, in [0, 1].

    The result is 0 if the overlap has less than half of the energy of either sound.
    """
    size = 2 * len(first)
    spectrum = np.fft.rfft(first, size) * np.conj(np.fft.rfft(second, size))
    shift = int(np.argmax(np.abs(np.fft.irfft(spectrum, size))))
    shift -= size if shift >= len(first) else 0
    start, stop = max(0, shift), len(first) + min(0, shift)
    one, other = first[start:stop], second[start - shift : stop - shift]
    energy = [float(np.square(x, dtype=np.float64).sum()) for x in (one, other, first, second)]
    if not energy[2] or not energy[3] or energy[0] < energy[2] / 2 or energy[1] < energy[3] / 2:
        return 0.0
    return abs(float(one.astype(np.float64) @ other)) / float(np.sqrt(energy[0] * energy[1]))


Sounds = Callable[[Sequence[int]], dict[int, np.ndarray]]
"""Numbers of clips -> their sounds, by number."""


def same_sounds(
    prints: Sequence[bytes], first: Sequence[int], second: Sequence[int], sounds: Sounds
) -> list[tuple[int, int]]:
    """Return the pairs (clip of ``first``, clip of ``second``) that are one recording.

    Args:
        prints: Fingerprints of all clips, see ``audio_fingerprint``; of one length, or empty.
        first, second: Numbers of clips; ``second`` is the smaller set.
        sounds: Reads sounds.
    """
    first, second = ([i for i in part if prints[i]] for part in (first, second))
    if not first or not second:
        return []

    def arrays(numbers: Sequence[int]) -> np.ndarray:
        joined = b"".join(prints[i] for i in numbers)
        return np.frombuffer(joined, np.int8).reshape(len(numbers), -1, BANDS)

    pairs = []
    known = [arrays(first[k : k + 32 * BLOCK]) for k in range(0, len(first), 32 * BLOCK)]
    for k in range(0, len(second), BLOCK):
        own = second[k : k + BLOCK]
        scores = np.concatenate([agreement(part, arrays(own)) for part in known])
        best = np.argsort(-scores, axis=0, kind="stable")[:CANDIDATES]
        likely = [
            (first[row], own[column])
            for column in range(len(own))
            for row in best[:, column]
            if scores[row, column] >= LIKELY
        ]
        heard = sounds(sorted({i for pair in likely for i in pair}))
        pairs += [(i, j) for i, j in likely if correlation(heard[i], heard[j]) >= SAME_SOUND]
    return pairs


def same_pictures(
    prints: Sequence[Sequence[bytes]], first: Sequence[int], second: Sequence[int]
) -> list[tuple[int, int]]:
    """Return the pairs (clip of ``first``, clip of ``second``) that show the same picture.

    Args:
        prints: Fingerprints of all pictures of all clips, see ``image_fingerprint``.
        first, second: Numbers of clips; ``second`` is the smaller set.
    """

    def arrays(numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        owners = [i for i in numbers for own in prints[i] if own]
        joined = b"".join(own for i in numbers for own in prints[i])
        flat = np.frombuffer(joined, np.uint8).reshape(len(owners), 3 * THUMBNAIL**2)
        flat = flat.astype(np.float32)
        flat -= flat.mean(1, keepdims=True)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True), np.array(owners, np.int64)

    pairs: set[tuple[int, int]] = set()
    known = [arrays(first[k : k + 32 * BLOCK]) for k in range(0, len(first), 32 * BLOCK)]
    for k in range(0, len(second), BLOCK):
        own, owners = arrays(second[k : k + BLOCK])
        for flat, numbers in known:
            rows, columns = np.nonzero(flat @ own.T >= SAME_PICTURE)
            pairs |= set(zip(numbers[rows].tolist(), owners[columns].tolist(), strict=True))
    return sorted(pairs)
