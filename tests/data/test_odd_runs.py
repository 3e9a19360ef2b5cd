"""Folders of ../shared/data/odd_files through the clips stage: what is kept, heard and seen."""

import csv

import numpy as np
import pytest
from test_build import config
from test_folder_forms import needs_odd, odd

from nano4m.data.build import build_clips
from nano4m.data.clip_table import open_clips

pytestmark = needs_odd


def built(tmp_path, case):
    """Counts, table and manifest by clip id of a case, as the preset animals requires no medium."""
    data = odd(case, tmp_path / "data")
    counts = build_clips(config(require=(), window_seconds=1.024), data, tmp_path / "out")
    with (tmp_path / "out" / "manifest.csv").open() as file:
        return counts, open_clips(tmp_path / "out"), {r["clip_id"]: r for r in csv.DictReader(file)}


def pitch(table, row):
    sound = table.media("sound", [row])[0].numpy()
    return np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 17)).argmax() * 24000 / (1 << 17)


def colour(table, row):
    return table.media("picture", [row], frame=0)[0].numpy().mean((1, 2)) * 255


@pytest.mark.parametrize(
    "name",
    ["pic/exif6_resolution_as_text.jpg", "fuzz/error_1658.jpg", "pic/huge_256MP.png", "pic/cut.jpg"]
    + ["fuzz/DecompressionBombError_3659.jpg", "pic/heic_named.jpg"],
)
def test_one_odd_picture_costs_no_clip_and_no_class(tmp_path, name):
    counts, table, rows = built(tmp_path, f"picture:{name}")
    assert counts["by_label"] == {"cat": [6, 6], "cow": [6, 6], "dog": [6, 6]}
    assert table.present("picture").all() and table.present("sound").all()
    if "huge" in name or "Bomb" in name:
        assert counts["files_not_read"] == {"a picture that cannot be opened": {"dog": 1}}


def test_a_class_of_phone_recordings_is_kept_with_its_pitches(tmp_path):
    counts, table, _ = built(tmp_path, "m4a_class")
    assert counts["by_label"]["goat"] == [6, 6]
    for row in np.flatnonzero(table.labels == "goat"):
        number = int(str(table.clip_ids[row]).split("rec")[1][0])
        assert abs(pitch(table, row) - (400 + 90 * number)) < 3


def test_films_of_odd_clocks_and_lengths_are_kept_with_the_frames_of_their_beep(tmp_path):
    blue = ("start_1h.mkv", "start_60s.mkv", "audio_gap.mkv", "start_neg.mkv", "apac_first.mov")
    names = [*blue, "len_60s.mkv", "no_audio.mp4", "unknown_picture_codec.mp4"]
    counts, table, rows = built(tmp_path, "films:" + ",".join(f"vid/{name}" for name in names))
    ids = [str(clip) for clip in table.clip_ids]
    for name in names:
        assert rows[name]["kept"] == "1", rows[name]["reason"]
        row = ids.index(name)
        if name in blue:
            assert np.abs(colour(table, row) - (28, 27, 199)).max() < 25, name
        if name == "len_60s.mkv":
            assert abs(float(rows[name]["start_s"]) - 30) < 1.1
        if name == "no_audio.mp4":
            assert "sound" not in rows[name]["media"] and "picture" in rows[name]["media"]
        elif name == "unknown_picture_codec.mp4":
            assert "picture" not in rows[name]["media"]
        if "sound" in rows[name]["media"]:
            hertz = 300 if name == "apac_first.mov" else 1000  # of its only track that decodes
            assert abs(pitch(table, row) - hertz) < 4, name
    assert counts["kept"] == 18 + len(names)


def test_sounds_of_every_form_are_kept_or_left_out_by_kind(tmp_path):
    counts, table, rows = built(tmp_path, "sounds:sound")
    gone = {name: r["reason"].split(":")[0] for name, r in rows.items() if r["kept"] == "0"}
    assert gone == {
        "html_404.wav": "unreadable file",
        "lfs_pointer.wav": "unreadable file",
        "list_odd_unpadded.wav": "unreadable file",
        "ogg_cut.ogg": "no samples",
        "mp3_cut.mp3": "truncated file",
    }
    tones = np.flatnonzero(table.labels == "tone")
    assert len(tones) > 40
    for row in tones:
        assert abs(pitch(table, row) - 1000) < 4, table.clip_ids[row]
