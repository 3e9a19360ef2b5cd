"""Files as people have them, given to ``nano4m generate``: their names, forms and lacks."""

import io
import os
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_generate_command import ids_of, make, run  # noqa: F401

from conftest import SHARED
from media_files import tone, video
from nano4m.config.clips import ClipsConfig
from nano4m.errors import UserError
from nano4m.inference.inputs import LONGEST_STEM, _recording_cells, read_files
from nano4m.inference.loaded_run import open_run

NAMES = [
    "a=b.wav",
    "=.wav",
    "sound=b.wav",
    "a,b;c.wav",
    "two words .wav",
    "\u732b\u306e\u58f0 \U0001f431 \u017e\u00e1ba.wav",
    "-x.wav",
    "--in.wav",
    "%d {} $HOME 'q'.wav",
    "a\nb.wav",
    "x" * 247 + ".wav",
    "\u732b" * 83 + ".wav",
    b"b\xe4r.wav",
]


def place(folder: Path, name: str | bytes) -> Path:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + os.fsencode(name)))
    source = tone(folder / "source.wav", 0.4)
    os.rename(source, path)
    return path


open_once = cache(lambda run: open_run(run, "cpu"))  # noqa: F811


def read(run, path):  # noqa: F811
    return read_files([str(path)], None, open_once(run), lambda text: text.encode())


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_sound_of_any_name_is_read_and_gives_names_that_can_be_written(run, tmp_path, name):  # noqa: F811
    path = place(tmp_path, name)
    given = read(run, path)
    assert len(given.name.encode()) <= LONGEST_STEM + 9
    (tmp_path / f"{given.name}-0000.normals.png").write_text("")
    text = given.about["given"][0]["file"]
    text.encode()
    shutil.copy(path, tmp_path / "plain.wav")
    plain = read(run, tmp_path / "plain.wav")
    assert (plain.ids_L == given.ids_L).all() and plain.name == "plain"


def test_names_with_signs_go_through_the_command(make, run, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    long = "x" * 246 + "=.wav"
    place(tmp_path, long)
    out, record = make("--in", long, "--out", "rgb")
    (name,) = record["samples"]
    assert name.startswith("x" * LONGEST_STEM + "-") and (out / f"{name}.rgb.png").exists()
    assert set(ids_of(out)) == {"sample_names", "rgb"}
    place(tmp_path, "-x=b,c.wav")
    _, record = make("--in", "sound=./-x=b,c.wav", "--out", "rgb", folder="dash")
    assert record["samples"] == ["-x=b,c-00"]


def test_a_file_that_is_not_there_is_said_to_be_missing(run, tmp_path):  # noqa: F811
    for text in (f"{tmp_path}/a=b.wav", "a=b.wav", "gone.wav"):
        with pytest.raises(UserError, match=r"no (such )?file"):
            read(run, text)


# -- films -------------------------------------------------------------------------------------


def test_a_film_gives_what_it_has(make, run, tmp_path):  # noqa: F811
    both, mute = video(tmp_path / "both.mp4", 1.0), video(tmp_path / "mute.mp4", 1.0, False)
    blind = tone(tmp_path / "sound.wav", 1.0, 44100).rename(tmp_path / "blind.avi")

    def given(text):
        return read(run, text).about["given"][0]

    assert given(both)["modalities"] == ["rgb", "sound"]
    assert given(blind)["modalities"] == ["sound"]
    assert given(f"rgb={both}")["modalities"] == ["rgb"]
    with pytest.raises(UserError, match="no sound: mute.mp4 has no audio stream; give another"):
        read(run, f"sound={mute}")
    with pytest.raises(UserError, match="no pictures: blind.avi has no video stream; give another"):
        read(run, f"rgb={blind}")
    out, record = make("--in", str(mute), "--out", "sound")
    one = record["inputs"][0]["given"][0]
    assert one["modalities"] == ["rgb"]
    assert one["note"].endswith("no sound: mute.mp4 has no audio stream")
    assert len(soundfile.read(out / "mute-00.sound.wav")[0]) == 9600


# -- forms of sounds ---------------------------------------------------------------------------

CLIPS = ClipsConfig(window_seconds=0.5)


def heard(path):
    """Pitch in Hz and level in dB of what a tokenizer is given."""
    cells, _ = _recording_cells(path, CLIPS)
    sound, rate = soundfile.read(io.BytesIO(cells["sound"]))
    assert rate == 24000 and len(sound) == 12000
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 17))
    return spectrum.argmax() * rate / (1 << 17), 10 * np.log10(np.square(sound).mean())


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
def test_sounds_of_any_depth_channels_and_rate_sound_the_same(tmp_path, subtype, channels, rate):
    wave = 0.25 * np.sin(2 * np.pi * 1000 * np.arange(round(0.6 * rate)) / rate)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.repeat(wave[:, None], channels, 1), rate, subtype=subtype)
    hertz, level = heard(path)
    assert abs(hertz - 1000) < 2 and abs(level - 20 * np.log10(0.25 / np.sqrt(2))) < 0.1


@pytest.mark.parametrize("channel", range(6))
def test_a_sound_in_one_of_six_channels_is_heard(tmp_path, channel):
    sound = np.zeros((28800, 6))
    sound[:, channel] = 0.25 * np.sin(2 * np.pi * 1000 * np.arange(28800) / 48000)
    soundfile.write(tmp_path / "a.wav", sound, 48000)
    hertz, level = heard(tmp_path / "a.wav")
    assert abs(hertz - 1000) < 2 and abs(level - 20 * np.log10(0.25 / np.sqrt(2))) < 0.1


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data of ../shared: odd_files")
def test_odd_files_are_given_as_they_are_read_elsewhere(run):  # noqa: F811
    odd = SHARED / "odd_files"
    for name in ("aac.m4a", "adts.aac", "opus_audio_only.webm", "aac_audio_only.mp4", "pcm24.wav"):
        hertz, level = heard(odd / "sound" / name)
        assert abs(hertz - 1000) < 3 and abs(level + 15.1) < 0.8, name
    for name in ("tif.tif", "gif.gif", "avif.avif"):
        given = read(run, odd / "pic" / name)
        picture = np.moveaxis(given.media["rgb"].numpy(), 0, -1)
        assert picture[16, 2, 0] > 0.6 > 0.4 > picture[16, 2, 2], "red on the left"
        assert picture[16, -3, 2] > 0.6 > 0.4 > picture[16, -3, 0], "blue on the right"
    film = read(run, odd / "vid" / "good.mp4").media["rgb"].numpy()
    assert film[2].mean() > 0.6 > 0.3 > film[0].mean(), "blue at its beep"
    given = read(run, odd / "fuzz" / "DecoderNotFoundError_185.mp4").about["given"][0]
    assert given["modalities"] == ["rgb"]
    assert "no sound that can be decoded: DecoderNotFoundError_185.mp4 (" in given["note"]
    for name, said in (
        ("pic/huge_256MP.png", "too large: huge_256MP.png has 16000 x 16000"),
        ("fuzz/DecompressionBombError_3659.jpg", "too large: DecompressionBomb"),
        ("pic/heic_named.jpg", "needs pillow-heif|unreadable file"),
    ):
        with pytest.raises(UserError, match=f"{said}.*; give another file"):
            read(run, odd / name)
