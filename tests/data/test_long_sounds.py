"""Sounds that are longer than what is searched: heard in parts, within little memory."""

import io
import math
import tracemalloc

import av
import numpy as np
import pytest
import soundfile

from media_files import raw_recording
from nano4m.config.clips import ClipsConfig
from nano4m.data.cut import cut, cut_windows
from nano4m.data.windows import parts
from nano4m.errors import BadMedia
from nano4m.media.sound import read_sound
from nano4m.media.sound_file import opened_sound

RATE = 8000
SECONDS = 180
SETTINGS = ClipsConfig(search_seconds=30, sample_rate=16000, require=("sound",))
"""Ten parts of 3 s each."""


def quiet_and_loud(loud):
    """A sound that is quiet but for tones: begin in seconds -> pitch and level."""
    sound = np.random.default_rng(0).normal(0, 3e-3, SECONDS * RATE)
    for begin, (hertz, level) in loud.items():
        t = np.arange(RATE) / RATE
        sound[begin * RATE : (begin + 1) * RATE] += level * np.sin(2 * np.pi * hertz * t)
    return sound.astype(np.float32)


def write(path, sound):
    """Write with libsndfile, or with FFmpeg what it does not know."""
    if path.suffix not in (".m4a", ".mka", ".aac"):
        with soundfile.SoundFile(path, "w", RATE, 1) as file:
            for part in np.split(sound, 18):  # of more at once libsndfile's Vorbis dies
                file.write(part)
        return path
    with av.open(str(path), "w", format="adts" if path.suffix == ".aac" else None) as container:
        track = container.add_stream("aac", rate=RATE, layout="mono")
        for part in np.split(sound, 30):
            frame = av.AudioFrame.from_ndarray(part[None], format="fltp", layout="mono")
            frame.sample_rate = RATE
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def pitch(columns):
    sound, rate = soundfile.read(io.BytesIO(columns["audio"]))
    return np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 17)).argmax() * rate / (1 << 17)


BEGINS = [math.ceil(begin) for begin, _ in parts(SECONDS, SETTINGS)]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".m4a", ".mka", ".aac"])
def test_the_window_of_a_long_sound_is_in_the_loudest_of_its_parts(tmp_path, suffix):
    loud = {BEGINS[6]: (1000, 0.3), BEGINS[2]: (700, 0.1), BEGINS[6] + 10: (1500, 0.5)}
    path = write(tmp_path / f"a{suffix}", quiet_and_loud(loud))
    found = cut(raw_recording(path), SETTINGS)
    # An ADTS stream has no length: what it says is a guess from its bit rate.
    assert abs(pitch(found) - 1000) < 3 or suffix == ".aac"
    assert abs(found["offset_s"] - BEGINS[6]) < 0.2 or suffix == ".aac"
    assert "audio" in found


@pytest.mark.parametrize("suffix", [".wav", ".m4a"])
def test_several_windows_of_a_long_sound_lie_in_several_parts(tmp_path, suffix):
    loud = {BEGINS[k]: (500 + 100 * k, 0.1 + 0.03 * k) for k in (0, 3, 5, 8)}
    path = write(tmp_path / f"a{suffix}", quiet_and_loud(loud))
    asked = SETTINGS.model_copy(update={"windows_per_recording": 4})
    found = list(cut_windows(raw_recording(path), asked))
    assert np.allclose([pitch(own) for own in found], [1300, 1000, 800, 500], atol=3)
    wanted = [BEGINS[k] for k in (8, 5, 3, 0)]
    assert np.allclose([own["offset_s"] for own in found], wanted, atol=0.2)
    assert cut(raw_recording(path), SETTINGS) == found[0]


@pytest.mark.parametrize(("window", "begin"), [("start", 0), ("centre", SECONDS / 2 - 0.512)])
def test_the_first_or_the_middle_of_a_long_sound(tmp_path, window, begin):
    path = write(tmp_path / "a.wav", quiet_and_loud({3: (500, 0.2)}))
    found = cut(raw_recording(path), SETTINGS.model_copy(update={"window": window}))
    assert abs(found["offset_s"] - begin) < 0.01


def test_a_long_sound_takes_no_more_memory_than_its_parts(tmp_path):
    path = write(tmp_path / "a.wav", quiet_and_loud({BEGINS[1]: (500, 0.2)}))
    cut(raw_recording(path), SETTINGS)
    tracemalloc.start()
    try:
        cut(raw_recording(path), SETTINGS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < SECONDS * RATE * 4 / 2, "half of the sound"


def test_a_long_sound_that_is_cut_off_is_truncated(tmp_path):
    for suffix in (".wav", ".flac", ".m4a"):
        path = write(tmp_path / f"a{suffix}", quiet_and_loud({3: (500, 0.2)}))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(BadMedia, match=rf"(truncated|unreadable) file: a{suffix}"):
            cut(raw_recording(path), SETTINGS)


def test_what_is_read_at_once_is_bounded(tmp_path):
    soundfile.write(tmp_path / "long.flac", np.zeros(601 * 1000, np.int16), 1000)
    with pytest.raises(BadMedia, match="too long: long.flac lasts 601 s"):
        read_sound(tmp_path / "long.flac")
    sound, rate = read_sound(tmp_path / "long.flac", 600)
    assert len(sound) == 600 * rate
    path = write(tmp_path / "a.mka", quiet_and_loud({}))
    assert abs(len(read_sound(path, 50)[0]) / RATE - 50) < 0.15
    with opened_sound(tmp_path / "long.flac", 600) as found:
        assert found.seconds == 601 and found.whole is None
        part = found.sound(600.5, 700)
        assert part is not None and len(part.sound) == 500 and part.start == 600.5
        assert found.sound(700, 800) is None
