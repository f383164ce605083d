"""The cameras of a rig as one source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.errors import SourceError
from progeo_edge.geometry import Camera, make_transform
from progeo_edge.sources import open_source
from progeo_edge.sources.base import Entry, LazySource
from progeo_edge.sources.rig import RigSource, by_camera, camera_names
from progeo_edge.types import Frame
from tests.sources.image_files import break_file, level, pose, write_folder, write_grey
from tests.sources.test_source_datasets import write_euroc

S = 10**9
IMAGE = np.zeros((12, 16), np.uint8)


def camera(heading: float) -> Camera:
    turned = make_transform(np.array([[0, 0, heading], [-heading, 0, 0], [0, -1, 0]]), [0.1 * heading, 0.0, 0.5])
    return Camera("pinhole", 16, 12, np.diag([9.0, 9.0, 1.0]), T_base_camera=turned)


RIG = {"front": camera(1.0), "rear": camera(-1.0)}


def lazy(stamps_ns: list[int], name: str) -> LazySource:
    entries = [Entry(ns, f"{ns}", lambda ns=ns: Frame(ns, IMAGE, f"{ns}")) for ns in stamps_ns]  # type: ignore[misc]
    return LazySource(name, lambda: entries, num_frames=len(entries))


def rig_folder(root: Path, num_images: int = 3) -> Path:
    """front has the levels 10 11 12, rear the levels 100 101 102."""
    for index in range(num_images):
        write_grey(root / "front" / f"{index}.png", 10 + index)
        write_grey(root / "rear" / f"{index}.png", 100 + index)
    return root


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sets(st.integers(0, 50), min_size=1, max_size=20), min_size=1)
)
def test_frames_come_in_the_order_of_stamps_and_cameras(stamps_of_camera):
    sources = {name: lazy(sorted(stamps), name) for name, stamps in stamps_of_camera.items()}
    source = RigSource("rig", sources)
    frames = list(source)
    order = list(stamps_of_camera)
    expected = sorted((ns, order.index(name)) for name, stamps in stamps_of_camera.items() for ns in stamps)
    assert [(frame.stamp_ns, order.index(frame.camera)) for frame in frames] == expected
    assert source.num_frames == len(frames)
    assert [frame.stamp_ns for frame in source] == [frame.stamp_ns for frame in frames], "it can be read again"


# -- a folder per camera -----------------------------------------------------------------------------------------


def test_a_folder_per_camera(tmp_path):
    root = rig_folder(tmp_path)
    source = open_source(root, cameras="front,rear", fps=2.0, camera=RIG)
    frames = list(source)
    assert [(f.camera, level(f.image), f.stamp_ns) for f in frames[:4]] == [
        ("front", 10, 0),
        ("rear", 100, 0),
        ("front", 11, S // 2),
        ("rear", 101, S // 2),
    ]
    assert [frame.name for frame in frames[:2]] == ["front/0.png", "rear/0.png"]
    assert source.camera == RIG
    assert source.num_frames == 6


def test_each_camera_has_its_own_stamps_and_poses(tmp_path):
    root = rig_folder(tmp_path)
    (root / "front" / "times.txt").write_text("0\n1\n2\n")
    (root / "rear" / "times.txt").write_text("0.5\n1.5\n2.5\n")
    (root / "rear" / "poses.csv").write_text("image,x_m,y_m,yaw_rad\n0.png,7,0,0\n1.png,8,0,0\n2.png,9,0,0\n")
    frames = list(open_source(root, cameras=["front", "rear"]))
    assert [frame.camera for frame in frames] == ["front", "rear"] * 3
    assert [frame.stamp_ns for frame in frames[:3]] == [0, S // 2, S]
    assert frames[0].T_odom_base is None
    assert pose(frames[1])[0, 3] == 7.0


def test_the_rate_holds_for_every_camera(tmp_path):
    frames = list(open_source(rig_folder(tmp_path, 10), cameras="front,rear", fps=10.0, rate_hz=2.0))
    assert [(frame.camera, frame.stamp_ns) for frame in frames] == [
        (name, ns) for ns in (0, S // 2) for name in ("front", "rear")
    ]


def test_what_is_skipped_is_told_by_camera(tmp_path):
    root = rig_folder(tmp_path)
    break_file(root / "rear" / "1.png")
    source = open_source(root, cameras="front,rear")
    assert len(list(source)) == 5
    assert [skipped.name for skipped in source.skipped] == ["rear/1.png"]


# -- a list with a column camera ---------------------------------------------------------------------------------


def rig_list(folder: Path, text: str) -> Path:
    write_folder(folder, ["f0.png", "r0.png", "f1.png", "r1.png"])
    path = folder / "list.csv"
    path.write_text(text)
    return path


LIST = (
    "image,time_s,camera,x_m,y_m,yaw_rad\nf0.png,0,front,0,0,0\nr0.png,0,rear,0,0,0\n"
    "f1.png,1,front,1,0,0\nr1.png,1.001,rear,1,0,0\n"
)


def test_a_list_with_a_column_camera(tmp_path):
    source = open_source(rig_list(tmp_path, LIST), camera=RIG)
    frames = list(source)
    assert [(f.camera, f.name, level(f.image)) for f in frames] == [
        ("front", "f0.png", 10),
        ("rear", "r0.png", 11),
        ("front", "f1.png", 12),
        ("rear", "r1.png", 13),
    ]
    assert frames[3].stamp_ns == 1_001_000_000
    assert pose(frames[3])[0, 3] == 1.0
    assert source.camera == RIG
    assert source.skipped == []


def test_a_list_of_one_named_camera_is_one_camera(tmp_path):
    path = rig_list(tmp_path, "image,camera\nf0.png,front\nf1.png,front\n")
    source = open_source(path, camera=RIG["front"])
    assert [frame.camera for frame in source] == ["front", "front"]
    assert source.camera is RIG["front"]


def test_a_line_without_a_camera_is_skipped_and_counted_once(tmp_path):
    source = open_source(rig_list(tmp_path, LIST + "f1.png,2,,1,0,0\n"), camera=RIG)
    assert len(list(source)) == 4
    assert [skipped.reason for skipped in source.skipped] == ["line 6 names no camera"]


# -- EuRoC -------------------------------------------------------------------------------------------------------


def test_euroc_with_both_cameras(tmp_path):
    sequence = write_euroc(tmp_path / "MH_01_easy")
    left, right = sequence / "mav0" / "cam0", sequence / "mav0" / "cam1"
    right.mkdir(exist_ok=True)
    for file in left.rglob("*"):
        if file.is_file():
            (right / file.relative_to(left)).parent.mkdir(exist_ok=True)
            (right / file.relative_to(left)).write_bytes(file.read_bytes())
    with pytest.raises(SourceError, match="cam0 and cam1 stand at one place and look one way"):
        open_source(sequence, cameras="cam0,cam1")
    sensor = (right / "sensor.yaml").read_text()
    (right / "sensor.yaml").write_text(sensor.replace("0.0, -1.0, 0.0, -0.02", "0.0, -1.0, 0.0, 0.09"))
    source = open_source(sequence, cameras="cam0,cam1")
    frames = list(source)
    assert [frame.camera for frame in frames[:4]] == ["cam0", "cam1"] * 2
    assert len(frames) == 2 * len(list(open_source(sequence)))
    assert frames[0].stamp_ns == frames[1].stamp_ns
    assert isinstance(source.camera, dict)
    assert [camera.T_base_camera[0, 3] for camera in source.camera.values()] == [-0.02, 0.09]


# -- what does not fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"camera": RIG["front"]}, "camera 'front' among others, the calibration is of one"),
        ({"camera": {"front": RIG["front"]}}, "has a camera 'rear', the calibration has front"),
        ({"camera": {"front": RIG["front"], "rear": RIG["front"]}}, "front and rear stand at one place"),
        ({"cameras": "front,left"}, "no subfolder left"),
        ({"cameras": "front,front"}, "different names"),
        ({"cameras": "front,"}, "different names"),
        ({"cameras": None, "kind": "folder"}, "name one of them"),
    ],
)
def test_a_rig_that_does_not_fit_is_explained(tmp_path, options, expected):
    with pytest.raises(SourceError, match=expected):
        open_source(rig_folder(tmp_path), **{"cameras": "front,rear", **options})


def test_one_list_of_poses_for_several_folders_is_refused(tmp_path):
    poses = tmp_path / "poses.csv"
    poses.write_text("image,x_m,y_m,yaw_rad\n0.png,7,0,0\n")
    with pytest.raises(SourceError, match="one list for several cameras"):
        open_source(rig_folder(tmp_path / "rig"), cameras="front,rear", poses=poses)


def test_a_rig_s_calibration_for_one_camera_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"of a rig \(front, rear\), but .* is read as one camera"):
        open_source(rig_folder(tmp_path) / "front", camera=RIG)


def test_options_by_camera():
    assert by_camera("image_topic", "/cam/image") == "/cam/image"
    assert by_camera("image_topic", "front=/f, rear=/r") == {"front": "/f", "rear": "/r"}
    assert camera_names("front, rear") == ["front", "rear"]
    for text in ("front=", "=/f", "front=/f,front=/r", "front=/f,/r"):
        with pytest.raises(SourceError, match="expected front=TOPIC,rear=TOPIC"):
            by_camera("image_topic", text)
