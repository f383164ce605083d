"""Writes messages into one mcap file, as `ros2 bag record` of a node's topics would."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from rosbags.interfaces import (
    Connection,
    Nodetype,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from progeo_ros.rosbags_types import RosbagsTypes

FORMAT_VERSION: Literal[8] = 8
"""Of rosbag2; Humble reads up to 8."""
FOREVER = QosTime(2147483647, 4294967295)


class BagWriter:
    """One mcap file in a new folder. Use as a context manager; what failed inside leaves an unreadable file.

    Attributes:
        counts: Messages per topic, also of topics without any.
    """

    def __init__(self, folder: Path, types: RosbagsTypes) -> None:
        """Prepare a bag; the folder is made when the context is entered, and must not exist."""
        self.counts: Counter[str] = Counter()
        self._types = types
        self._folder = folder
        self._writer = Writer(folder, version=FORMAT_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._connections: dict[str, Connection] = {}

    @property
    def file(self) -> Path:
        """The mcap file; whole once the context was left."""
        return self._folder / f"{self._folder.name}.mcap"

    def __enter__(self) -> BagWriter:
        self._writer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: ANN401
        self._writer.__exit__(*error)

    def declare(self, topic: str, msgtype: str, *, latched: bool = False, depth: int = 10) -> None:
        """Let the bag have a topic, with or without messages; declaring it again changes nothing."""
        if topic in self._connections:
            return
        qos = _qos(latched, depth)
        store = self._types.store
        self._connections[topic] = self._writer.add_connection(
            topic, msgtype, typestore=store, offered_qos_profiles=[qos]
        )
        self.counts[topic] += 0

    def write(self, topic: str, message: Any, log_ns: int, *, latched: bool = False) -> None:  # noqa: ANN401
        """Append a message, made with the same types.

        Args:
            topic: Absolute name.
            message: Made by `RosbagsTypes.make`.
            log_ns: When it was published.
            latched: Late joiners get the last ones.
        """
        self.declare(topic, message.__msgtype__, latched=latched)
        self._writer.write(self._connections[topic], log_ns, self._types.to_bytes(message))
        self.counts[topic] += 1


def in_types(types: RosbagsTypes, message: Any, msgtype: str) -> Any:  # noqa: ANN401
    """A message of another version of ROS, in these types: ROS 1 writes K where ROS 2 writes k, and has seq.

    Fields that only the other version has are left out.
    """
    fields = {}
    for name, kind in types.store.fielddefs[msgtype][1]:
        value = getattr(message, name, getattr(message, name.upper(), None))
        if value is not None:
            fields[name] = _converted(types, value, kind)
    return types.make(msgtype, **fields)


def _converted(types: RosbagsTypes, value: Any, kind: Any) -> Any:  # noqa: ANN401
    node, inner = kind
    if node == Nodetype.NAME:
        return in_types(types, value, inner)
    if node in (Nodetype.ARRAY, Nodetype.SEQUENCE) and inner[0][0] == Nodetype.NAME:
        return [in_types(types, item, inner[0][1]) for item in value]
    return value


def _qos(latched: bool, depth: int) -> Qos:
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=depth,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=FOREVER,
        lifespan=FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=FOREVER,
        avoid_ros_namespace_conventions=False,
    )
