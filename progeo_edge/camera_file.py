"""Calibration files -> Camera, or the cameras of a rig: our own YAML and the camera_info YAML of ROS."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from progeo_edge.errors import ConfigError, InputError
from progeo_edge.geometry import Camera, Cameras, FloatArray, check_transform

Model = Literal["pinhole", "fisheye"]

_OPTIONAL_KEYS = {"distortion", "T_base_camera", "baseline_m"}
_REQUIRED_KEYS = {"model", "width_px", "height_px", "fx_px", "fy_px", "cx_px", "cy_px"}
_DISTORTION_LENGTHS: dict[str, tuple[int, ...]] = {"pinhole": (0, 4, 5, 8), "fisheye": (4,)}
_ROS_MODELS: dict[str, Model] = {
    "plumb_bob": "pinhole",
    "rational_polynomial": "pinhole",
    "equidistant": "fisheye",
    "fisheye": "fisheye",
}
_MAX_SIDE_PX = 100_000


def load_camera(path: str | Path) -> Camera:
    """Read a calibration.

    Two layouts are known: the keys of `Camera.to_dict` (model, width_px, height_px, fx_px, fy_px, cx_px, cy_px, and
    optionally distortion, T_base_camera, baseline_m), and the camera_info YAML that ROS's camera_calibration writes
    (image_width, image_height, camera_matrix, distortion_model, distortion_coefficients, projection_matrix).

    Args:
        path: YAML file.

    Raises:
        ConfigError: unreadable, an unknown key, a value that no camera has, or a rig.
    """
    cameras = load_cameras(path)
    if not isinstance(cameras, Camera):
        raise ConfigError(f"camera file {path} holds the rig {', '.join(cameras)}; expected one camera")
    return cameras


def load_cameras(path: str | Path) -> Cameras:
    """Read the calibration of one camera, as `load_camera`, or of a rig.

    The file of a rig has the names of its cameras on top, and under each name a calibration in either layout with
    `T_base_camera`, which a rig cannot do without.

    Args:
        path: YAML file.

    Raises:
        ConfigError: unreadable, an unknown key, or a value that no camera has.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"camera file {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"camera file {path} holds a {type(values).__name__}; expected keys such as 'fx_px: 525.0'")
    try:
        return cameras_from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"camera file {path}: {error}") from None


def cameras_from_dict(values: Mapping[str, Any]) -> Cameras:
    """One camera, or a rig by name, from what `load_cameras` reads; the inverse of `cameras_to_dict`.

    Raises:
        ConfigError: unknown or missing key, or a value that no camera has.
    """
    if not values or not all(isinstance(value, Mapping) for value in values.values()):
        return _camera_of_either_layout(values)
    return {_checked_name(name): _rig_camera(name, camera) for name, camera in values.items()}


def cameras_to_dict(cameras: Cameras) -> dict[str, Any]:
    """Plain values of one camera, or those of a rig's cameras by name."""
    if isinstance(cameras, Camera):
        return cameras.to_dict()
    return {name: camera.to_dict() for name, camera in cameras.items()}


def _rig_camera(name: str, values: Mapping[str, Any]) -> Camera:
    if "T_base_camera" not in values:
        raise ConfigError(f"camera {name!r} of the rig lacks T_base_camera; say how each camera is mounted on the base")
    try:
        return _camera_of_either_layout(values)
    except ConfigError as error:
        raise ConfigError(f"camera {name!r} of the rig: {error}") from None


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"camera name {name!r} of the rig is no text; put a name such as front there")
    return name


def _camera_of_either_layout(values: Mapping[str, Any]) -> Camera:
    return camera_from_ros(values) if "camera_matrix" in values else camera_from_dict(values)


def camera_from_dict(values: Mapping[str, Any]) -> Camera:
    """A camera from the keys of `Camera.to_dict`.

    Raises:
        ConfigError: unknown or missing key, or a value that no camera has.
    """
    _check_keys(values)
    model = _model(values["model"])
    K = np.eye(3)
    K[0, 0], K[1, 1] = _number(values, "fx_px"), _number(values, "fy_px")
    K[0, 2], K[1, 2] = _number(values, "cx_px"), _number(values, "cy_px")
    baseline_m = _number(values, "baseline_m") if values.get("baseline_m") is not None else None
    default = [0.0] * 4 if model == "fisheye" else []
    return _checked(
        model,
        (_side(values, "width_px"), _side(values, "height_px")),
        K,
        _numbers(values.get("distortion", default), "distortion"),
        values.get("T_base_camera", np.eye(4)),
        baseline_m,
    )


def camera_from_ros(values: Mapping[str, Any]) -> Camera:
    """A camera from the values of a ROS camera_info YAML.

    Optical frame and base frame are taken as one, unless a key `T_base_camera` was added that says how the camera is
    mounted; a right camera's projection matrix gives the baseline.

    Raises:
        ConfigError: missing key, unknown distortion model, or a value that no camera has.
    """
    missing = [key for key in ("image_width", "image_height", "camera_matrix") if key not in values]
    if missing:
        raise ConfigError(f"camera_info lacks {', '.join(missing)}; write the file with ROS's camera_calibration")
    name = values.get("distortion_model", "plumb_bob")
    if not isinstance(name, str) or name not in _ROS_MODELS:
        raise ConfigError(f"distortion_model {name!r} is unknown; expected one of {', '.join(_ROS_MODELS)}")
    K = _matrix(values["camera_matrix"], (3, 3), "camera_matrix")
    coefficients = values.get("distortion_coefficients", {"data": []})
    data = coefficients.get("data") if isinstance(coefficients, Mapping) else coefficients
    distortion = _numbers(data, "distortion_coefficients")
    model = _ROS_MODELS[name]
    if model == "fisheye" and distortion.size == 0:
        distortion = np.zeros(4)
    size = (_side(values, "image_width"), _side(values, "image_height"))
    mounting = values.get("T_base_camera", np.eye(4))
    return _checked(model, size, K, distortion, mounting, _ros_baseline(values.get("projection_matrix")))


def _checked(
    model: Model,
    size_px: tuple[int, int],
    K: FloatArray,
    distortion: FloatArray,
    T_base_camera: object,
    baseline_m: float | None,
) -> Camera:
    width_px, height_px = size_px
    for name, value in (("fx", K[0, 0]), ("fy", K[1, 1])):
        if not value > 0:
            raise ConfigError(f"focal length {name} = {value} px is not positive; calibrate the camera again")
    if abs(K[1, 0]) + abs(K[2, 0]) + abs(K[2, 1]) > 1e-9 or abs(K[2, 2] - 1.0) > 1e-9:
        raise ConfigError(f"camera matrix {K.tolist()} is not [[fx, s, cx], [0, fy, cy], [0, 0, 1]]; check its order")
    if not (0 < K[0, 2] < width_px and 0 < K[1, 2] < height_px):
        raise ConfigError(
            f"principal point ({K[0, 2]}, {K[1, 2]}) px lies outside the {width_px}x{height_px} image;"
            " the calibration belongs to another image size"
        )
    lengths = _DISTORTION_LENGTHS[model]
    if distortion.size not in lengths:
        expected = " or ".join(str(length) for length in lengths)
        raise ConfigError(f"distortion of a {model} camera has {distortion.size} numbers; expected {expected}")
    if baseline_m is not None and not baseline_m > 0:
        raise ConfigError(f"baseline_m = {baseline_m} is not positive; give the distance to the right camera")
    try:
        mounting = check_transform(T_base_camera, "T_base_camera")
    except (InputError, ValueError, TypeError) as error:
        raise ConfigError(f"{error}; expected four rows of four numbers, rotation and translation in metres") from None
    return Camera(model, width_px, height_px, K, distortion, mounting, baseline_m)


def _check_keys(values: Mapping[str, Any]) -> None:
    known = _REQUIRED_KEYS | _OPTIONAL_KEYS
    for key in values:
        if key not in known:
            begun = [name for name in sorted(known) if name.startswith(str(key))]
            near = begun or difflib.get_close_matches(str(key), sorted(known), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(sorted(known))}"
            raise ConfigError(f"key {key!r} is unknown; {hint}")
    missing = sorted(_REQUIRED_KEYS - set(values))
    if missing:
        raise ConfigError(f"{', '.join(missing)} missing; a camera needs {', '.join(sorted(_REQUIRED_KEYS))}")


def _model(value: object) -> Model:
    if value == "pinhole":
        return "pinhole"
    if value == "fisheye":
        return "fisheye"
    raise ConfigError(f"model {value!r} is unknown; choose pinhole or fisheye")


def _number(values: Mapping[str, Any], key: str) -> float:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{key} = {value!r} is no finite number; calibrate the camera again")
    return float(value)


def _side(values: Mapping[str, Any], key: str) -> int:
    value = _number(values, key)
    if value != int(value) or not 1 <= value <= _MAX_SIDE_PX:
        raise ConfigError(f"{key} = {values[key]!r} is no image size; expected whole pixels from 1 to {_MAX_SIDE_PX}")
    return int(value)


def _numbers(value: object, name: str) -> FloatArray:
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} = {value!r} is no list of numbers; write it as [k1, k2, ...]") from None
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ConfigError(f"{name} = {value!r} must be a flat list of finite numbers; write it as [k1, k2, ...]")
    return numbers


def _matrix(value: object, shape: tuple[int, int], name: str) -> FloatArray:
    data = _numbers(value.get("data") if isinstance(value, Mapping) else value, name)
    if data.size != shape[0] * shape[1]:
        raise ConfigError(f"{name} has {data.size} numbers; expected {shape[0]}x{shape[1]}, row by row")
    return data.reshape(shape)


def _ros_baseline(projection: object) -> float | None:
    """Tx = -fx * baseline stands in the fourth column of the right camera's projection matrix."""
    if projection is None:
        return None
    P = _matrix(projection, (3, 4), "projection_matrix")
    return float(-P[0, 3] / P[0, 0]) if P[0, 3] < 0 < P[0, 0] else None
