"""Topics that come in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import rospy

from progeo_ros.config import NodeConfig
from progeo_ros.pipeline import Pipeline
from progeo_ros.ros1.types import GenpyTypes

BUFFER_BYTES = 2**25
"""rospy drops old images only as far as they fit into one read of the socket: it must be larger than an image."""
NEWEST, SOME, MANY = 1, 10, 100
"""Messages that may wait for their turn; rospy drops the oldest."""

Receive = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Input:
    """A topic that comes in.

    Attributes:
        topic: Relative to the node's namespace, or absolute.
        msgtype: "sensor_msgs/msg/Image".
        receive: Takes a message.
        queue: Messages that may wait.
    """

    topic: str
    msgtype: str
    receive: Receive
    queue: int = NEWEST


def subscribe(item: Input, types: GenpyTypes) -> Any:  # noqa: ANN401
    """Begin to receive."""
    return rospy.Subscriber(
        item.topic,
        types.message_class(item.msgtype),
        item.receive,
        queue_size=item.queue,
        buff_size=BUFFER_BYTES,
        tcp_nodelay=True,
    )


def inputs(config: NodeConfig, pipeline: Pipeline) -> list[Input]:
    """The topics that the settings ask for."""
    wants, assembler = config.input, pipeline.assembler
    found = [_image(config, pipeline)]
    if not config.camera.file:
        found.append(Input("camera_info", "sensor_msgs/msg/CameraInfo", _to(pipeline, assembler.on_camera_info)))
    if wants.depth:
        found.append(Input("depth", "sensor_msgs/msg/Image", _to(pipeline, assembler.on_depth), SOME))
    if wants.right:
        on_info = _to(pipeline, assembler.on_right_camera_info)
        found.append(Input("right/image", "sensor_msgs/msg/Image", _to(pipeline, assembler.on_right), SOME))
        found.append(Input("right/camera_info", "sensor_msgs/msg/CameraInfo", on_info))
    if wants.odometry == "topic":
        found.append(Input("odom", "nav_msgs/msg/Odometry", _to(pipeline, assembler.on_odometry), MANY))
    if wants.external_keyframes:
        found.append(Input("keyframe", "std_msgs/msg/Header", _to(pipeline, assembler.on_keyframe_trigger), MANY))
    for topic, is_static in (("/tf_static", True), ("/tf", False)):
        receive = _to(pipeline, assembler.on_transforms, is_static=is_static)
        found.append(Input(topic, "tf2_msgs/msg/TFMessage", receive, MANY))
    return found


def _image(config: NodeConfig, pipeline: Pipeline) -> Input:
    """image_transport puts compressed images below the name of the raw ones, and so does whoever remaps that name."""

    def receive(message: Any) -> None:  # noqa: ANN401
        pipeline.take(pipeline.assembler.on_image, message, time.monotonic_ns())

    topic = rospy.resolve_name("image").removesuffix("/compressed")
    if config.input.transport == "compressed":
        return Input(f"{topic}/compressed", "sensor_msgs/msg/CompressedImage", receive)
    return Input(topic, "sensor_msgs/msg/Image", receive)


def _to(pipeline: Pipeline, method: Callable[..., object], **named: Any) -> Receive:  # noqa: ANN401
    return lambda message: pipeline.take(method, message, **named)
