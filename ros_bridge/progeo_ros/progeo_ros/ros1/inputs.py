"""Topics that come in. Callbacks only hand over; nothing is decoded in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import rospy

from progeo_ros.assembled import Assembler
from progeo_ros.config import NodeConfig
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.pipeline import Pipeline
from progeo_ros.ros1.types import GenpyTypes

BUFFER_BYTES = 2**25
"""rospy drops old images only as far as they fit into one read of the socket: it must be larger than an image."""
NEWEST, BESIDE, ODOMETRY, TRIGGERS, TF = 1, 5, 50, 10, 100
"""Messages that may wait for their turn; rospy drops the oldest."""


class Inputs:
    """Subscribes to what the settings ask for.

    Args:
        config: Settings of the node.
        pipeline: Where messages go.
        assembler: Of the pipeline.
        types: Of the messages.
        on_image: Takes images, with the part of the assembler they are for.
    """

    def __init__(
        self,
        config: NodeConfig,
        pipeline: Pipeline,
        assembler: Assembler,
        types: GenpyTypes,
        on_image: Callable[[FrameAssembler, Any], None],
    ) -> None:
        self._pipeline, self._types = pipeline, types
        self._subscribers: list[Any] = []
        self._is_compressed = config.input.transport == "compressed"
        for prefix, part in assembler.parts.items():
            for topic, is_static in (("/tf_static", True), ("/tf", False)):
                self._add(topic, "tf2_msgs/msg/TFMessage", TF, partial(part.on_transforms, is_static=is_static))
            if config.input.odometry == "topic":
                self._add("odom", "nav_msgs/msg/Odometry", ODOMETRY, part.on_odometry)
            if config.input.external_keyframes:
                self._add("keyframe", "std_msgs/msg/Header", TRIGGERS, part.on_keyframe_trigger)
            self._add_camera(prefix, part, config)
            self._add_images(f"{prefix}image", NEWEST, partial(on_image, part))

    def _add_camera(self, prefix: str, part: FrameAssembler, config: NodeConfig) -> None:
        info = "sensor_msgs/msg/CameraInfo"
        self._add(f"{prefix}camera_info", info, NEWEST, part.on_camera_info)
        if config.input.depth:
            self._add(f"{prefix}depth", "sensor_msgs/msg/Image", BESIDE, part.on_depth)
        if config.input.right:
            self._add_images(f"{prefix}right/image", BESIDE, part.on_right)
            self._add(f"{prefix}right/camera_info", info, NEWEST, part.on_right_camera_info)

    def close(self) -> None:
        """Unsubscribe."""
        for subscriber in self._subscribers:
            subscriber.unregister()

    def _add(self, topic: str, msgtype: str, queue: int, receive: Callable[[Any], object]) -> None:
        self._subscribers.append(
            rospy.Subscriber(
                topic,
                self._types.message_class(msgtype),
                partial(self._pipeline.take, receive),
                queue_size=queue,
                buff_size=BUFFER_BYTES,
                tcp_nodelay=True,
            )
        )

    def _add_images(self, name: str, queue: int, receive: Callable[[Any], object]) -> None:
        """image_transport puts compressed images below the name of the raw ones; that name is what users remap."""
        topic = rospy.resolve_name(name).removesuffix("/compressed")
        if self._is_compressed:
            self._add(f"{topic}/compressed", "sensor_msgs/msg/CompressedImage", queue, receive)
        else:
            self._add(topic, "sensor_msgs/msg/Image", queue, receive)
