"""geometry_msgs/Transform, in which several SLAM systems take and state constraints."""

from __future__ import annotations

from typing import Any

from progeo_edge.errors import InputError
from progeo_edge.geometry import quaternion_xyzw, transform_from_quaternion
from progeo_edge.types import Transform
from progeo_ros.message_types import MessageTypes


def transform_message(types: MessageTypes, T_a_b: Transform) -> Any:  # noqa: ANN401
    """geometry_msgs/Transform of frame b in frame a."""
    x, y, z = (float(value) for value in T_a_b[:3, 3])
    qx, qy, qz, qw = (float(value) for value in quaternion_xyzw(T_a_b[:3, :3]))
    return types.make(
        "geometry_msgs/msg/Transform",
        translation=types.make("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
        rotation=types.make("geometry_msgs/msg/Quaternion", x=qx, y=qy, z=qz, w=qw),
    )


def transform_of(message: Any) -> Transform | None:  # noqa: ANN401
    """Inverse of `transform_message`; None when it holds NaN or no rotation."""
    t, q = message.translation, message.rotation
    try:
        return transform_from_quaternion([float(t.x), float(t.y), float(t.z)], [float(v) for v in (q.x, q.y, q.z, q.w)])
    except InputError:
        return None
