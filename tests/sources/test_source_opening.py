from __future__ import annotations

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.errors import SourceError
from progeo_edge.geometry import check_transform, quaternion_xyzw, rotation_angle, rotation_exp
from progeo_edge.sources import KINDS, open_source
from progeo_edge.sources.base import Entry, LazySource, SkippedFrame
from progeo_edge.sources.images import FrameError
from progeo_edge.sources.poses import PoseTrack
from progeo_edge.types import Frame
from tests.sources.image_files import write_folder, write_grey

PIXELS = np.zeros((4, 4), np.uint8)


def test_missing_source(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere does not exist; check the path"):
        open_source(tmp_path / "nowhere")


def test_sources_that_are_not_understood(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"it is an empty folder\. Expected one of: a folder with images.*\.mcap"):
        open_source(tmp_path / "empty")
    write_folder(tmp_path / "walk" / "day", ["a.png"])
    (tmp_path / "walk" / "readme.md").write_text("x")
    with pytest.raises(SourceError, match=r"it holds day, readme.md; there are images in day: name one of them"):
        open_source(tmp_path / "walk")
    with pytest.raises(SourceError, match=r"it is a single image; name its folder"):
        open_source(tmp_path / "walk" / "day" / "a.png")
    with pytest.raises(SourceError, match=r"it is a file ending in '.md'"):
        open_source(tmp_path / "walk" / "readme.md")


def test_kind_can_be_stated(tmp_path):
    write_folder(tmp_path, ["a.png"])
    (tmp_path / "rgb.txt").write_text("")
    assert len(list(open_source(tmp_path, kind="folder"))) == 1
    with pytest.raises(SourceError, match=r"kind 'tape' is unknown; expected auto, folder, list"):
        open_source(tmp_path, kind="tape")
    for kind in ("video", "list"):
        with pytest.raises(SourceError, match=f"is a folder; kind {kind} is"):
            open_source(tmp_path, kind=kind)
    for kind in ("folder", "tum", "euroc", "kitti"):
        with pytest.raises(SourceError, match=f"is a file; kind {kind} is"):
            open_source(tmp_path / "a.png", kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stated_kind_that_is_not_there(tmp_path, kind):
    (tmp_path / "inner").mkdir()
    write_grey(tmp_path / "inner" / "a.png", 1)
    with pytest.raises(SourceError):
        list(open_source(tmp_path, kind=kind))


def test_options_of_another_kind_are_refused(tmp_path):
    write_folder(tmp_path, ["a.png"])
    with pytest.raises(SourceError, match=r"image_topic = /x does not apply to .* it is for bag"):
        open_source(tmp_path, image_topic="/x")
    with pytest.raises(SourceError, match=r"poses file .* does not exist"):
        open_source(tmp_path, poses=tmp_path / "none.csv")
    with pytest.raises(SourceError, match="rate 0"):
        list(open_source(tmp_path, rate_hz=0))


def test_frames_are_decoded_one_at_a_time_and_only_when_due():
    loaded = []

    def entry(index: int) -> Entry:
        def load() -> Frame:
            loaded.append(index)
            return Frame(index * 10**8, PIXELS, str(index))

        return Entry(index * 10**8, str(index), load)

    source = LazySource("x", lambda: (entry(index) for index in range(40)), rate_hz=1)
    frames = iter(source)
    next(frames)
    assert loaded == [0]
    next(frames)
    assert loaded == [0, 10]
    assert [frame.name for frame in frames] == ["20", "30"]
    assert loaded == [0, 10, 20, 30]


def test_a_stream_of_mostly_bad_stamps_ends_in_an_error():
    stamps = [0, 10, 99, 20, 30, 40, 50]
    entries = [Entry(stamp, str(stamp), partial(Frame, stamp, PIXELS)) for stamp in stamps]
    source = LazySource("live", lambda: entries)
    seen = []
    with pytest.raises(SourceError, match="4 of 7 frames repeat or go back"):
        for frame in source:
            seen.append(frame.stamp_ns)
    assert seen == [0, 10, 99]
    assert len(source.skipped) == 4


def test_a_stream_without_frames_ends_in_an_error():
    with pytest.raises(SourceError, match="holds no frame"):
        list(LazySource("live", lambda: []))
    with pytest.raises(SourceError, match=r"none of its 1 frames can be used; the first: frame a: why"):
        list(LazySource("live", lambda: [SkippedFrame("a", "why")]))


def test_errors_other_than_broken_frames_are_not_swallowed():
    def broken() -> Frame:
        raise FrameError("dark")

    def fault() -> Frame:
        raise RuntimeError("a fault of the program")

    entries = [Entry(1, "a", broken), Entry(2, "b", fault)]
    source = LazySource("x", lambda: entries)
    with pytest.raises(RuntimeError):
        list(source)
    assert source.skipped == [SkippedFrame("a", "dark")]


@given(
    st.lists(st.floats(-1, 1), min_size=6, max_size=6),
    st.lists(st.floats(-1, 1), min_size=6, max_size=6),
    st.floats(0, 1),
)
def test_interpolation_is_rigid_and_on_the_way(first, second, share):
    rotations = [rotation_exp(first[3:]), rotation_exp(second[3:])]
    poses = [[*values[:3], *quaternion_xyzw(R)] for values, R in zip((first, second), rotations, strict=True)]
    poses[1][3:] = [-value for value in poses[1][3:]]  # the same rotation; slerp must take the short way
    track = PoseTrack([10_000_000, 20_000_000], poses, "track")
    T = track.at(10_000_000 + round(share * 10_000_000))
    start, end = track.at(10_000_000), track.at(20_000_000)
    assert T is not None and start is not None and end is not None
    check_transform(T, "the interpolated pose")
    np.testing.assert_allclose(turn_rad(start, T), share * turn_rad(start, end), atol=1e-5)
    np.testing.assert_allclose(T[:3, 3], (1 - share) * np.array(first[:3]) + share * np.array(second[:3]), atol=1e-6)


def turn_rad(T_a, T_b):
    return rotation_angle(T_a[:3, :3].T @ T_b[:3, :3])


def test_track_sorts_drops_repeats_and_leaves_gaps_open():
    poses = [[float(index), 0, 0, 0, 0, 0, 1] for index in range(4)]
    track = PoseTrack([300_000_000, 0, 900_000_000, 0], poses, "track")
    assert len(track) == 3
    for stamp_ns, x_m in [(0, 1.0), (150_000_000, 0.5)]:
        T = track.at(stamp_ns)
        assert T is not None
        np.testing.assert_allclose(T[:3, 3], [x_m, 0, 0])
    assert track.at(600_000_000) is None
    assert track.at(-1) is None
    assert track.at(900_000_001) is None


def test_sources_import_no_extra():
    code = (
        "import sys, progeo_edge.sources; print([m for m in ('rosbags', 'torch', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
