from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.errors import SourceError
from progeo_edge.geometry import Camera
from progeo_edge.sources import open_source
from progeo_edge.sources.folder import natural_key
from tests.sources.image_files import break_file, level, pose, write_folder, write_grey

S = 10**9
CAMERA = Camera("pinhole", 16, 12, np.array([[10.0, 0, 8], [0, 10, 6], [0, 0, 1]]))
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "dev"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real images of ../shared/data are not here")


def stamps_s(source) -> list[float]:
    return [frame.stamp_ns / S for frame in source]


def test_natural_order_and_one_hertz(tmp_path):
    write_folder(tmp_path, ["img2.png", "img10.png", "IMG1.png", "img01b.png"])
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "._img3.png").write_bytes(b"mac")
    source = open_source(tmp_path)
    frames = list(source)
    assert [frame.name for frame in frames] == ["IMG1.png", "img01b.png", "img2.png", "img10.png"]
    assert stamps_s(frames) == [0, 1, 2, 3]
    assert [level(frame.image) for frame in frames] == [12, 13, 10, 11]
    assert (source.num_frames, source.skipped, source.camera, source.name) == (4, [], None, str(tmp_path))


def test_fps_and_rate(tmp_path):
    write_folder(tmp_path, [f"{index:03d}.png" for index in range(20)])
    assert stamps_s(open_source(tmp_path, fps=10))[:3] == [0, 0.1, 0.2]
    source = open_source(tmp_path, fps=10, rate_hz=2)
    assert [frame.name for frame in source] == ["000.png", "005.png", "010.png", "015.png"]
    assert source.skipped == []
    with pytest.raises(SourceError, match="fps 0"):
        open_source(tmp_path, fps=0)


@given(st.lists(st.text("aA01.", max_size=4), unique=True), st.randoms())
def test_natural_order_does_not_depend_on_the_order_found(names, random):
    ordered = sorted(names, key=natural_key)
    random.shuffle(names)
    assert sorted(names, key=natural_key) == ordered


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_natural_order_is_that_of_the_numbers(first, second):
    assert (natural_key(f"x{first}.png") < natural_key(f"x{second}.png")) == (first < second)


@pytest.mark.parametrize(
    "text",
    [
        "image,time_s\na.png,5.5\nb.png,6.25\nc.png,7\n",
        "time_ms,image,other\n5500,a.png,1\n6250,b.png,2\n7000,c.png,3\n",
        "# name time\na.png 5.5\nb.png 6.25\nc.png 7.0\n",
        "5.5 a.png\n6.25 b.png\n7 c.png\n",
        "5.5\n6.25\n7\n",
        "timestamp_ns\n5500000000\n6250000000\n7000000000\n",
    ],
)
def test_stamps_in_every_layout(tmp_path, text):
    folder = write_folder(tmp_path / "frames", ["a.png", "b.png", "c.png"])
    stamps = tmp_path / "any_name.txt"
    stamps.write_text(text)
    frames = list(open_source(folder, stamps=stamps))
    assert stamps_s(frames) == [5.5, 6.25, 7]
    assert [level(frame.image) for frame in frames] == [10, 11, 12]


@pytest.mark.parametrize(
    ("first", "second", "step_ns"),
    [
        ("1403636579.763555584", "1403636579.813555456", 49_999_872),
        ("1403636579763555584", "1403636579813555456", 49_999_872),
        ("1403636579763555", "1403636579813555", 50_000_000),
        ("1403636579763", "1403636579813", 50_000_000),
    ],
)
def test_stamps_since_1970_are_exact_in_any_unit(tmp_path, first, second, step_ns):
    write_folder(tmp_path, ["a.png", "b.png"])
    (tmp_path / "timestamps.txt").write_text(f"{first}\n{second}\n")
    a, b = open_source(tmp_path)
    assert b.stamp_ns - a.stamp_ns == step_ns
    assert abs(a.stamp_ns - 1403636579763555584) < 1_000_000


def test_a_list_of_stamps_chooses_and_orders(tmp_path, caplog):
    write_folder(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "timestamps.csv").write_text("image,time_s\nc.png,1\na.png,2\nmissing.png,3\n")
    source = open_source(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert [frame.name for frame in source] == ["c.png", "a.png"]
    assert [skipped.name for skipped in source.skipped] == ["missing.png"]
    assert "missing.png skipped" in caplog.text


def test_a_broken_line_is_skipped(tmp_path):
    write_folder(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    (tmp_path / "timestamps.csv").write_text("image,time_s\na.png,1\nb.png,two\nc.png\nd.png,nan\na.png,9\n")
    source = open_source(tmp_path)
    assert [frame.stamp_ns for frame in source] == [S, 9 * S]
    assert [skipped.name for skipped in source.skipped] == ["b.png", "c.png", "d.png"]


def test_stamps_that_do_not_fit(tmp_path):
    write_folder(tmp_path / "in", ["a.png", "b.png"])
    stamps = tmp_path / "stamps.txt"
    for text, reason in [
        ("1\n2\n3\n", "holds 3 stamps for 2 images"),
        ("", "is empty"),
        ("image\na.png\n", "holds no stamps"),
        ("one two three\n", "is not understood"),
        ("image,time_s,stamp_ns\na.png,1,2\n", "several columns of stamps"),
    ]:
        stamps.write_text(text)
        with pytest.raises(SourceError, match=reason):
            open_source(tmp_path / "in", stamps=stamps)
    stamps.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="cannot be read as text"):
        open_source(tmp_path / "in", stamps=stamps)
    with pytest.raises(SourceError, match="does not exist"):
        open_source(tmp_path / "in", stamps=tmp_path / "none.txt")


def test_repeated_and_backward_stamps_are_skipped(tmp_path):
    write_folder(tmp_path, [f"{index}.png" for index in range(6)])
    (tmp_path / "timestamps.txt").write_text("1\n2\n2\n1.5\n3\n4\n")
    source = open_source(tmp_path)
    assert stamps_s(source) == [1, 2, 3, 4]
    assert [(skipped.name, skipped.reason) for skipped in source.skipped] == [
        ("2.png", "its stamp 2.000000 s repeats the one before"),
        ("3.png", "its stamp goes back by 0.500000 s"),
    ]


@pytest.mark.parametrize("text", ["5\n4\n3\n2\n", "1\n1\n1\n1\n", "1\n99\n2\n3\n"])
def test_mostly_bad_stamps_are_refused_at_once(tmp_path, text):
    write_folder(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    (tmp_path / "timestamps.txt").write_text(text)
    if text.startswith("1\n99"):
        assert len(list(open_source(tmp_path))) == 2
    else:
        with pytest.raises(SourceError, match="3 of 4 frames repeat or go back"):
            open_source(tmp_path)


def test_broken_images_in_the_middle(tmp_path, caplog):
    write_folder(tmp_path, [f"{index}.png" for index in range(12)])
    for index in (3, 4, 5, 6, 7, 8):
        break_file(tmp_path / f"{index}.png")
    (tmp_path / "4.png").write_bytes(b"")
    source = open_source(tmp_path)
    for _ in range(2):
        assert [frame.name for frame in source] == ["0.png", "1.png", "2.png", "9.png", "10.png", "11.png"]
        assert [skipped.name for skipped in source.skipped] == [f"{index}.png" for index in range(3, 9)]
    assert sum("frame" in record.message and "skipped:" in record.message for record in caplog.records) == 10
    assert "6 of 12 frames skipped in all" in caplog.text


def test_with_a_rate_the_next_frame_stands_in_for_a_broken_one(tmp_path):
    write_folder(tmp_path, [f"{index}.png" for index in range(9)])
    break_file(tmp_path / "3.png")
    source = open_source(tmp_path, fps=3, rate_hz=1)
    assert [frame.name for frame in source] == ["0.png", "4.png", "6.png"]


def test_all_images_broken(tmp_path):
    write_folder(tmp_path, ["0.png", "1.png"])
    break_file(tmp_path / "0.png")
    break_file(tmp_path / "1.png")
    with pytest.raises(SourceError, match=r"none of its 2 frames can be used; the first: frame 0.png: .*decoded"):
        list(open_source(tmp_path))


def test_resolution_may_change_without_a_camera(tmp_path):
    write_grey(tmp_path / "0.png", 1, (64, 48))
    write_grey(tmp_path / "1.png", 2, (32, 20))
    write_grey(tmp_path / "2.png", 3, (1, 1))
    assert [frame.image.shape for frame in open_source(tmp_path)] == [(48, 64), (20, 32), (1, 1)]


def test_with_a_camera_another_aspect_ratio_is_skipped(tmp_path):
    for index, size in enumerate([(16, 12), (32, 24), (32, 20), (8, 6)]):
        write_grey(tmp_path / f"{index}.png", index, size)
    source = open_source(tmp_path, camera=CAMERA)
    assert [frame.name for frame in source] == ["0.png", "1.png", "3.png"]
    assert source.skipped[0].reason.startswith("it is 32x20, but the camera is calibrated for 16x12")


def test_a_camera_of_another_shape_altogether(tmp_path):
    write_folder(tmp_path, ["0.png", "1.png"], size=(30, 12))
    with pytest.raises(SourceError, match="it is 30x12, but the camera is calibrated for 16x12"):
        list(open_source(tmp_path, camera=CAMERA))


def test_poses_beside_the_images(tmp_path, caplog):
    write_folder(tmp_path / "images", ["a.png", "b.png", "c.png", "d.png"])
    half = np.sqrt(0.5)
    (tmp_path / "poses.csv").write_text(
        "image,x_m,y_m,yaw_rad\nimages/b.png,1,2,0\nimages/a.png,0,0,1.5707963267948966\n"
    )
    a, b, c, _ = open_source(tmp_path)
    np.testing.assert_allclose(pose(a), [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(pose(b)[:3, 3], [1, 2, 0])
    assert (a.name, c.T_odom_base) == ("images/a.png", None)
    assert "no pose for 2 of 4 images" in caplog.text
    spatial = tmp_path / "spatial.csv"
    spatial.write_text(
        f"a.png,1,2,3,0,0,{half},{half}\nb.png,1,nan,3,0,0,0,1\nc.png,1,1,1,0,0,0,0\nd.png,0,0,x,0,0,0,1\n"
    )
    a, b, c, d = open_source(tmp_path / "images", poses=spatial)
    np.testing.assert_allclose(pose(a), [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]], atol=1e-12)
    assert (b.T_odom_base, c.T_odom_base, d.T_odom_base) == (None, None, None)
    assert "3 of 4 poses are not finite and rigid" in caplog.text


def test_poses_of_other_images(tmp_path):
    write_folder(tmp_path / "images", ["a.png"])
    (tmp_path / "poses.csv").write_text("image,x_m,y_m,yaw_rad\nz.png,1,2,0\n")
    with pytest.raises(SourceError, match="names none of the 1 images"):
        open_source(tmp_path)
    (tmp_path / "poses.csv").write_text("image,time_s\na.png,1\n")
    with pytest.raises(SourceError, match="is no list of poses"):
        open_source(tmp_path)


def test_a_list_as_source(tmp_path):
    write_folder(tmp_path / "camera" / "left", ["a.png", "b.png", "c d.png"])
    listing = tmp_path / "keyframes.csv"
    listing.write_text(
        'image,time_s,x,y,z,qx,qy,qz,qw\ncamera/left/b.png,1.5,1,2,3,0,0,0,1\n"camera/left/c d.png",2,0,0,0,0,0,0,1\n'
    )
    first, second = open_source(listing)
    assert (first.name, first.stamp_ns, level(first.image)) == ("camera/left/b.png", 3 * S // 2, 11)
    np.testing.assert_allclose(pose(first)[:3, 3], [1, 2, 3])
    assert (second.name, level(second.image)) == ("camera/left/c d.png", 12)
    listing.write_text("camera/left/b.png\ncamera/left/a.png\n")
    assert [level(frame.image) for frame in open_source(listing)] == [11, 10]


def test_lists_that_name_nothing(tmp_path):
    listing = tmp_path / "list.csv"
    listing.write_text("image,time_s\na.png,1\n")
    with pytest.raises(SourceError, match="names 1 images, none of which exists"):
        open_source(listing)
    listing.write_text("1\n2\n")
    with pytest.raises(SourceError, match="names no images"):
        open_source(listing)


@needs_shared
def test_real_keyframes_and_poses():
    source = open_source(SHARED / "donkeycar_room_laps" / "keyframes.csv")
    frames = list(source)
    assert (len(frames), source.skipped) == (226, [])
    assert (frames[1].name, frames[1].stamp_ns) == ("images/00022.jpg", 1_106_000_000)
    frames = list(open_source(SHARED / "meiji_campus_poses"))
    assert len(frames) == 72
    assert all(frame.T_odom_base is not None for frame in frames)
    steps_m = [np.linalg.norm(pose(after)[:3, 3] - pose(before)[:3, 3]) for before, after in pairwise(frames)]
    assert sum(steps_m) == pytest.approx(217, abs=10)
