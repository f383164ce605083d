from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from progeo_edge.errors import SourceError
from progeo_edge.geometry import Camera, make_transform, rotation_exp
from progeo_edge.sources import open_source
from tests.sources.image_files import break_file, level, pose, write_grey

S = 10**9
BASE_FORWARD = make_transform([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], [0.1, 0.0, 0.5])


def write_tum(folder: Path, num_images: int = 4, size: tuple[int, int] = (640, 480)) -> Path:
    rgb, depth = ["# color images", "# timestamp filename"], []
    (folder / "depth").mkdir(parents=True)
    for index in range(num_images):
        stamp = 1305031102.175304 + index / 10
        write_grey(folder / "rgb" / f"{stamp:.6f}.png", 50 + index, size)
        rgb.append(f"{stamp:.6f} rgb/{stamp:.6f}.png")
        offset = 0.03 if index == 1 else 0.015
        name = f"depth/{stamp + offset:.6f}.png"
        cv2.imwrite(str(folder / name), np.full((size[1], size[0]), 5000 * (index + 1), np.uint16))
        depth.append(f"{stamp + offset:.6f} {name}")
    (folder / "rgb.txt").write_text("\n".join(rgb))
    (folder / "depth.txt").write_text("\n".join(depth))
    (folder / "groundtruth.txt").write_text(
        "# timestamp tx ty tz qx qy qz qw\n"
        "1305031102.125304 0 0 0 0 0 0 1\n1305031102.225304 1 0 0 0 0 0 1\n1305031102.325304 nan 0 0 0 0 0 1\n"
    )
    return folder


def test_tum(tmp_path):
    source = open_source(write_tum(tmp_path / "rgbd_dataset_freiburg2_desk"))
    frames = list(source)
    assert (source.num_frames, len(frames)) == (4, 4)
    assert frames[0].stamp_ns == 1305031102175304000
    assert frames[0].name == "rgb/1305031102.175304.png"
    depths = [None if frame.depth_m is None else float(frame.depth_m[5, 5]) for frame in frames]
    assert depths == [1.0, None, 3.0, 4.0]
    np.testing.assert_allclose(pose(frames[0])[:3, 3], [0.5, 0, 0], atol=1e-9)
    assert frames[1].T_odom_base is None
    assert frames[3].T_odom_base is None
    camera = source.camera
    assert isinstance(camera, Camera)
    assert (camera.K[0, 0], camera.K[1, 2], camera.distortion.size) == (520.9, 249.7, 5)


def test_tum_of_unknown_camera(tmp_path, caplog):
    folder = write_tum(tmp_path / "own_recording", 1, (16, 12))
    assert open_source(folder).camera is None
    assert "give a camera" in caplog.text
    given = Camera("pinhole", 16, 12, np.diag([9.0, 9.0, 1.0]), T_base_camera=BASE_FORWARD)
    (frame,) = open_source(folder, camera=given)
    T_odom_camera = make_transform(np.eye(3), [0.5, 0, 0])
    np.testing.assert_allclose(pose(frame) @ BASE_FORWARD, T_odom_camera, atol=1e-9)


def test_tum_with_broken_parts(tmp_path, caplog):
    folder = write_tum(tmp_path / "freiburg3", 4)
    images, depths = sorted((folder / "rgb").iterdir()), sorted((folder / "depth").iterdir())
    break_file(images[2])
    break_file(depths[0])
    write_grey(depths[3], 1, (20, 20))
    source = open_source(folder)
    frames = list(source)
    assert [level(frame.image) for frame in frames] == [50, 51, 53]
    assert [frame.depth_m for frame in frames] == [None, None, None]
    assert len(source.skipped) == 1
    assert "depth left out" in caplog.text


def test_tum_with_lines_that_make_no_sense(tmp_path, caplog):
    folder = write_tum(tmp_path / "freiburg1", 3)
    for name in ("rgb.txt", "depth.txt"):
        (folder / name).write_text((folder / name).read_text() + "\nx y\n12.5 rgb/a.png b\n")
    source = open_source(folder)
    assert len(list(source)) == 3
    assert [skipped.name for skipped in source.skipped] == ["line 6", "line 7"]
    assert "2 lines of depth.txt" in caplog.text
    (folder / "groundtruth.txt").write_text("12.5 1 2\n")
    with pytest.raises(SourceError, match=r"groundtruth.txt, line 1: expected a stamp and seven numbers"):
        open_source(folder)
    (folder / "rgb.txt").write_text("# nothing\n")
    (folder / "groundtruth.txt").unlink()
    with pytest.raises(SourceError, match="it holds no frame"):
        open_source(folder)


def write_euroc(sequence: Path, num_images: int = 5) -> Path:
    place = sequence / "mav0" / "cam0"
    rows = ["#timestamp [ns],filename"]
    for index in range(num_images):
        stamp_ns = 1403636579763555584 + index * 50_000_000
        write_grey(place / "data" / f"{stamp_ns}.png", 60 + index, (752, 480))
        rows.append(f"{stamp_ns},{stamp_ns}.png")
    (place / "data.csv").write_text("\r\n".join(rows))
    (place / "sensor.yaml").write_text(
        "sensor_type: camera\n"
        "T_BS:\n  cols: 4\n  rows: 4\n"
        "  data: [0.0, -1.0, 0.0, -0.02,\n         1.0, 0.0, 0.0, -0.06,\n"
        "         0.0, 0.0, 1.0, 0.01,\n         0.0, 0.0, 0.0, 1.0]\n"
        "resolution: [752, 480]\ncamera_model: pinhole\nintrinsics: [458.654, 457.296, 367.215, 248.375]\n"
        "distortion_model: radial-tangential\n"
        "distortion_coefficients: [-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05]\n"
    )
    truth = sequence / "mav0" / "state_groundtruth_estimate0"
    truth.mkdir()
    (truth / "data.csv").write_text(
        "#timestamp, p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], q_RS_x [], q_RS_y [], q_RS_z [], v\n"
        "1403636579763555584,4.0,1.0,0.5,0.0,1.0,0.0,0.0,0.1\n"
        "1403636579963555584,8.0,1.0,0.5,0.0,1.0,0.0,0.0,0.1\n"
    )
    return sequence


def test_euroc(tmp_path):
    sequence = write_euroc(tmp_path / "MH_01_easy")
    for path in (sequence, sequence / "mav0", sequence / "mav0" / "cam0"):
        source = open_source(path)
        frames = list(source)
        assert len(frames) == 5
        assert frames[1].stamp_ns == 1403636579813555584
        assert frames[1].camera == "cam0"
        np.testing.assert_allclose(pose(frames[1])[:3, 3], [5.0, 1.0, 0.5])
        np.testing.assert_allclose(pose(frames[1])[:3, :3], np.diag([1, -1, -1]), atol=1e-12)
        assert frames[1].right is None
        camera = source.camera
        assert isinstance(camera, Camera)
        assert (camera.model, camera.width_px, camera.K[0, 0], camera.distortion.size) == ("pinhole", 752, 458.654, 4)
        np.testing.assert_allclose(camera.T_base_camera[:3, 3], [-0.02, -0.06, 0.01])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[458.654, 457.296", "[x, 457.296"),
        ("0.0, 0.0, 1.0, 0.01", "0.0, 0.0, 7.0, 0.01"),
        ("radial-tangential", "unheard-of"),
        ("intrinsics", "intrinsic"),
    ],
)
def test_euroc_with_a_wrong_calibration(tmp_path, old, new):
    sensor = write_euroc(tmp_path / "MH") / "mav0" / "cam0" / "sensor.yaml"
    sensor.write_text(sensor.read_text().replace(old, new))
    with pytest.raises(SourceError, match=r"sensor.yaml is no camera calibration.*mend it or give a camera"):
        open_source(tmp_path / "MH")


def test_euroc_with_broken_lines(tmp_path):
    sequence = write_euroc(tmp_path / "MH", 3)
    table = sequence / "mav0" / "cam0" / "data.csv"
    table.write_text(table.read_text() + "\nabc,def.png\n1403636579999999999,gone.png\n")
    source = open_source(sequence)
    assert len(list(source)) == 3
    assert [skipped.name for skipped in source.skipped] == ["line 5", "gone.png"]


def write_kitti(root: Path, cameras: tuple[str, ...] = ("image_0", "image_1"), num_images: int = 4) -> Path:
    sequence = root / "sequences" / "07"
    for camera in cameras:
        for index in range(num_images):
            write_grey(sequence / camera / f"{index:06d}.png", 20 * int(camera[-1]) + 10 + index, (124, 38))
    (sequence / "times.txt").write_text("".join(f"{index * 0.1037:e}\n" for index in range(num_images)))
    (sequence / "calib.txt").write_text(
        "P0: 707.0 0 60.2 0 0 707.0 18.3 0 0 0 1 0\nP1: 707.0 0 60.2 -379.66 0 707.0 18.3 0 0 0 1 0\n"
        "P2: 707.0 0 60.2 42.42 0 707.0 18.3 0 0 0 1 0\nP3: 707.0 0 60.2 -335.118 0 707.0 18.3 0 0 0 1 0\n"
        "Tr: 1 0 0 0 0 1 0 0 0 0 1 0\n"
    )
    poses = root / "poses" / "07.txt"
    poses.parent.mkdir(exist_ok=True)
    lines = [make_transform(rotation_exp([0, 0.1 * index, 0]), [0, 0, index])[:3] for index in range(num_images)]
    poses.write_text("\n".join(" ".join(f"{value:.9e}" for value in line.ravel()) for line in lines))
    return sequence


def test_kitti_grey_pair(tmp_path):
    sequence = write_kitti(tmp_path)
    source = open_source(sequence)
    frames = list(source)
    assert [frame.stamp_ns for frame in frames] == [0, 103_700_000, 207_400_000, 311_100_000]
    assert [(level(frame.image), level(frame.right)) for frame in frames] == [(10 + i, 30 + i) for i in range(4)]
    np.testing.assert_allclose(pose(frames[2])[:3, 3], [0, 0, 2])
    np.testing.assert_allclose(pose(frames[2])[:3, :3], rotation_exp([0, 0.2, 0]), atol=1e-8)
    camera = source.camera
    assert isinstance(camera, Camera)
    assert (camera.width_px, camera.height_px, camera.K[0, 2]) == (124, 38, 60.2)
    assert camera.baseline_m == pytest.approx(0.537, abs=1e-5)
    np.testing.assert_array_equal(camera.T_base_camera, np.eye(4))


def test_kitti_colour_camera_is_mounted_beside_camera_0(tmp_path):
    sequence = write_kitti(tmp_path, ("image_2", "image_3"))
    source = open_source(sequence)
    frame = next(iter(source))
    assert (level(frame.image), level(frame.right), frame.camera) == (50, 70, "image_2")
    camera = source.camera
    assert isinstance(camera, Camera)
    assert camera.baseline_m == pytest.approx(0.534, abs=1e-5)
    np.testing.assert_allclose(camera.T_base_camera[:3, 3], [-0.06, 0, 0])


def test_kitti_camera_is_chosen_by_its_folder(tmp_path):
    sequence = write_kitti(tmp_path, ("image_0", "image_1", "image_2"))
    assert level(next(iter(open_source(sequence))).image) == 10
    frame = next(iter(open_source(sequence / "image_2")))
    assert (level(frame.image), frame.right) == (50, None)


def test_kitti_base_of_the_users_camera(tmp_path):
    sequence = write_kitti(tmp_path)
    camera = Camera("pinhole", 124, 38, np.diag([700.0, 700.0, 1.0]), T_base_camera=BASE_FORWARD)
    frame = list(open_source(sequence, camera=camera))[3]
    expected = make_transform(rotation_exp([0, 0.3, 0]), [0, 0, 3])
    np.testing.assert_allclose(pose(frame) @ BASE_FORWARD, expected, atol=1e-8)


def test_kitti_with_broken_parts(tmp_path, caplog):
    sequence = write_kitti(tmp_path, num_images=6)
    break_file(sequence / "image_0" / "000001.png")
    break_file(sequence / "image_1" / "000002.png")
    (sequence / "image_0" / "000003.png").unlink()
    (sequence / "times.txt").write_text("0\n0.1\n0.2\n0.3\nsoon\n")
    poses = tmp_path / "own_poses.txt"
    poses.write_text("1 0 0 0 0 1 0 0 0 0 1 0\n1 0 0 0 0 1 0 0 0 0 1 0\n2 0 0 0 0 1 0 0 0 0 1 nan\n")
    source = open_source(sequence, poses=poses)
    frames = list(source)
    assert [frame.name for frame in frames] == ["000000.png", "000002.png"]
    assert frames[0].T_odom_base is not None
    assert (frames[1].right, frames[1].T_odom_base) == (None, None)
    assert sorted(skipped.name for skipped in source.skipped) == ["000001.png", "000004.png", "000005.png"]
    assert "1 of 3 poses left out" in caplog.text
    assert "right image left out" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("calib.txt", "P0: 1 2 3\n", "calib.txt, line 1: expected 12 numbers"),
        ("calib.txt", "P2: 1 0 0 0 0 1 0 0 0 0 1 0\n", "holds no line 'P0:'"),
        ("calib.txt", "P0: 0 0 0 0 0 0 0 0 0 0 1 0\n", "P0 is no projection"),
        ("poses.txt", "1 0 0 0 0 1 0 0 0 0 1\n", "expected 12 numbers"),
    ],
)
def test_kitti_with_wrong_files(tmp_path, name, text, reason):
    sequence = write_kitti(tmp_path)
    (tmp_path / "poses" / "07.txt").unlink()
    (sequence / name).write_text(text)
    with pytest.raises(SourceError, match=reason):
        open_source(sequence)
