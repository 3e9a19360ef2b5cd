"""Sounds and films of ../shared/data/odd_files: length, pitch, level, and colour at the beep."""

import numpy as np
import pytest

from media_files import raw_recording, read_window
from nano4m.config.clips import ClipsConfig
from nano4m.data.cut import cut
from nano4m.data.waveform import to_mono
from nano4m.errors import BadMedia
from nano4m.media.film import VIDEOS
from nano4m.media.sound import read_sound

SECONDS = {
    "id3_art.mp3": 1.2278,
    "vbr_noxing_low_first.mp3": 2.4555,
    "vbr_noxing_high_first.mp3": 2.4555,
    "vbr_noxing_quiet32_loud320.mp3": 3.0824,
    "mp3_joined.mp3": 3.0824,
    "good.ogg": 3.0,
    "good.opus": 2.0,
    "double64.wav": 0.9,
    "imaadpcm.wav": 1.2756,
    "stereo96k_float.wav": 0.2,
    "ogg_long_cut.ogg": 12.7413,
    "opus_cut.opus": 0.9735,
}
"""Where it is not 1.2 s."""
UNREADABLE = {
    "html_404.wav": "unreadable file",
    "lfs_pointer.wav": "unreadable file",
    "list_odd_unpadded.wav": "unreadable file",
    "ogg_cut.ogg": "no samples",
    "mp3_cut.mp3": "truncated file",
}


def pitch_and_level(sound, rate):
    mono = to_mono(sound).astype(np.float64)
    spectrum = np.abs(np.fft.rfft(mono * np.hanning(len(mono))))
    return spectrum.argmax() * rate / len(mono), 10 * np.log10(np.square(mono).mean())


@pytest.fixture
def folder(shared_data):
    return shared_data / "odd_files"


def test_sounds_of_any_form_have_their_length_pitch_and_level(folder):
    for path in sorted((folder / "sound").iterdir()):
        if path.name in UNREADABLE:
            with pytest.raises(BadMedia, match=f"{UNREADABLE[path.name]}: {path.name}"):
                read_sound(path)
            continue
        sound, rate = read_sound(path)
        wanted = SECONDS.get(path.name, 1.2)
        assert abs(len(sound) / rate - wanted) < 0.035, path.name
        hertz, level = pitch_and_level(sound, rate)
        assert abs(hertz - 1000) < 4, path.name
        if "float_peak4" not in path.name and "noxing" not in path.name:
            low = -21.2 if path.name == "left_only.wav" else -15.1
            assert abs(level - low) < (3 if "joined" in path.name else 0.8), path.name


def test_channels_that_cancel_or_are_empty_are_not_silent(folder):
    for name in ("sound/antiphase.wav", "sound2/ch6_centre_only.wav", "sound2/ch6.wav"):
        hertz, level = pitch_and_level(*read_sound(folder / name))
        assert abs(hertz - 1000) < 4 and abs(level + 15.05) < 0.1, name


def test_recordings_of_phones_are_read(folder):
    for number, path in enumerate(sorted((folder / "class_m4a").iterdir())):
        hertz, level = pitch_and_level(*read_sound(path))
        assert abs(hertz - (400 + 90 * number)) < 2 and abs(level + 15) < 0.5


OTHERS = ("len_", "bt", "chart", "disc", "mirror", "turn", "two_tracks.mkv")
BLUE = (28, 27, 199)
NOT_KEPT = {
    "audio_longer.mp4": "too few frames: 0 of 1 inside the window",
    "fast_cut.mp4": "truncated file: fast_cut.mp4",
    "frag_cut.mp4": "truncated file: frag_cut.mp4",
    "no_moov.mp4": "unreadable file: no_moov.mp4",
    "no_audio.mp4": "no sound: no_audio.mp4 has no audio stream",
    "unknown_picture_codec.mp4": (
        "no pictures that can be decoded: unknown_picture_codec.mp4 \\(zzzz\\)"
    ),
}


def beep(path):
    """Begin of the beep, and the mean colour of the middle of the frame at its centre."""
    raw = read_window(path, ClipsConfig())
    loud = np.flatnonzero(np.abs(to_mono(raw.sound)) > 0.1) / raw.sample_rate
    centre = (loud[0] + loud[-1]) / 2
    frame = raw.frames[int(np.argmin([abs(time - centre) for time in raw.frame_times]))]
    height, width = frame.shape[:2]
    middle = frame[height // 4 : -height // 4, width // 4 : -width // 4]
    return raw.start_s + loud[0], middle.reshape(-1, 3).mean(0), frame


def test_films_are_blue_at_their_beep_whatever_their_clocks_say(folder):
    seen = 0
    for path in sorted((folder / "vid").iterdir()):
        name = path.name
        if name in NOT_KEPT:
            with pytest.raises(BadMedia, match=NOT_KEPT[name]):
                cut(raw_recording(path), ClipsConfig())
        elif not name.startswith(
            ("len_", "bt", "chart", "disc", "mirror", "turn", "two_tracks.mkv")
        ):
            begin, colour, _ = beep(path)
            late = 0.2 if name == "frag.mp4" else 0
            assert abs(begin - 2.2 - late) < 0.03, name
            wanted = (29, 178, 28) if name == "video_late.mkv" else BLUE
            assert np.abs(colour - wanted).max() < 12, name
            seen += 1
    assert seen >= 35


@pytest.mark.parametrize(
    ("name", "begin", "colour"),
    [
        ("len_30s.mkv", 15, (199, 199, 28)),
        ("len_43s.mkv", 21.5, (199, 199, 28)),
        ("len_60s.mkv", 30, (199, 28, 29)),
    ],
)
def test_films_of_any_length_show_the_frames_inside_their_window(folder, name, begin, colour):
    found, shown, _ = beep(folder / "vid" / name)
    assert abs(found - begin) < 0.03 and np.abs(shown - colour).max() < 12
    assert cut(raw_recording(folder / "vid" / name), ClipsConfig())["frames"]


def test_films_are_turned_mirrored_and_of_square_pixels(folder):
    def corners(name):
        frame = beep(folder / "vid" / name)[2]
        h, w = frame.shape[0] * 3 // 8, frame.shape[1] * 3 // 8
        middle = np.array([[frame[h, w], frame[h, -w]], [frame[-h, w], frame[-h, -w]]], int)
        return middle

    plain = corners("chart.mp4")
    assert np.abs(plain[0, 0] - plain[0, 1]).max() > 100  # red and blue
    assert np.abs(corners("mirror.mp4") - plain[:, ::-1]).max() < 40
    assert np.abs(corners("turn_180.mp4") - np.rot90(plain, 2)).max() < 40
    assert np.abs(corners("turn_cw90.mp4") - np.rot90(plain, -1)).max() < 40
    assert np.abs(corners("turn_ccw90.mp4") - np.rot90(plain, 1)).max() < 40
    for name in ("disc_square.mp4", "disc_sar_2_1.mp4"):
        frame = read_window(folder / "vid" / name, ClipsConfig()).frames[0]
        bright = np.abs(frame[..., 0].astype(int) - int(frame[2, 2, 0])) > 60
        width, height = np.ptp(np.nonzero(bright.any(0))) + 1, np.ptp(np.nonzero(bright.any(1))) + 1
        assert frame.shape == (96, 192, 3) and abs(width - 61) < 3 and abs(height - 61) < 3


def test_the_first_track_that_can_be_decoded_is_taken_and_others_are_named(folder):
    assert abs(beep(folder / "vid" / "apac_first.mov")[0] - 2.2) < 0.03
    assert abs(beep(folder / "vid" / "two_tracks.mp4")[0] - 2.2) < 0.03
    with pytest.raises(BadMedia, match=r"no sound that can be decoded: DecoderNotFound\S* \("):
        read_window(folder / "fuzz" / "DecoderNotFoundError_185.mp4", ClipsConfig())


@pytest.mark.parametrize(("name", "hertz"), [("two_tracks.mp4", 1000), ("two_tracks.mkv", 300)])
def test_of_two_tracks_the_default_one_is_heard_and_where_none_is_marked_the_first(
    folder, name, hertz
):
    found, _ = pitch_and_level(*read_sound(folder / "vid" / name))
    assert abs(found - hertz) < 4


def test_films_of_phones_and_silent_films_are_read(folder):
    assert ".3gp" in VIDEOS
    for path in sorted((folder / "vidfmt").iterdir()):
        raw = read_window(path, ClipsConfig(window_seconds=6))
        assert abs(raw.seconds - 5) < 0.05 and len(raw.frames) > 9
    picture = read_window(folder / "vid" / "no_audio.mp4", ClipsConfig(require=("picture",)))
    assert picture.sound is None and len(picture.frames) > 9
    columns = cut(raw_recording(folder / "vid" / "no_audio.mp4"), ClipsConfig(require=("picture",)))
    assert columns["frames"] and "audio" not in columns
