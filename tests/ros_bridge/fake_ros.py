"""A ROS that remembers what is asked of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from progeo_ros.adapters import Call, Subscription
from progeo_ros.assembled import Assembler
from progeo_ros.config import NodeConfig
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.middleware import OnError, Topic
from progeo_ros.pipeline import Pipeline
from tests.ros_bridge.messages import TYPES


class FakeRos:
    """See `Middleware`.

    Attributes:
        clock_ns: What the clock shows.
        up: False: ROS shuts down.
        listeners: Topics that somebody hears.
        broken: Topics that cannot be published to.
        sent: Messages by topic; a topic that is closed has no entry.
        heard: Callbacks of adapters by topic.
        answer: To every call.
        send_image: Hands a message to the node; None while it does not listen.
    """

    types = TYPES
    name = "progeo"

    def __init__(self) -> None:
        self.clock_ns = 10**9
        self.up = True
        self.listeners: set[str] = set()
        self.broken: set[str] = set()
        self.sent: dict[str, list[Any]] = {}
        self.heard: dict[str, Callable[[Any], None]] = {}
        self.answer: Callable[[Call], Any] = lambda call: None
        self.send_image: Callable[[Any], None] | None = None

    def now_ns(self) -> int:
        return self.clock_ns

    def is_up(self) -> bool:
        return self.up

    def advertise(self, topic: str, msgtype: str, depth: int, latched: bool) -> Topic:
        def publish(message: Any) -> None:
            if topic in self.broken:
                raise RuntimeError("no publisher")
            self.sent[topic].append(message)

        self.sent[topic] = []
        return Topic(publish, lambda: int(topic in self.listeners), lambda: self.sent.pop(topic))

    def subscribe(self, wanted: Subscription, receive: Callable[[Any], None]) -> Callable[[], object]:
        self.heard[wanted.topic] = receive
        return lambda: self.heard.pop(wanted.topic)

    def subscribe_inputs(
        self,
        config: NodeConfig,
        pipeline: Pipeline,
        assembler: Assembler,
        on_image: Callable[[FrameAssembler, Any], None],
        on_error: OnError,
    ) -> Callable[[], None]:
        def close() -> None:
            self.send_image = None

        self.send_image = lambda message: pipeline.take(on_image, assembler.parts[""], message)
        return close

    def call(self, call: Call) -> Any | None:
        return self.answer(call)
