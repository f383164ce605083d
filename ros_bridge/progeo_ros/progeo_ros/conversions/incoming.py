"""Messages that come in, to the types of progeo_edge: images, depth, calibration, odometry, transforms.

Any object with the fields of the message will do: rclpy, rospy and rosbags give different classes. A message that
cannot be used raises FrameError with a sentence, or leads to a value that carries the sentence; nothing else is
raised, so that a callback survives whatever a driver sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from progeo_edge.geometry import Camera, transform_from_quaternion
from progeo_edge.sources.bag_camera import camera_from_info
from progeo_edge.sources.poses import is_pose, spatial_pose
from progeo_edge.sources.ros_images import (
    depth_m_from_compressed,
    depth_m_from_message,
    image_from_compressed,
    image_from_message,
)
from progeo_edge.types import Image, Transform
from progeo_ros.message_types import stamp_ns_of


@dataclass(frozen=True, slots=True, eq=False)
class OdometryPose:
    """One pose of the odometry.

    Attributes:
        stamp_ns: Time of the pose.
        T_odom_base: Pose of `base_frame` in `odom_frame`; None when it is not usable, and `problem` says why.
        odom_frame: frame_id of the header, without a leading slash; "" when the driver leaves it empty.
        base_frame: child_frame_id, likewise.
        problem: Why there is no pose, in one clause; "" with a pose.
    """

    stamp_ns: int
    T_odom_base: Transform | None
    odom_frame: str
    base_frame: str
    problem: str = ""


Pose7: TypeAlias = tuple[float, float, float, float, float, float, float]
"""Position in metres and quaternion: x y z qx qy qz qw."""


@dataclass(frozen=True, slots=True)
class StampedTransform:
    """One transform of tf. Most are never looked at, so that matrices are made only when they are.

    Attributes:
        parent: Frame that the child's points are mapped to, without a leading slash.
        child: Frame below it.
        stamp_ns: Time at which it holds.
        pose: Of the child in the parent.
    """

    parent: str
    child: str
    stamp_ns: int
    pose: Pose7

    @property
    def is_usable(self) -> bool:
        """Whether it is a pose: finite, with a quaternion near unit norm."""
        return is_pose(self.pose)

    @property
    def T_parent_child(self) -> Transform:
        """(4, 4) transform; raises InputError when it is not usable."""
        return transform_from_quaternion(self.pose[:3], self.pose[3:])


def header_stamp_ns(message: Any) -> int:  # noqa: ANN401
    """Stamp of a message's header in nanoseconds; 0 when the driver has not set it."""
    return stamp_ns_of(message.header.stamp)


def frame_of(frame_id: str) -> str:
    """A frame's name as tf2 writes it: ROS 1 allowed a leading slash, which is the same frame."""
    return str(frame_id).lstrip("/")


def image_of(message: Any) -> Image:  # noqa: ANN401
    """sensor_msgs/Image or sensor_msgs/CompressedImage to (H, W, 3) BGR or (H, W) grey, uint8.

    The pixels of an unpadded bgr8 or mono8 message are not copied: the image is a view of the message's buffer, and
    read-only where the buffer is.

    Raises:
        FrameError: zero size, truncated data, rows shorter than the width, or an encoding that is no camera image.
    """
    return image_from_compressed(message) if _is_compressed(message) else image_from_message(message)


def depth_m_of(message: Any) -> NDArray[np.float32]:  # noqa: ANN401
    """sensor_msgs/Image (16UC1, mono16: millimetres; 32FC1: metres) or compressedDepth to (H, W) float32 metres.

    Raises:
        FrameError: as `image_of`, or an encoding that is no depth.
    """
    return depth_m_from_compressed(message) if _is_compressed(message) else depth_m_from_message(message)


def camera_of(info: Any, *, rectified: bool, T_base_camera: Transform) -> Camera | None:  # noqa: ANN401
    """sensor_msgs/CameraInfo to a camera; None, with a warning in the log, when it is not calibrated.

    Args:
        info: Of ROS 1 (K, D, P) or ROS 2 (k, d, p).
        rectified: Images are undistorted: P holds, without distortion.
        T_base_camera: Mounting of the optical frame.
    """
    return camera_from_info(info, rectified=rectified, T_base_camera=T_base_camera)


def odometry_of(message: Any) -> OdometryPose:  # noqa: ANN401
    """nav_msgs/Odometry to a pose; NaN or a quaternion far from unit norm gives a problem instead of a pose."""
    p, q = message.pose.pose.position, message.pose.pose.orientation
    pose = (p.x, p.y, p.z, q.x, q.y, q.z, q.w)
    return OdometryPose(
        header_stamp_ns(message),
        spatial_pose(pose),
        frame_of(message.header.frame_id),
        frame_of(message.child_frame_id),
        "" if is_pose(pose) else no_pose(pose),
    )


def transforms_of(message: Any) -> list[StampedTransform]:  # noqa: ANN401
    """tf2_msgs/TFMessage (tf, tf_static) to transforms, those that are not usable among them."""
    return [_stamped_transform(stamped) for stamped in message.transforms]


def _stamped_transform(stamped: Any) -> StampedTransform:  # noqa: ANN401
    t, q = stamped.transform.translation, stamped.transform.rotation
    parent, child = frame_of(stamped.header.frame_id), frame_of(stamped.child_frame_id)
    return StampedTransform(parent, child, stamp_ns_of(stamped.header.stamp), (t.x, t.y, t.z, q.x, q.y, q.z, q.w))


def no_pose(pose: Pose7) -> str:
    """Why seven numbers are no pose, in one clause."""
    position, orientation = (", ".join(f"{value:.4g}" for value in part) for part in (pose[:3], pose[3:]))
    return f"position ({position}) with quaternion ({orientation}) is no pose; expected finite numbers and unit norm"


def _is_compressed(message: Any) -> bool:  # noqa: ANN401
    return hasattr(message, "format")
