"""The subscriptions of an active node. Callbacks only hand over; nothing is decoded in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

from progeo_ros.assembled import Assembler
from progeo_ros.config import NodeConfig
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.middleware import OnError
from progeo_ros.pipeline import Pipeline
from progeo_ros.ros2.qos import overridable, reliable, sensor_data
from progeo_ros.ros2.types import RclpyTypes

IMAGE_DEPTH = 1
BESIDE_DEPTH = 5
"""Depth and right images wait for the image they belong to."""
ODOMETRY_DEPTH = 50
TRIGGER_DEPTH = 10
TF_DEPTH = 100


class Inputs:
    """Subscribes to what the settings ask for.

    tf is subscribed to as a topic: the assembler keeps the few transforms that it needs, and tf2_ros would bring a
    second buffer and a compiled library for the same messages.

    Args:
        node: Owner of the subscriptions.
        pipeline: Where messages go.
        assembler: Of the pipeline.
        config: Which ones.
        types: Of the messages.
        on_image: Takes images, with the part of the assembler they are for.
        on_error: Told what no message should be able to cause; an exception out of a callback would end the node.
    """

    def __init__(
        self,
        node: Node,
        pipeline: Pipeline,
        assembler: Assembler,
        config: NodeConfig,
        types: RclpyTypes,
        on_image: Callable[[FrameAssembler, Any], None],
        on_error: OnError,
    ) -> None:
        self._node, self._types = node, types
        # Messages arrive in their order. A group of its own for each activation: in rclpy of Humble a group stays
        # occupied for ever by a subscription that is taken away while one of its messages is about to be fetched.
        self._group = MutuallyExclusiveCallbackGroup()
        self._pipeline, self._on_error = pipeline, on_error
        self._subscriptions: list[Subscription] = []
        for prefix, part in assembler.parts.items():
            self._add_camera(prefix, part, config, partial(on_image, part))
            for topic, is_static in (("/tf", False), ("/tf_static", True)):
                receive = partial(part.on_transforms, is_static=is_static)
                self._add(topic, "tf2_msgs/msg/TFMessage", reliable(TF_DEPTH, latched=is_static), receive)
            if config.input.odometry == "topic":
                self._add("odom", "nav_msgs/msg/Odometry", sensor_data(ODOMETRY_DEPTH), part.on_odometry)
            if config.input.external_keyframes:
                self._add("keyframe", "std_msgs/msg/Header", reliable(TRIGGER_DEPTH), part.on_keyframe_trigger)

    def _add_camera(
        self, prefix: str, part: FrameAssembler, config: NodeConfig, on_image: Callable[[Any], None]
    ) -> None:
        inputs, info = config.input, "sensor_msgs/msg/CameraInfo"
        suffix, image = ("", "Image") if inputs.transport == "raw" else ("/compressed", "CompressedImage")
        self._add(f"{prefix}image{suffix}", f"sensor_msgs/msg/{image}", sensor_data(IMAGE_DEPTH), on_image)
        self._add(f"{prefix}camera_info", info, sensor_data(1), part.on_camera_info)
        if inputs.depth:
            self._add(f"{prefix}depth", "sensor_msgs/msg/Image", sensor_data(BESIDE_DEPTH), part.on_depth)
        if inputs.right:
            topic = f"{prefix}right/image{suffix}"
            self._add(topic, f"sensor_msgs/msg/{image}", sensor_data(BESIDE_DEPTH), part.on_right)
            self._add(f"{prefix}right/camera_info", info, sensor_data(1), part.on_right_camera_info)

    def destroy(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _add(self, topic: str, msgtype: str, profile: QoSProfile, receive: Callable[[Any], object]) -> None:
        def callback(message: Any) -> None:  # noqa: ANN401
            try:
                self._pipeline.take(receive, message)
            except Exception as error:
                self._on_error(f"topic {topic}", error)

        subscription = self._node.create_subscription(
            self._types.find(msgtype),
            topic,
            callback,
            profile,
            callback_group=self._group,
            qos_overriding_options=overridable(),
        )
        self._subscriptions.append(subscription)
