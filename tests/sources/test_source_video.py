from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from progeo_edge.errors import SourceError
from progeo_edge.sources import open_source


def write_video(path: Path, num_frames: int = 30, fps: float = 10.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (64, 48))
    noise = np.random.default_rng(0)
    for index in range(num_frames):
        frame = noise.integers(0, 60, (48, 64, 3), np.uint8)
        writer.write(frame + np.uint8(6 * index))
    writer.release()
    return path


def test_frames_have_the_stamps_of_the_container(tmp_path):
    source = open_source(write_video(tmp_path / "a.avi"))
    frames = list(source)
    assert (source.num_frames, len(frames), source.skipped) == (30, 30, [])
    assert [round(frame.stamp_ns / 1e6) for frame in frames] == [100 * index for index in range(30)]
    assert frames[3].name == "000003"
    levels = [frame.image.mean() for frame in frames]
    assert np.all(np.diff(levels) > 3)
    assert [frame.name for frame in source] == [frame.name for frame in frames]


def test_rate_and_stated_fps(tmp_path):
    path = write_video(tmp_path / "a.avi")
    assert [frame.name for frame in open_source(path, rate_hz=1)] == ["000000", "000010", "000020"]
    assert [frame.stamp_ns for frame in open_source(path, fps=4)][:3] == [0, 250_000_000, 500_000_000]


def test_a_broken_frame_in_the_middle_is_skipped(tmp_path):
    path = write_video(tmp_path / "a.avi")
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xd8", len(data) // 2)
    data[start : start + 300] = bytes(300)
    path.write_bytes(data)
    source = open_source(path)
    frames = list(source)
    assert len(frames) == 29
    (skipped,) = source.skipped
    assert skipped.name not in [frame.name for frame in frames]
    assert {skipped.name, *(frame.name for frame in frames)} == {f"{index:06d}" for index in range(30)}
    assert [round(frame.stamp_ns / 1e8) for frame in frames] == [int(frame.name) for frame in frames]


def test_a_cut_off_end_is_reported(tmp_path):
    path = write_video(tmp_path / "a.avi")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    source = open_source(path)
    num_read = len(list(source))
    assert 5 < num_read < 30
    assert [skipped.reason for skipped in source.skipped] == [
        f"the video ends after {num_read} of the 30 frames it states"
    ]


@pytest.mark.parametrize("data", [b"", b"no video" * 100])
def test_unreadable_videos(tmp_path, data):
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"cannot be opened.*convert it"):
        open_source(path)


def test_impossible_fps(tmp_path):
    with pytest.raises(SourceError, match="fps -1"):
        open_source(write_video(tmp_path / "a.avi", 3), fps=-1)
