"""What conversions need of a ROS: a way to make messages, the same for ROS 2, ROS 1 and rosbags."""

from __future__ import annotations

from typing import Any, Protocol

NANOSECONDS = 1_000_000_000


class MessageTypes(Protocol):
    """Makes messages by name. Fields that are not given have the default of their type (zero, empty, false)."""

    def has(self, name: str) -> bool:
        """Whether a type is there ("progeo_msgs/msg/LoopClosure"): packages of messages are optional."""
        ...

    def make(self, name: str, /, **fields: Any) -> Any:  # noqa: ANN401
        """A message, or a part of a service: "sensor_msgs/msg/Image", "rtabmap_msgs/srv/AddLink_Request".

        Numbers in sequences and arrays may be given as numpy arrays, bytes fields as bytes; they are handed over in
        the form that is fast in this ROS. A single byte (level of DiagnosticStatus) is given as a number.

        Raises:
            InputError: the type is not there, or has no such field.
        """
        ...

    def time(self, stamp_ns: int) -> Any:  # noqa: ANN401
        """builtin_interfaces/Time of ROS 2, time of ROS 1."""
        ...


def stamp_ns_of(stamp: Any) -> int:  # noqa: ANN401
    """Nanoseconds of a time of ROS 2 or rosbags (sec, nanosec) or of ROS 1 (secs, nsecs)."""
    if hasattr(stamp, "nanosec"):
        return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)
    return int(stamp.secs) * NANOSECONDS + int(stamp.nsecs)


def make_header(types: MessageTypes, stamp_ns: int, frame_id: str) -> Any:  # noqa: ANN401
    """std_msgs/Header."""
    return types.make("std_msgs/msg/Header", stamp=types.time(stamp_ns), frame_id=frame_id)
