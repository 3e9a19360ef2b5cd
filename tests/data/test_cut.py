"""Cutting: windows, loudness, crops and keyframes, against known patterns and planted faults."""

import dataclasses
import io

import numpy as np
import pytest
import soundfile
from PIL import Image
from test_build import RATE, config, raw, sine

from nano4m.config.clips import ClipsConfig
from nano4m.config.run import Config
from nano4m.config.tokenizers import Bpe, MelVQ
from nano4m.data import cut, waveform
from nano4m.data.sources.base import RawMedia
from nano4m.errors import BadMedia
from nano4m.media import MEDIA


def decoded_sound(columns) -> np.ndarray:
    return soundfile.read(io.BytesIO(columns["audio"]), dtype="float32")[0]


# -- sound -------------------------------------------------------------------------------------


def test_mono_is_the_mean_of_the_channels():
    left, right = sine(0.1), sine(0.1, hertz=1000)
    assert np.allclose(waveform.to_mono(np.stack([left, right], 1)), (left + right) / 2, atol=1e-7)
    assert np.array_equal(waveform.to_mono(left), left)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
def test_resampling_keeps_duration_and_pitch(rate):
    sound = waveform.resample(sine(0.5, rate), rate, RATE)
    assert abs(len(sound) - 12000) <= 1 and sound.dtype == np.float32
    loudest = np.abs(np.fft.rfft(sound)).argmax() / (len(sound) / RATE)
    assert abs(loudest - 440) < 3
    assert abs(sound.std() - 0.5 / np.sqrt(2)) < 0.01


def test_window_policies_on_a_sound_with_one_loud_place():
    sound = np.full(1000, 0.01, np.float32)
    sound[620:720] = 0.5
    assert waveform.window_starts(sound, 100, "loudest") == [620]
    assert waveform.window_starts(sound, 100, "start") == [0]
    assert waveform.window_starts(sound, 100, "centre") == [450]
    with pytest.raises(ValueError, match="choose from"):
        waveform.window_starts(sound, 100, "end")


def test_the_loudest_window_is_that_of_a_plain_search():
    rng = np.random.default_rng(0)
    for _ in range(50):
        sound = np.float32(rng.normal(size=rng.integers(30, 200)) * rng.uniform(size=1))
        energies = [(sound[i : i + 30] ** 2).sum() for i in range(len(sound) - 29)]
        (found,) = waveform.window_starts(sound, 30, "loudest")
        assert energies[found] == pytest.approx(max(energies), rel=1e-5)


@pytest.mark.parametrize("policy", ["loudest", "start", "centre"])
def test_a_short_recording_lies_in_the_centre_of_zeros(policy):
    settings = config(min_seconds=0, window=policy).clips
    columns = cut.cut(raw(np.full(1001, 0.25, np.float32)), settings)
    sound = decoded_sound(columns)
    assert len(sound) == 6000
    heard = np.flatnonzero(sound)
    assert heard[0] in (2499, 2500) and len(heard) == 1001
    assert columns["offset_s"] == pytest.approx(-heard[0] / RATE)
    assert columns["rms_db"] == pytest.approx(20 * np.log10(0.25), abs=0.01)


@pytest.mark.parametrize(
    ("rate", "shape"), [(8000, (8000,)), (44100, (44100, 2)), (96000, (96000,)), (24000, (1, 1))]
)
def test_every_window_has_the_same_length(rate, shape):
    columns = cut.cut(raw(np.full(shape, 0.2, np.float32), rate), config(min_seconds=0).clips)
    assert len(decoded_sound(columns)) == 6000


@pytest.mark.parametrize("samples", [1, 3, 1199])
def test_a_recording_of_a_few_samples_is_refused(samples):
    settings = ClipsConfig(window_seconds=0.25)
    with pytest.raises(BadMedia, match=r"too short: 0\.0.* s, below min_seconds 0\.05 s"):
        cut.cut(raw(np.full(samples, 0.5, np.float32)), settings)
    kept = cut.cut(raw(np.full(1200, 0.5, np.float32)), settings)
    assert "reason" not in kept
    assert cut.cut(raw(np.full(3, 0.5, np.float32)), settings.model_copy(update={"min_seconds": 0}))


def test_a_shift_as_long_as_the_window_is_refused():
    with pytest.raises(ValueError, match="moves a view out of its window; it must be below"):
        Config(
            clips=ClipsConfig(window_seconds=0.5),
            tokenizers={"sound": MelVQ(shift_seconds=0.5), "caption": Bpe()},
        )


def test_silence_gives_a_reason_and_its_level():
    for sound in (np.zeros(9000, np.float32), sine(0.5, level=1e-4)):
        columns = cut.cut(raw(sound), config().clips)
        assert columns["reason"].startswith("silent: ") and columns["rms_db"] < -60
        assert "audio" not in columns
    assert "reason" not in cut.cut(raw(sine(0.5, level=1e-4)), config(silence_db=-90).clips)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_refused(bad):
    sound = sine(0.5)
    sound[77] = bad
    with pytest.raises(BadMedia, match="not finite: 1 of 12000"):
        cut.cut(raw(sound), config().clips)
    with pytest.raises(BadMedia, match="no samples"):
        cut.cut(raw(np.zeros(0, np.float32)), config().clips)


def test_loudness_is_set_and_never_clips():
    steady = decoded_sound(cut.cut(raw(sine(0.5, level=0.01)), config(target_rms_db=-23.0).clips))
    assert 20 * np.log10(np.sqrt((steady**2).mean())) == pytest.approx(-23, abs=0.05)
    peaky = sine(0.5, level=0.01)
    peaky[3000] = 0.9
    loud = decoded_sound(cut.cut(raw(peaky), config(target_rms_db=-10.0).clips))
    assert np.abs(loud).max() == pytest.approx(0.99, abs=1e-3)
    untouched = decoded_sound(cut.cut(raw(sine(0.25, level=0.3)), config().clips))
    assert np.allclose(untouched, sine(0.25, level=0.3), atol=2**-15)
    beyond = decoded_sound(cut.cut(raw(sine(0.25, level=2.0)), config().clips))
    assert np.allclose(beyond, sine(0.25, level=1.0), atol=1e-3)


# -- pictures ----------------------------------------------------------------------------------


def pattern(height: int, width: int) -> RawMedia:
    """Picture, depth and normals that show one and the same smooth pattern, without symmetry."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    value = 0.5 + 0.4 * np.sin(x / 5 + 1) * np.cos(y / 6 + 2)
    frame = np.repeat(np.round(value * 255).astype(np.uint8)[..., None], 3, axis=2)
    tilt = value[..., None] * np.float32([1, 0, 0])
    normals = tilt + np.sqrt(1 - value**2)[..., None] * np.float32([0, 0, 1])
    return RawMedia(
        sound=sine(0.5),
        sample_rate=RATE,
        frames=(frame,),
        planes={"depth": (1 / value,), "normals": (normals,)},
    )


def maps(columns) -> dict[str, np.ndarray]:
    kinds = (MEDIA[name] for name in ("picture", "depth", "normals"))
    return {k.name: k.decode([columns[k.column]], 0)[0].numpy()[0] for k in kinds}


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (48, 48), (33, 57), (12, 17)])
def test_picture_depth_and_normals_show_the_same_place(height, width):
    columns = cut.cut(pattern(height, width), config(picture_size=24).clips)
    side = min(height, width)
    assert columns["crop"] == [[(width - side) // 2, (height - side) // 2, side]]
    shown = maps(columns)
    assert np.abs(shown["picture"] - shown["depth"]).mean() < 0.02
    assert np.abs(shown["picture"] - shown["normals"]).mean() < 0.02


@pytest.mark.parametrize("fault", ["depth", "normals"])
def test_a_wrong_crop_of_one_of_them_would_be_seen(monkeypatch, fault):
    """The positive control of the test above: its measure sees a squash instead of the crop."""
    right = MEDIA[fault]

    def squash(array, box, clips):
        height, width = array.shape[:2]
        side = min(height, width)
        rows, columns = (np.linspace(0, n - 1, side).astype(int) for n in (height, width))
        return right.crop(array[rows][:, columns], (0, 0, side), clips)

    monkeypatch.setitem(MEDIA, fault, dataclasses.replace(right, crop=squash))
    shown = maps(cut.cut(pattern(40, 60), config(picture_size=24).clips))
    assert np.abs(shown["picture"] - shown[fault]).mean() > 0.1


def test_depth_is_inverse_and_the_sky_is_zero():
    distance = np.full((16, 16), 4.0, np.float32)
    distance[:8] = np.inf
    distance[8:, :8] = 0.5
    media = raw()
    picture = np.zeros((16, 16, 3), np.uint8)
    media = RawMedia(
        sound=media.sound, sample_rate=RATE, frames=(picture,), planes={"depth": (distance,)}
    )
    columns = cut.cut(media, config(depth_near=1.0).clips)
    coded = np.asarray(Image.open(io.BytesIO(columns["depth"][0])), np.float64) / 65535
    assert np.allclose(coded[:8], 0) and np.allclose(coded[8:, 8:], 0.25, atol=1e-4)
    assert np.allclose(coded[8:, :8], 1)


def test_wrong_maps_are_refused():
    distance, normals = np.ones((20, 30)), np.zeros((20, 30, 3))
    settings = config().clips
    with pytest.raises(BadMedia, match="wrong normals"):
        cut.cut(raw(planes={"normals": (normals,)}), settings)
    with pytest.raises(BadMedia, match="wrong depth: .* NaN"):
        cut.cut(raw(planes={"depth": (distance * np.nan,)}), settings)
    with pytest.raises(BadMedia, match=r"wrong depth: \(20, 20\) pixels"):
        cut.cut(raw(planes={"depth": (distance[:, :20],)}), settings)


def test_keyframes_lie_inside_the_window_evenly_and_once():
    times = tuple(i * 0.1 for i in range(100))
    assert cut.choose_frames(times, 100, 4, 5.0, 6.0) == [51, 54, 56, 59]
    assert cut.choose_frames(times, 100, 10, 5.02, 6.02) == list(range(51, 61))
    with pytest.raises(BadMedia, match="too few frames: 10 of 11"):
        cut.choose_frames(times, 100, 11, 5.02, 6.02)
    rng = np.random.default_rng(0)
    for _ in range(200):
        times = tuple(np.sort(rng.uniform(0, 2, 30)))
        inside = sum(0.5 <= time <= 1.5 for time in times)
        needed = int(rng.integers(1, inside + 1))
        chosen = cut.choose_frames(times, 30, needed, 0.5, 1.5)
        assert len(set(chosen)) == needed and chosen == sorted(chosen)
        assert all(0.5 <= times[i] <= 1.5 for i in chosen)


def test_the_frame_of_a_video_is_that_of_the_loud_moment():
    sound = np.zeros(10 * RATE, np.float32)
    sound[7 * RATE : 8 * RATE] = sine(1)
    frames = tuple(np.full((20, 20, 3), 10 * i, np.uint8) for i in range(20))
    media = RawMedia(
        sound=sound, sample_rate=RATE, frames=frames, frame_times=tuple(i / 2 for i in range(20))
    )
    columns = cut.cut(media, config(window_seconds=1.0, frames=2).clips)
    shown = [np.asarray(Image.open(io.BytesIO(b))).mean() for b in columns["frames"]]
    assert np.allclose(shown, [140, 150], atol=2) or np.allclose(shown, [150, 160], atol=2)
    assert columns["offset_s"] == pytest.approx(7, abs=1e-3)


def test_still_pictures_are_repeated_or_left_off_and_none_is_refused():
    assert cut.choose_frames(None, 3, 5, 0, 1) == [0, 1, 2, 0, 1]
    assert cut.choose_frames(None, 3, 2, 0, 1) == [0, 1]
    with pytest.raises(BadMedia, match="no picture"):
        cut.cut(raw(frames=0), config().clips)
