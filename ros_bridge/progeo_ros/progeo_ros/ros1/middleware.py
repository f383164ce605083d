"""What the node needs of ROS 1, through rospy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rospy

from progeo_ros.adapters import Call, Subscription
from progeo_ros.assembled import Assembler
from progeo_ros.config import NodeConfig
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.middleware import OnError, Topic
from progeo_ros.pipeline import Pipeline
from progeo_ros.ros1.inputs import Inputs
from progeo_ros.ros1.topics import open_topic
from progeo_ros.ros1.types import GenpyTypes

DEPTH = 10
SERVICE_WAIT_S = 2.0
"""How long an adapter's service may take to be there. How long its answer takes, rospy does not limit."""


class Rospy:
    """See `Middleware`; after rospy.init_node."""

    def __init__(self) -> None:
        self.types = GenpyTypes()
        self.name = rospy.get_name().lstrip("/")

    def now_ns(self) -> int:
        """See `Middleware.now_ns`."""
        return int(rospy.Time.now().to_nsec())

    def is_up(self) -> bool:
        """See `Middleware.is_up`."""
        return not rospy.is_shutdown()

    def advertise(self, topic: str, msgtype: str, depth: int, latched: bool) -> Topic:
        """See `Middleware.advertise`."""
        return open_topic(topic, self.types.message_class(msgtype), depth, latched)

    def subscribe(self, wanted: Subscription, receive: Callable[[Any], None]) -> Callable[[], object]:
        """See `Middleware.subscribe`."""
        message_class = self.types.message_class(wanted.msgtype)
        unsubscribe: Callable[[], object] = rospy.Subscriber(
            wanted.topic, message_class, receive, queue_size=DEPTH
        ).unregister
        return unsubscribe

    def subscribe_inputs(
        self,
        config: NodeConfig,
        pipeline: Pipeline,
        assembler: Assembler,
        on_image: Callable[[FrameAssembler, Any], None],
        on_error: OnError,
    ) -> Callable[[], None]:
        """See `Middleware.subscribe_inputs`; rospy itself logs what a callback raises."""
        return Inputs(config, pipeline, assembler, self.types, on_image).close

    def call(self, call: Call) -> Any | None:  # noqa: ANN401
        """See `Middleware.call`."""
        try:
            rospy.wait_for_service(call.service, SERVICE_WAIT_S)
            return rospy.ServiceProxy(call.service, self.types.message_class(call.srvtype))(call.request)
        except (rospy.ROSException, rospy.ServiceException):
            return None
