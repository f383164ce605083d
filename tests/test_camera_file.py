from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml

from progeo_edge.camera_file import cameras_to_dict, load_camera, load_cameras
from progeo_edge.errors import ConfigError
from progeo_edge.geometry import Camera, make_transform, rotation_exp

OURS: dict[str, Any] = {
    "model": "pinhole",
    "width_px": 640,
    "height_px": 480,
    "fx_px": 500.0,
    "fy_px": 501.0,
    "cx_px": 320.0,
    "cy_px": 240.0,
}
ROS: dict[str, Any] = {
    "image_width": 640,
    "image_height": 480,
    "camera_name": "left",
    "camera_matrix": {"rows": 3, "cols": 3, "data": [500.0, 0, 320.0, 0, 501.0, 240.0, 0, 0, 1]},
    "distortion_model": "plumb_bob",
    "distortion_coefficients": {"rows": 1, "cols": 5, "data": [-0.2, 0.05, 0.001, 0.0, 0.0]},
    "rectification_matrix": {"rows": 3, "cols": 3, "data": [1, 0, 0, 0, 1, 0, 0, 0, 1]},
    "projection_matrix": {"rows": 3, "cols": 4, "data": [500.0, 0, 320.0, 0, 0, 501.0, 240.0, 0, 0, 0, 1, 0]},
}


def write(folder, values):
    path = folder / "camera.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.mark.parametrize("model", ["pinhole", "fisheye"])
def test_what_a_camera_writes_it_reads(tmp_path, model):
    K = np.array([[500.0, 0, 320.5], [0, 501.0, 239.5], [0, 0, 1]])
    mounting = make_transform(rotation_exp([0.1, -1.2, 0.3]), [0.2, 0.0, 1.1])
    camera = Camera(model, 640, 480, K, np.array([0.1, -0.02, 0.003, 0.0]), mounting, 0.12)
    loaded = load_camera(write(tmp_path, camera.to_dict()))
    assert loaded.to_dict() == camera.to_dict()
    np.testing.assert_array_equal(loaded.K, K)


def test_the_optional_keys_have_defaults(tmp_path):
    camera = load_camera(write(tmp_path, OURS))
    assert camera.distortion.size == 0 and camera.baseline_m is None
    np.testing.assert_array_equal(camera.T_base_camera, np.eye(4))
    assert load_camera(write(tmp_path, {**OURS, "model": "fisheye"})).distortion.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("name", "count", "model"),
    [("plumb_bob", 5, "pinhole"), ("rational_polynomial", 8, "pinhole"), ("equidistant", 4, "fisheye")],
)
def test_camera_info_of_ros(tmp_path, name, count, model):
    coefficients = {"rows": 1, "cols": count, "data": [0.01 * i for i in range(count)]}
    values = {**ROS, "distortion_model": name, "distortion_coefficients": coefficients}
    camera = load_camera(write(tmp_path, values))
    assert (camera.model, camera.width_px, camera.height_px) == (model, 640, 480)
    assert camera.distortion.tolist() == coefficients["data"]
    assert camera.K.tolist() == [[500.0, 0, 320.0], [0, 501.0, 240.0], [0, 0, 1]]
    assert camera.baseline_m is None


def test_the_right_camera_info_gives_the_baseline(tmp_path):
    data = [500.0, 0, 320.0, -60.0, 0, 501.0, 240.0, 0, 0, 0, 1, 0]
    camera = load_camera(write(tmp_path, {**ROS, "projection_matrix": {"rows": 3, "cols": 4, "data": data}}))
    assert camera.baseline_m == pytest.approx(0.12)


def matrix(**changes):
    data = np.array(ROS["camera_matrix"]["data"], dtype=np.float64)
    for index, value in changes.items():
        data[int(index[1:])] = value
    return {**ROS, "camera_matrix": {"rows": 3, "cols": 3, "data": data.tolist()}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({**OURS, "fx": 500}, "did you mean 'fx_px'"),
        ({**OURS, "zoom": 1}, "'zoom' is unknown"),
        ({k: v for k, v in OURS.items() if k != "fy_px"}, "fy_px missing"),
        ({**OURS, "model": "omni"}, "'omni'"),
        ({**OURS, "model": ["pinhole"]}, "model"),
        ({**OURS, "fx_px": 0}, "not positive"),
        ({**OURS, "fy_px": -500.0}, "not positive"),
        ({**OURS, "fx_px": float("nan")}, "finite"),
        ({**OURS, "fx_px": "wide"}, "'wide'"),
        ({**OURS, "cx_px": 900.0}, "outside the 640x480 image"),
        ({**OURS, "width_px": 0}, "image size"),
        ({**OURS, "width_px": 640.5}, "640.5"),
        ({**OURS, "width_px": True}, "True"),
        ({**OURS, "distortion": [0.1]}, "1 numbers"),
        ({**OURS, "distortion": [0.1, float("inf"), 0, 0]}, "finite"),
        ({**OURS, "distortion": "none"}, "list of"),
        ({**OURS, "model": "fisheye", "distortion": [0.1] * 5}, "expected 4"),
        ({**OURS, "baseline_m": 0.0}, "baseline_m"),
        ({**OURS, "T_base_camera": (2 * np.eye(4)).tolist()}, "not rigid"),
        ({**OURS, "T_base_camera": np.eye(3).tolist()}, "shape"),
        ({**OURS, "T_base_camera": [[1, 2], [3]]}, "four rows"),
        ({**OURS, "T_base_camera": "here"}, "four rows"),
        (matrix(_0=0.0), "not positive"),
        (matrix(_8=0.0), "camera matrix"),
        (matrix(_3=4.0), "camera matrix"),
        ({**ROS, "camera_matrix": {"data": [1, 2, 3]}}, "3x3"),
        ({**ROS, "camera_matrix": None}, "camera_matrix"),
        ({**ROS, "distortion_model": "division"}, "'division'"),
        ({k: v for k, v in ROS.items() if k != "image_width"}, "image_width"),
        ([1, 2], "holds a list"),
        ("", "holds a NoneType"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_camera_that_cannot_be_is_refused(tmp_path, values, said):
    with pytest.raises(ConfigError) as caught:
        load_camera(write(tmp_path, values))
    assert said in str(caught.value) and "camera.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_camera(tmp_path / "nowhere.yaml")


# -- rigs --------------------------------------------------------------------------------------------------------

MOUNTED = make_transform(rotation_exp([0.0, 0.0, 3.0]), [-0.3, 0.0, 1.2]).tolist()


def test_a_rig_has_a_camera_under_each_name_in_either_layout(tmp_path):
    rig = {"front": {**OURS, "T_base_camera": np.eye(4).tolist()}, "rear": {**ROS, "T_base_camera": MOUNTED}}
    loaded = load_cameras(write(tmp_path, rig))
    assert not isinstance(loaded, Camera)
    assert list(loaded) == ["front", "rear"]
    np.testing.assert_allclose(loaded["rear"].T_base_camera, MOUNTED)
    assert loaded["rear"].distortion.size == 5
    written = load_cameras(write(tmp_path, cameras_to_dict(loaded)))
    assert cameras_to_dict(written) == cameras_to_dict(loaded)


def test_one_camera_is_read_as_before(tmp_path):
    loaded = load_cameras(write(tmp_path, OURS))
    assert isinstance(loaded, Camera)
    assert cameras_to_dict(loaded) == load_camera(write(tmp_path, OURS)).to_dict()


@pytest.mark.parametrize(
    ("rig", "expected"),
    [
        ({"rear": OURS}, "'rear' of the rig lacks T_base_camera"),
        ({"rear": {**OURS, "T_base_camera": MOUNTED, "focal": 1}}, "'rear' of the rig: key 'focal' is unknown"),
        ({0: {**OURS, "T_base_camera": MOUNTED}}, "camera name 0 of the rig is no text"),
        ({"rear": {**ROS, "T_base_camera": [[1, 2], [3, 4]]}}, "'rear' of the rig: T_base_camera"),
    ],
)
def test_a_wrong_rig_is_explained(tmp_path, rig, expected):
    with pytest.raises(ConfigError, match=expected):
        load_cameras(write(tmp_path, rig))


def test_a_rig_is_not_one_camera(tmp_path):
    rig = {name: {**OURS, "T_base_camera": MOUNTED} for name in ("front", "rear")}
    with pytest.raises(ConfigError, match="holds the rig front, rear; expected one camera"):
        load_camera(write(tmp_path, rig))
