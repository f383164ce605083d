"""map -> odom, for a node that owns the map frame: frames.publish_tf with a read-only map."""

from __future__ import annotations

from typing import Any

from progeo_edge.geometry import invert, quaternion_xyzw
from progeo_edge.types import Transform
from progeo_ros.conversions.outgoing import relocalizing_closure
from progeo_ros.events import Outcome, map_pose
from progeo_ros.message_types import MessageTypes, make_header


class MapFrame:
    """Keeps the last known place of the odometry frame in the map frame.

    Args:
        map_frame: Name of the map frame.
    """

    def __init__(self, map_frame: str) -> None:
        self._map_frame = map_frame
        self._T_map_odom: Transform | None = None

    def message(self, types: MessageTypes, outcome: Outcome) -> Any | None:  # noqa: ANN401
        """tf2_msgs/TFMessage with the stamp of the image; None before the first relocalisation with odometry."""
        closure = relocalizing_closure(outcome)
        T_odom_base = outcome.frame.T_odom_base
        if closure is not None and T_odom_base is not None:
            T_map_base = map_pose(outcome, closure)
            assert T_map_base is not None  # such closures have a pose in metres
            self._T_map_odom = T_map_base @ invert(T_odom_base)
        return None if self._T_map_odom is None else self._tf(types, outcome, self._T_map_odom)

    def _tf(self, types: MessageTypes, outcome: Outcome, T_map_odom: Transform) -> Any:  # noqa: ANN401
        x, y, z = (float(value) for value in T_map_odom[:3, 3])
        qx, qy, qz, qw = (float(value) for value in quaternion_xyzw(T_map_odom[:3, :3]))
        transform = types.make(
            "geometry_msgs/msg/Transform",
            translation=types.make("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
            rotation=types.make("geometry_msgs/msg/Quaternion", x=qx, y=qy, z=qz, w=qw),
        )
        stamped = types.make(
            "geometry_msgs/msg/TransformStamped",
            header=make_header(types, outcome.frame.stamp_ns, self._map_frame),
            child_frame_id=outcome.odom_frame,
            transform=transform,
        )
        return types.make("tf2_msgs/msg/TFMessage", transforms=[stamped])
