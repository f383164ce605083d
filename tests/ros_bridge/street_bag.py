"""The rendered street of `small_world` as a bag, as a robot would record it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from progeo_edge.geometry import quaternion_xyzw
from tests.small_world import camera, two_passes
from tests.sources.bag_writer import Messages

IMAGE, INFO, DEPTH, ODOM = "/camera/image_raw", "/camera/camera_info", "/camera/depth", "/odom"
ROW_PADDING = 3


def write_street(
    folder: Path,
    bag_format: str,
    *,
    passes: tuple[int, ...] = (0, 1),
    odometry: bool = True,
    camera_info: bool = True,
    second_camera: bool = False,
    cut_image: int | None = None,
) -> Path:
    """Both passes, or one: images with padded rows, depth, calibration, odometry and mounting.

    Odometry is recorded 10 ms after its image, and has its stamp. `cut_image` is the number of an image whose message
    is truncated.
    """
    messages = Messages(bag_format)
    frames = two_passes()[0]
    frames = tuple(frame for lap in passes for frame in frames[6 * lap : 6 * lap + 6])
    mounting = camera().T_base_camera
    at, turned = tuple(mounting[:3, 3]), tuple(quaternion_xyzw(mounting[:3, :3]))
    messages.add("/tf_static", frames[0].stamp_ns, messages.static_transform("base_link", "camera", at, turned))
    for i, frame in enumerate(frames):
        height_px, width_px = frame.image.shape[:2]
        if camera_info:
            info = messages.camera_info(width_px, height_px, distortion=(), intrinsics=camera().K)
            messages.add(INFO, frame.stamp_ns, info)
        rows = np.pad(frame.image.reshape(height_px, width_px * 3), ((0, 0), (0, ROW_PADDING)))
        image = messages.image(frame.stamp_ns, rows, "bgr8", width_px)
        messages.add(IMAGE, frame.stamp_ns + 1_000_000, image, cut_bytes=5000 if i == cut_image else 0)
        if second_camera:
            messages.add("/rear/image_raw", frame.stamp_ns + 1_000_000, image)
        assert frame.depth_m is not None and frame.T_odom_base is not None
        depth = np.ascontiguousarray(frame.depth_m).view(np.uint8)
        messages.add(DEPTH, frame.stamp_ns + 2_000_000, messages.image(frame.stamp_ns, depth, "32FC1", width_px))
        if odometry:
            T = frame.T_odom_base
            pose = messages.odometry(frame.stamp_ns, tuple(T[:3, 3]), tuple(quaternion_xyzw(T[:3, :3])))
            messages.add(ODOM, frame.stamp_ns + 10_000_000, pose)
    return messages.write(folder)
