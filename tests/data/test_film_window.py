"""The window of a long film is found in parts of it, and only its frames are decoded."""

import time
from fractions import Fraction

import av
import numpy as np
import pytest

from media_files import read_window
from nano4m.config.clips import ClipsConfig
from nano4m.data.windows import PARTS, parts


def film(path, seconds, loud_at):
    """A film of 2 small pictures a second, lighter with time, quiet but for one second."""
    ramp = np.arange(8000) / 8000
    quiet, loud = (np.int16(g * 32767 * np.sin(600 * np.pi * ramp))[None] for g in (0.01, 0.5))
    greys = [np.full((16, 16, 3), grey, np.uint8) for grey in range(256)]
    with av.open(str(path), "w") as container:
        shown = container.add_stream("mpeg4", rate=2)
        shown.width, shown.height, shown.pix_fmt = 16, 16, "yuv420p"
        track = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for second in range(seconds):
            for k in range(2):
                grey = greys[250 * second // seconds]
                frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
                frame.pts, frame.time_base = 2 * second + k, Fraction(1, 2)
                container.mux(shown.encode(frame))
            sound = loud if second == loud_at else quiet
            heard = av.AudioFrame.from_ndarray(sound, format="s16", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = 8000, 8000 * second, Fraction(1, 8000)
            container.mux(track.encode(heard))
        container.mux(shown.encode(None))
        container.mux(track.encode(None))
    return path


@pytest.mark.parametrize("seconds", [1.0, 600.0, 601.0, 7200.0, 1e5])
@pytest.mark.parametrize("window", ["loudest", "start", "centre"])
def test_parts_are_spread_over_a_longer_film_and_last_what_may_be_searched(seconds, window):
    found = parts(seconds, ClipsConfig(window=window))
    assert all(0 <= begin < end for begin, end in found)
    assert sum(end - begin for begin, end in found) == pytest.approx(
        600 if seconds <= 600 or window == "loudest" else 60
    )
    if seconds > 600 and window == "loudest":
        assert len(found) == PARTS and found[0][0] == 0
        assert found[-1][1] == pytest.approx(seconds)


def test_a_film_of_two_hours_gives_its_clip_in_seconds(tmp_path):
    begins = [begin for begin, _ in parts(7200.0, ClipsConfig())]
    loud = round(begins[6]) + 20  # in the seventh part
    path = film(tmp_path / "long.mkv", 7200, loud)
    begun = time.process_time()
    raw = read_window(path, ClipsConfig())
    assert time.process_time() - begun < 5
    heard = raw.start_s + np.flatnonzero(np.abs(raw.sound) > 0.1)[[0, -1]] / raw.sample_rate
    assert np.abs(heard - [loud, loud + 1]).max() < 0.1
    times = raw.start_s + np.array(raw.frame_times)
    assert (times > loud - 0.6).all() and (times < loud + 1.6).all()
    assert abs(raw.frames[0].mean() - 250 * loud / 7200) < 6
    assert raw.seconds == pytest.approx(7200, abs=1)
