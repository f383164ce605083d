"""What the node needs of ROS 2, through rclpy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.client import Client
from rclpy.node import Node

from progeo_ros.adapters import Call, Subscription
from progeo_ros.assembled import Assembler
from progeo_ros.config import NodeConfig
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.middleware import OnError, Topic
from progeo_ros.pipeline import Pipeline
from progeo_ros.ros2.inputs import Inputs
from progeo_ros.ros2.qos import overridable, reliable
from progeo_ros.ros2.types import RclpyTypes

DEPTH = 10
CALL_TIMEOUT_S = 5.0
"""How long an adapter's service may take to show up, and to answer."""


class Rclpy:
    """See `Middleware`.

    Args:
        node: Owner of publishers, subscriptions and clients.
    """

    def __init__(self, node: Node) -> None:
        self.types = RclpyTypes()
        self.name = str(node.get_name())
        self._node = node
        self._adapter_group = MutuallyExclusiveCallbackGroup()  # messages arrive in their order
        self._clients: dict[str, Client] = {}
        self._clients_lock = threading.Lock()

    def now_ns(self) -> int:
        """See `Middleware.now_ns`."""
        return int(self._node.get_clock().now().nanoseconds)

    def is_up(self) -> bool:
        """See `Middleware.is_up`."""
        return bool(self._node.context.ok())

    def advertise(self, topic: str, msgtype: str, depth: int, latched: bool) -> Topic:
        """See `Middleware.advertise`."""
        publisher = self._node.create_publisher(
            self.types.find(msgtype), topic, reliable(depth, latched=latched), qos_overriding_options=overridable()
        )
        close = partial(self._node.destroy_publisher, publisher)
        return Topic(publisher.publish, publisher.get_subscription_count, close)

    def subscribe(self, wanted: Subscription, receive: Callable[[Any], None]) -> Callable[[], object]:
        """See `Middleware.subscribe`."""
        subscription = self._node.create_subscription(
            self.types.find(wanted.msgtype),
            wanted.topic,
            receive,
            # SLAM systems publish with the default profile; qos_overrides are for those that do not.
            reliable(DEPTH, latched=wanted.latched),
            callback_group=self._adapter_group,
            qos_overriding_options=overridable(),
        )
        return partial(self._node.destroy_subscription, subscription)

    def subscribe_inputs(
        self,
        config: NodeConfig,
        pipeline: Pipeline,
        assembler: Assembler,
        on_image: Callable[[FrameAssembler, Any], None],
        on_error: OnError,
    ) -> Callable[[], None]:
        """See `Middleware.subscribe_inputs`."""
        return Inputs(self._node, pipeline, assembler, config, self.types, on_image, on_error).destroy

    def call(self, call: Call) -> Any | None:  # noqa: ANN401
        """See `Middleware.call`."""
        client = self._client(call)
        if not client.wait_for_service(CALL_TIMEOUT_S):
            return None
        # `Client.call` of Humble has no timeout.
        answered = threading.Event()
        future = client.call_async(call.request)
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(CALL_TIMEOUT_S):
            client.remove_pending_request(future)
            return None
        return future.result()

    def _client(self, call: Call) -> Client:
        """Kept for as long as the node lives: a new one would have to find its service every time."""
        with self._clients_lock:
            if call.service not in self._clients:
                kind = self.types.find(call.srvtype)
                client = self._node.create_client(kind, call.service, callback_group=self._adapter_group)
                self._clients[call.service] = client
            return self._clients[call.service]
