"""Recordings as training images: frames as files, read once, with odometry or without."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from progeo_edge.errors import SourceError
from progeo_train.config import PlacesConfig
from progeo_train.data import frame_files
from progeo_train.data.frame_files import MARKER
from progeo_train.data.recording import read_recording, split_options
from tests.sources.image_files import break_file, level, write_folder

S = 10**9
SMALL = PlacesConfig(min_images_per_class=2, window_s=2.0, min_gap_s=2.0)


def write_video(path: Path, seconds: int = 8, fps: float = 10.0) -> Path:
    """Frame k is grey of level 2 k + 10."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (64, 48))
    for k in range(round(seconds * fps)):
        writer.write(np.full((48, 64, 3), min(2 * k + 10, 255), np.uint8))
    writer.release()
    return path


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_frames_of_a_video_are_written_once_and_grouped_by_time(tmp_path: Path) -> None:
    video, cache, seen = write_video(tmp_path / "drive.avi"), tmp_path / "cache", list[int]()
    table, groups = read_recording(str(video), SMALL, cache, seen.append)
    assert len(table) == sum(seen) == 16
    assert np.allclose(table.time_s, np.arange(16) * 0.5)
    assert np.isnan(table.east_m).all()
    levels = [level(cv2.imread(str(table.path(row)))) for row in range(16)]
    assert np.allclose(levels, 10 + 10 * np.arange(16), atol=3)
    assert (
        sorted(len(groups.members(g, k)) for g in range(groups.num_groups) for k in range(groups.num_classes(g)))
        == [4] * 4
    )
    written = {path: path.stat().st_mtime_ns for path in files(cache)}
    assert len(written) == 17
    again, same_groups = read_recording(str(video), SMALL, cache, seen.append)
    assert sum(seen) == 16
    assert again.names == table.names and np.array_equal(again.time_s, table.time_s)
    assert same_groups.fingerprint() == groups.fingerprint()
    assert {path: path.stat().st_mtime_ns for path in files(cache)} == written


def test_a_killed_extraction_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video, cache = write_video(tmp_path / "drive.avi"), tmp_path / "cache"

    def until_the_fifth(path: Path, image: object) -> None:
        if path.stem == "000005":
            raise KeyboardInterrupt
        path.write_bytes(b"half a file")

    with monkeypatch.context() as patch:
        patch.setattr(frame_files, "write_jpeg", until_the_fifth)
        with pytest.raises(KeyboardInterrupt):
            read_recording(str(video), SMALL, cache)
    assert len(files(cache)) == 5
    table, _ = read_recording(str(video), SMALL, cache)
    assert all(cv2.imread(str(table.path(row))) is not None for row in range(16))


def test_a_damaged_list_of_frames_is_made_again(tmp_path: Path) -> None:
    video, cache = write_video(tmp_path / "drive.avi"), tmp_path / "cache"
    read_recording(str(video), SMALL, cache)
    (marker,) = cache.rglob(MARKER)
    for damage in (b"", b"no archive", marker.read_bytes()[:200]):
        marker.write_bytes(damage)
        assert len(read_recording(str(video), SMALL, cache)[0]) == 16


def test_another_interval_or_another_file_is_read_anew(tmp_path: Path) -> None:
    video, cache = write_video(tmp_path / "drive.avi"), tmp_path / "cache"
    assert len(read_recording(str(video), SMALL, cache)[0]) == 16
    assert len(read_recording(str(video), SMALL.model_copy(update={"frame_interval_s": 0.0}), cache)[0]) == 80
    write_video(video, seconds=4)
    assert len(read_recording(str(video), SMALL, cache)[0]) == 8


def test_images_of_a_folder_stay_where_they_are_and_broken_ones_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, cache = tmp_path / "drive", tmp_path / "cache"
    write_folder(folder, [f"images/{k:03d}.png" for k in range(12)])
    break_file(folder / "images" / "004.png")
    for _ in range(2):
        caplog.clear()
        table, _ = read_recording(str(folder), SMALL, cache)
        assert [table.path(row) for row in (0, 4, 10)] == [folder / "images" / f"{k:03d}.png" for k in (0, 5, 11)]
        assert "1 frames cannot be used; the first: images/004.png" in caplog.text
    assert [path.name for path in files(cache)] == [MARKER]


def test_odometry_gives_positions_headings_and_cells(tmp_path: Path) -> None:
    folder = tmp_path / "drive"
    write_folder(folder, [f"{k:03d}.png" for k in range(20)])
    yaw_rad = np.where(np.arange(20) < 10, 0.0, -np.pi / 2)
    lines = [f"{k:03d}.png,{5.0 * k},{-2.0},{yaw_rad[k]}" for k in range(20)]
    (folder / "poses.csv").write_text("\n".join(["image,x_m,y_m,yaw_rad", *lines]))
    table, groups = read_recording(str(folder), SMALL, tmp_path / "cache")
    assert np.allclose(table.east_m, 5.0 * np.arange(20))
    assert np.allclose(table.north_m, -2.0)
    assert np.allclose(table.heading_deg, np.where(np.arange(20) < 10, 0.0, 270.0))
    assert "drive x 10 m y -10 m heading 0 deg" in groups.class_names
    assert len(groups.class_names) == 10


@pytest.mark.parametrize("bag_format", ["ros1", "mcap"])
def test_a_bag_with_odometry(tmp_path: Path, bag_format: str) -> None:
    pytest.importorskip("rosbags", reason="bags need the extra: pip install 'progeo-edge[bags]'")
    from tests.sources.bag_writer import Messages

    messages = Messages(bag_format)
    half = float(np.sqrt(0.5))
    for k in range(20):
        stamp_ns = 1_700_000_000 * S + k * S // 4
        messages.add("/odom", stamp_ns, messages.odometry(stamp_ns, (0.0, 2.0 * k, 0.0), (0.0, 0.0, half, half)))
        messages.add("/front", stamp_ns, messages.grey(stamp_ns, 40 + k))
        messages.add("/rear", stamp_ns, messages.grey(stamp_ns, 140 + k))
    bag = messages.write(tmp_path)
    table, _ = read_recording(f"{bag}?image_topic=/rear", SMALL, tmp_path / "cache")
    assert [level(cv2.imread(str(table.path(row)))) for row in range(3)] == [140, 142, 144]
    assert np.allclose(table.north_m, 4.0 * np.arange(10))
    assert np.allclose(table.heading_deg, 90.0)
    table, _ = read_recording(f"{bag}?image_topic=/rear&odom_topic=none", SMALL, tmp_path / "cache")
    assert np.isnan(table.north_m).all()
    with pytest.raises(SourceError, match="/front"):
        read_recording(str(bag), SMALL, tmp_path / "cache")


def test_options_are_read_and_unknown_ones_refused(tmp_path: Path) -> None:
    assert split_options("a/b.mp4") == (Path("a/b.mp4"), {})
    assert split_options("a/b?fps=5&kind=folder") == (Path("a/b"), {"fps": 5.0, "kind": "folder"})
    odd = tmp_path / "what?fps=5"
    odd.mkdir()
    assert split_options(str(odd)) == (odd, {})
    with pytest.raises(SourceError, match=r"'speed=2' is no option of a recording; expected kind=\.\.\., fps"):
        split_options("a?speed=2")
    with pytest.raises(SourceError, match="fps is 'fast'"):
        split_options("a?fps=fast")


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    video = write_video(tmp_path / "drive.avi")
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(SourceError, match=r"images cannot be written to .*cache"):
        read_recording(str(video), SMALL, tmp_path / "cache")


def test_a_video_without_frames_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "drive.mp4").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="cannot be opened"):
        read_recording(str(tmp_path / "drive.mp4"), SMALL, tmp_path / "cache")


def test_too_few_images_per_place_say_what_would_help(tmp_path: Path) -> None:
    video = write_video(tmp_path / "drive.avi")
    with pytest.raises(SourceError, match=r"the 10 images of places.min_images_per_class, the largest 4; .*window_s"):
        read_recording(str(video), PlacesConfig(window_s=2.0), tmp_path / "cache")
