"""The pose of the base at the stamp of an image: from the topic odom, or from tf. Only metric odometry is of use."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import numpy as np

from progeo_edge.types import Transform
from progeo_ros.camera_setup import T_BASE_FORWARD_CAMERA, Mounting
from progeo_ros.config import NodeConfig
from progeo_ros.conversions.incoming import odometry_of
from progeo_ros.transforms import PoseHistory, TransformTree


class OdometryInput:
    """Follows the odometry.

    Args:
        config: Settings of the node.
        tree: The frames of tf.
        problems: As in `CameraSetup`.
    """

    def __init__(self, config: NodeConfig, tree: TransformTree, problems: MutableMapping[str, str]) -> None:
        self._source = config.input.odometry
        self._base_frame = config.frames.base
        self.odom_frame = config.frames.odom
        self._tree = tree
        self._problems = problems
        self._history: PoseHistory[Transform] = PoseHistory(lambda T: T)
        self._child_frame = config.frames.base

    @property
    def is_wanted(self) -> bool:
        """Whether there is to be odometry at all."""
        return self._source != "none"

    @property
    def has_come(self) -> bool:
        """Whether any was seen yet."""
        if self._source == "tf":
            return self._tree.is_connected(self.odom_frame, self._base_frame)
        return len(self._history) > 0

    def on_odometry(self, message: Any) -> bool:  # noqa: ANN401
        """Take over nav_msgs/Odometry; False when its pose cannot be used."""
        pose = odometry_of(message)
        if pose.T_odom_base is None:
            self._problems["odometry"] = f"the last message on odom is not usable: {pose.problem}"
            return False
        self._problems.pop("odometry", None)
        self.odom_frame = pose.odom_frame or self.odom_frame
        self._child_frame = pose.base_frame or self._base_frame
        self._history.add(pose.stamp_ns, pose.T_odom_base)
        return True

    def forget_after(self, stamp_ns: int) -> None:
        """Time was set back."""
        self._history.forget_after(stamp_ns)

    def reaches(self, stamp_ns: int) -> bool:
        """Whether later messages cannot change what `at` says."""
        if self._source == "none":
            return True
        if self._source == "tf":
            return self._tree.reaches(self.odom_frame, self._base_frame, stamp_ns)
        return self._history.reaches(stamp_ns)

    def at(self, stamp_ns: int, mounting: Mounting) -> Transform | None:
        """Pose of the frame that poses are of (`mounting.base_frame`) in the odometry frame; None when unknown."""
        if self._source == "none":
            return None
        if self._source == "tf":
            T_odom_body = self._tree.at(self.odom_frame, self._base_frame, stamp_ns)
            body = self._base_frame
        else:
            T_odom_body, body = self._history.at(stamp_ns), self._child_frame
        if T_odom_body is None:
            return None
        T_body_base = self._from_body(body, mounting, stamp_ns)
        return None if T_body_base is None else T_odom_body @ T_body_base

    def _from_body(self, body: str, mounting: Mounting, stamp_ns: int) -> Transform | None:
        """From the frame whose pose the odometry states to the one that poses are of."""
        base = mounting.base_frame
        T_body_base = np.eye(4) if body == base else self._tree.at(body, base, stamp_ns)
        if T_body_base is None and not mounting.is_known:
            T_body_base = T_BASE_FORWARD_CAMERA
        if T_body_base is None:
            self._problems["odometry_frame"] = (
                f"odom states the pose of {body!r}, and tf has no transform from there to {base!r}, the frame that "
                f"poses are of: the odometry is not used; set frames.base to {body!r} or publish the transform"
            )
        else:
            self._problems.pop("odometry_frame", None)
        return T_body_base
