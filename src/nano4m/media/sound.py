"""Sounds: mono, FLAC in the clips table, WAV in files that are written and on pages."""

import io
import wave
from typing import TYPE_CHECKING, Any

import numpy as np

import nano4m.media.planes as planes
from nano4m.media.base import Item, MediaKind
from nano4m.media.sound_file import SUFFIXES as SUFFIXES
from nano4m.media.sound_file import read_sound as read_sound

if TYPE_CHECKING:
    from torch import Generator, Tensor

SPECTRUM = {"n_fft": 1024, "hop": 256, "mels": 64}
"""Of the spectrogram that a tokenizer without one of its own is measured with."""

LEVELS_DB = 60.0
"""Range of a spectrogram's colours in dB, down from the loudest."""


def flac(sound: np.ndarray, sample_rate: int) -> bytes:
    """Return float (samples,) in [-1, 1] as mono PCM16 FLAC."""
    import soundfile

    pcm = np.clip(np.round(np.asarray(sound, np.float64) * 32768), -32767, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _decode(cells: list[Any], frame: int | None) -> "Tensor":
    import soundfile
    import torch

    return torch.from_numpy(
        np.stack([soundfile.read(io.BytesIO(cell), dtype="float32")[0] for cell in cells])
    )


def _write(value: Any, sample_rate: int) -> bytes:
    import soundfile
    import torch

    buffer = io.BytesIO()
    sound = torch.as_tensor(value).float().clamp(-1, 1).numpy()
    soundfile.write(buffer, sound, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


# -- the classifier of an evaluation -----------------------------------------------------------


def _features(rate: int, device: Any) -> Any:
    import torch

    from nano4m.media.mel import FLOOR_DB, MelSpectrogram

    mel = MelSpectrogram(rate, n_fft=1024, hop=512, mels=40).to(device)

    def prepare(media: "Tensor") -> "Tensor":
        # Levels 60 dB below the peak are inaudible, and phase reconstruction makes them arbitrary.
        logmel_BMF = mel(media.float())
        floor = (logmel_BMF.amax((1, 2), keepdim=True) - 60).clamp_min(FLOOR_DB)
        return torch.maximum(logmel_BMF, floor)[:, None]

    return prepare


def _augment(x: "Tensor", generator: "Generator", send: Any) -> "Tensor":
    import torch

    # On standardised log-mel: a shift in time, a change of level, a mask in time and in frequency.
    x = planes.shift(x, (1, x.shape[3] // 10), generator, x.min())
    x = x + planes.uniform(x, 0.4, generator, send)
    x = x.clone()
    for axis in (2, 3):
        width = int(torch.randint(x.shape[axis] // 8 + 1, (), generator=generator))
        first = int(torch.randint(x.shape[axis] - width + 1, (), generator=generator))
        x.narrow(axis, first, width).zero_()
    return x


# -- fidelity ----------------------------------------------------------------------------------


def rms_db(sound: "Tensor") -> "Tensor":
    """Return the level of each sound (B, samples) in dB of full scale, not below FLOOR_DB."""
    from nano4m.media.mel import FLOOR_DB

    return (10 * sound.square().mean(1).clamp_min(1e-12).log10()).clamp_min(FLOOR_DB)


def _fidelity(x: "Tensor", y: "Tensor", tokenizer: Any) -> dict[str, float]:
    import torch

    from nano4m.media.mel import MelSpectrogram

    # A tokenizer of spectrograms is measured by its own, before the phase is made up.
    section = tokenizer.section if hasattr(tokenizer, "decode_logmel") else None
    sizes = [getattr(section, name, size) for name, size in SPECTRUM.items()]
    mel = MelSpectrogram(tokenizer.sample_rate, *sizes).to(x.device)
    original, waveform = mel(x), mel(y)
    decoded, way_back = waveform, {}
    if hasattr(tokenizer, "decode_logmel"):
        decoded = torch.cat([tokenizer.decode_logmel(tokenizer.encode(s)) for s in x.split(64)])
    if hasattr(tokenizer, "to_waveform"):
        # True spectrograms through the way back alone: what it loses before any token is made.
        true = torch.cat([tokenizer.to_waveform(part) for part in original.split(64)])
        name = getattr(tokenizer, "way_back", "griffin_lim")
        way_back = {
            f"{name}_logmel_error_db": (mel(true) - original).abs().mean().item(),
            f"{name}_rms_error_db": (rms_db(true) - rms_db(x)).abs().mean().item(),
        }
    loud = original > original.amax((1, 2), keepdim=True) - 40
    level = rms_db(y) - rms_db(x)
    return {
        "logmel_error_db": (decoded - original).abs().mean().item(),
        "logmel_error_loud_db": (decoded - original).abs()[loud].mean().item(),
        "waveform_logmel_error_db": (waveform - original).abs().mean().item(),
        "rms_error_db": level.abs().mean().item(),
        "rms_bias_db": level.mean().item(),
        **way_back,
    }


# -- on a page ---------------------------------------------------------------------------------


def log_mel(item: Item) -> np.ndarray:
    """Return the log-mel spectrogram of a sound in dB, (64 bands, frames), low bands first."""
    import torch

    from nano4m.media.mel import MelSpectrogram

    # A window of some 45 ms, so that each of 64 bands holds a bin of the spectrum.
    n_fft = 1024 if item.sample_rate <= 24000 else 2048
    sound = torch.as_tensor(item.value).float().reshape(1, -1)
    return MelSpectrogram(item.sample_rate, n_fft, n_fft // 4, 64)(sound)[0].numpy()


def _limit(item: Item) -> float:
    from nano4m.media.mel import FLOOR_DB

    return max(FLOOR_DB + LEVELS_DB, float(np.quantile(log_mel(item), 0.999)))


def _pixels(item: Item, top: float) -> np.ndarray:
    return planes.colored((log_mel(item)[::-1] - (top - LEVELS_DB)) / LEVELS_DB, "magma")


def _play(item: Item) -> bytes:
    import torch

    values = torch.as_tensor(item.value).double().reshape(-1).numpy()
    pcm = np.clip(np.round(values * 32768), -32767, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(item.sample_rate)
        file.writeframes(pcm.tobytes())
    return buffer.getvalue()


KIND = MediaKind(
    name="sound",
    form="sound",
    column="audio",
    layouts=("codebooks",),
    encode=flac,
    decode=_decode,
    claims=lambda path: int(path.suffix.lower() in SUFFIXES),
    suffixes=SUFFIXES,
    read=lambda path, clips: read_sound(path),
    suffix=".wav",
    write=_write,
    features=_features,
    augment=_augment,
    fidelity=_fidelity,
    limit=_limit,
    default_limit=0.0,
    pixels=_pixels,
    play=_play,
)
