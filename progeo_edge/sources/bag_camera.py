"""Camera of a bag: intrinsics from CameraInfo, mounting from static transforms."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from progeo_edge.errors import InputError
from progeo_edge.geometry import Camera, check_transform, invert, make_transform, transform_from_quaternion
from progeo_edge.types import Transform

logger = logging.getLogger(__name__)

StaticTransforms = Mapping[tuple[str, str], Transform]
"""(parent, child) frame to T_parent_child."""

R_BASE_FORWARD_CAMERA = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Optical frame of a camera that looks along the base's x axis (REP 103)."""

_TRANSPORTS = ("compressed", "compressedDepth", "theora", "ffmpeg")
_MODELS: dict[str, Literal["pinhole", "fisheye"]] = {
    "": "pinhole",
    "none": "pinhole",
    "plumb_bob": "pinhole",
    "rational_polynomial": "pinhole",
    "equidistant": "fisheye",
    "fisheye": "fisheye",
    "kannala_brandt4": "fisheye",
}


def info_topic_of(image_topic: str) -> str:
    """The camera_info beside an image topic, as image_transport names it."""
    namespace = _without_transport(image_topic).rpartition("/")[0]
    return f"{namespace}/camera_info"


def is_rectified(image_topic: str) -> bool:
    """Whether the topic's name says that its images are undistorted (image_rect, image_rect_color)."""
    return _without_transport(image_topic).rpartition("/")[2].startswith("image_rect")


def camera_from_info(info: Any, *, rectified: bool, T_base_camera: Transform) -> Camera | None:  # noqa: ANN401
    """sensor_msgs/CameraInfo (of ROS 1 or 2) to a camera; None, with a warning, when it is not calibrated.

    Args:
        info: The message.
        rectified: Whether the images are undistorted; then P holds and there is no distortion.
        T_base_camera: Mounting.
    """
    K = np.array(_field(info, "K"), dtype=np.float64).reshape(3, 3)
    distortion = np.array(_field(info, "D"), dtype=np.float64)
    if rectified:
        K, distortion = np.array(_field(info, "P"), dtype=np.float64).reshape(3, 4)[:, :3], np.zeros(0)
    model = _MODELS.get(info.distortion_model.lower()) if not rectified else "pinhole"
    if model is None:
        logger.warning("camera_info: distortion model %r is not supported; give a camera", info.distortion_model)
        return None
    calibrated = np.all(np.isfinite(K)) and np.all(np.isfinite(distortion)) and K[0, 0] > 0 and K[1, 1] > 0
    if not calibrated or info.width <= 0 or info.height <= 0:
        logger.warning("camera_info is not calibrated (fx %s, width %s); give a camera", K[0, 0], info.width)
        return None
    distortion = _trim(distortion, model)
    if len(distortion) not in ((4,) if model == "fisheye" else (0, 4, 5, 8)):
        logger.warning("camera_info has %d coefficients of distortion; give a camera", len(distortion))
        return None
    width_px, height_px = int(info.width), int(info.height)
    if info.roi.width and info.roi.height:
        K = K - np.array([[0, 0, info.roi.x_offset], [0, 0, info.roi.y_offset], [0, 0, 0]])
        width_px, height_px = int(info.roi.width), int(info.roi.height)
    return Camera(model, width_px, height_px, K, distortion, T_base_camera)


def baseline_from_right_info(info: Any) -> float | None:  # noqa: ANN401
    """Baseline of a rectified pair from the right camera's projection (P[0, 3] = -fx * baseline), in metres."""
    P = np.array(_field(info, "P"), dtype=np.float64).reshape(3, 4)
    baseline_m = -P[0, 3] / P[0, 0] if P[0, 0] > 0 else 0.0
    return float(baseline_m) if np.isfinite(baseline_m) and baseline_m > 0 else None


def mounting(statics: StaticTransforms, base_frame: str | None, camera_frame: str) -> Transform:
    """T_base_camera by way of static transforms.

    Args:
        statics: From /tf_static.
        base_frame: child_frame_id of the odometry; None without odometry: then the optical frame is the base.
        camera_frame: frame_id of the images.

    Without a chain of transforms the camera is taken to look forward, at the base's origin, with a warning.
    """
    if base_frame is None or base_frame == camera_frame:
        return np.eye(4)
    T_base_camera = _chain(statics, base_frame, camera_frame)
    if T_base_camera is not None:
        return T_base_camera
    logger.warning(
        "no static transform from %r to %r: the camera is taken to look forward from the base's origin; "
        "give a camera with T_base_camera",
        base_frame,
        camera_frame,
    )
    return make_transform(R_BASE_FORWARD_CAMERA, np.zeros(3))


def static_transforms(message: Any) -> dict[tuple[str, str], Transform]:  # noqa: ANN401
    """tf2_msgs/TFMessage to transforms; those that are not rigid are left out with a warning."""
    result = {}
    for stamped in message.transforms:
        t, q = stamped.transform.translation, stamped.transform.rotation
        pair = (stamped.header.frame_id.lstrip("/"), stamped.child_frame_id.lstrip("/"))
        try:
            result[pair] = check_transform(
                transform_from_quaternion([t.x, t.y, t.z], [q.x, q.y, q.z, q.w]), "static transform"
            )
        except InputError as error:
            logger.warning("static transform from %s to %s left out: %s", *pair, error)
    return result


def _chain(statics: StaticTransforms, start: str, goal: str) -> Transform | None:
    """Breadth-first search; each edge can be walked both ways."""
    edges: dict[str, list[tuple[str, Transform]]] = {}
    for (parent, child), T_parent_child in statics.items():
        edges.setdefault(parent, []).append((child, T_parent_child))
        edges.setdefault(child, []).append((parent, invert(T_parent_child)))
    reached = {start: np.eye(4)}
    front = [start]
    while front:
        frame = front.pop(0)
        for neighbour, T_frame_neighbour in edges.get(frame, []):
            if neighbour not in reached:
                reached[neighbour] = reached[frame] @ T_frame_neighbour
                front.append(neighbour)
    return reached.get(goal)


def _trim(distortion: np.ndarray[Any, np.dtype[np.float64]], model: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Drivers pad with zeros: OpenCV's 12 and 14 coefficients, or five zeros for none."""
    if not np.any(distortion) and model == "pinhole":
        return np.zeros(0)
    limit = 4 if model == "fisheye" else 8
    return distortion[:limit] if not np.any(distortion[limit:]) else distortion


def _field(info: Any, name: str) -> Any:  # noqa: ANN401
    """ROS 1 writes K D P, ROS 2 k d p."""
    return getattr(info, name) if hasattr(info, name) else getattr(info, name.lower())


def _without_transport(topic: str) -> str:
    head, _, tail = topic.rpartition("/")
    return head if tail in _TRANSPORTS else topic
