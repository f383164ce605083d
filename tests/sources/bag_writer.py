"""Writes small bags of every kind for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

FORMATS = ("ros1", "sqlite3", "mcap")


class Messages:
    """Makes messages of ROS 1 or 2 with the same arguments, and writes them."""

    def __init__(self, bag_format: str) -> None:
        self.bag_format = bag_format
        self.is_ros1 = bag_format == "ros1"
        self.store = get_typestore(Stores.ROS1_NOETIC if self.is_ros1 else Stores.ROS2_HUMBLE)
        if self.is_ros1:
            self.store.register(
                get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage")
            )
        self._queue: list[tuple[str, str, int, bytes]] = []

    def make(self, msgtype: str, **fields: Any) -> Any:
        return self.store.types[msgtype](**fields)

    def header(self, stamp_ns: int, frame_id: str = "camera") -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 10**9)
        stamp = self.make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
        sequence = {"seq": 0} if self.is_ros1 else {}
        return self.make("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id, **sequence)

    def image(self, stamp_ns: int, rows: np.ndarray, encoding: str, width: int, *, bigendian: int = 0) -> Any:
        """`rows` is (H, step) uint8, padding included."""
        return self.make(
            "sensor_msgs/msg/Image",
            header=self.header(stamp_ns),
            height=rows.shape[0],
            width=width,
            encoding=encoding,
            is_bigendian=bigendian,
            step=rows.shape[1],
            data=rows.ravel(),
        )

    def grey(self, stamp_ns: int, value: int, size: tuple[int, int] = (8, 6)) -> Any:
        return self.image(stamp_ns, np.full((size[1], size[0]), value, np.uint8), "mono8", size[0])

    def compressed(self, stamp_ns: int, data: bytes, image_format: str = "jpeg") -> Any:
        return self.make(
            "sensor_msgs/msg/CompressedImage",
            header=self.header(stamp_ns),
            format=image_format,
            data=np.frombuffer(data, np.uint8),
        )

    def odometry(self, stamp_ns: int, position: tuple[float, float, float], quaternion: tuple[float, ...]) -> Any:
        point = self.make("geometry_msgs/msg/Point", **dict(zip("xyz", position, strict=True)))
        rotation = self.make("geometry_msgs/msg/Quaternion", **dict(zip("xyzw", quaternion, strict=True)))
        pose = self.make("geometry_msgs/msg/Pose", position=point, orientation=rotation)
        zero = self.make("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
        twist = self.make("geometry_msgs/msg/Twist", linear=zero, angular=zero)
        return self.make(
            "nav_msgs/msg/Odometry",
            header=self.header(stamp_ns, "odom"),
            child_frame_id="base_link",
            pose=self.make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
            twist=self.make("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)),
        )

    def camera_info(
        self,
        width: int = 8,
        height: int = 6,
        *,
        fx: float = 10.0,
        model: str = "plumb_bob",
        distortion: tuple[float, ...] = (0.1, 0.0, 0.0, 0.0, 0.0),
        right_tx: float = 0.0,
        roi: tuple[int, int, int, int] = (0, 0, 0, 0),
        intrinsics: np.ndarray | None = None,
        frame_id: str = "camera",
    ) -> Any:
        """`intrinsics` is a whole K (3, 3) instead of `fx` alone."""
        K = np.array([fx, 0.0, 4.0, 0.0, fx, 3.0, 0.0, 0.0, 1.0]) if intrinsics is None else intrinsics.ravel()
        P = np.array([2 * fx, 0.0, 4.5, right_tx, 0.0, 2 * fx, 3.5, 0.0, 0.0, 0.0, 1.0, 0.0])
        values = {"D": np.array(distortion), "K": K, "R": np.eye(3).ravel(), "P": P}
        x_offset, y_offset, roi_width, roi_height = roi
        region = self.make(
            "sensor_msgs/msg/RegionOfInterest",
            x_offset=x_offset,
            y_offset=y_offset,
            width=roi_width,
            height=roi_height,
            do_rectify=False,
        )
        return self.make(
            "sensor_msgs/msg/CameraInfo",
            header=self.header(0, frame_id),
            height=height,
            width=width,
            distortion_model=model,
            binning_x=0,
            binning_y=0,
            roi=region,
            **(values if self.is_ros1 else {name.lower(): value for name, value in values.items()}),
        )

    def static_transform(
        self, parent: str, child: str, translation: tuple[float, float, float], quaternion: tuple[float, ...]
    ) -> Any:
        transform = self.make(
            "geometry_msgs/msg/Transform",
            translation=self.make("geometry_msgs/msg/Vector3", **dict(zip("xyz", translation, strict=True))),
            rotation=self.make("geometry_msgs/msg/Quaternion", **dict(zip("xyzw", quaternion, strict=True))),
        )
        stamped = self.make(
            "geometry_msgs/msg/TransformStamped",
            header=self.header(0, parent),
            child_frame_id=child,
            transform=transform,
        )
        return self.make("tf2_msgs/msg/TFMessage", transforms=[stamped])

    def add(self, topic: str, log_ns: int, message: Any, *, cut_bytes: int = 0) -> None:
        msgtype = message.__msgtype__
        serialize = self.store.serialize_ros1 if self.is_ros1 else self.store.serialize_cdr
        data = bytes(serialize(message, msgtype))
        self._queue.append((topic, msgtype, log_ns, data[: len(data) - cut_bytes]))

    def write(self, folder: Path, name: str = "recording") -> Path:
        """Write what was added; returns the .bag file or the ROS 2 folder."""
        if self.is_ros1:
            path = folder / f"{name}.bag"
            writer1 = Writer1(path)
            writer1.set_compression(Writer1.CompressionFormat.LZ4)
            with writer1:
                self._write(writer1)
            return path
        path = folder / name
        plugin = StoragePlugin.MCAP if self.bag_format == "mcap" else StoragePlugin.SQLITE3
        with Writer2(path, version=8, storage_plugin=plugin) as writer2:
            self._write(writer2)
        return path

    def _write(self, writer: Any) -> None:
        connections: dict[str, Any] = {}
        for topic, msgtype, log_ns, data in self._queue:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, msgtype, typestore=self.store)
            writer.write(connections[topic], log_ns, data)
