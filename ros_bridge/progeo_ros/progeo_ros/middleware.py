"""What the node needs of a ROS: the same for ROS 2 and ROS 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from progeo_ros.adapters import Call, Subscription
from progeo_ros.assembled import Assembler
from progeo_ros.config import NodeConfig
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.message_types import MessageTypes
from progeo_ros.pipeline import Pipeline

OnError = Callable[[str, Exception], None]
"""Told who failed, and how."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic that goes out.

    Attributes:
        publish: Sends a message.
        num_listeners: How many listen now.
        close: Takes the topic away.
    """

    publish: Callable[[Any], object]
    num_listeners: Callable[[], int]
    close: Callable[[], object]


class Middleware(Protocol):
    """Publishes, subscribes and calls. Its methods may be called from any thread."""

    @property
    def types(self) -> MessageTypes:
        """Of the messages."""
        ...

    @property
    def name(self) -> str:
        """Of the node, for diagnostics."""
        ...

    def now_ns(self) -> int:
        """Time of the node's clock, simulated or not; 0 while simulated time has not begun."""
        ...

    def is_up(self) -> bool:
        """Whether anything can be sent: not once ROS shuts down."""
        ...

    def advertise(self, topic: str, msgtype: str, depth: int, latched: bool) -> Topic:
        """A reliable topic to publish to; latched: late joiners get the last `depth` messages."""
        ...

    def subscribe(self, wanted: Subscription, receive: Callable[[Any], None]) -> Callable[[], object]:
        """Hear a topic, for an adapter. What is returned ends it."""
        ...

    def subscribe_inputs(
        self,
        config: NodeConfig,
        pipeline: Pipeline,
        assembler: Assembler,
        on_image: Callable[[FrameAssembler, Any], None],
        on_error: OnError,
    ) -> Callable[[], None]:
        """Hear the topics that the settings ask for. Messages go through `pipeline.take`, and nothing is decoded.

        Args:
            config: Which ones.
            pipeline: Where messages go.
            assembler: Of the pipeline; its parts take all but images.
            on_image: Takes images, with the part they are for.
            on_error: Told what no message should be able to cause, where it would end the node.

        Returns:
            What ends it.
        """
        ...

    def call(self, call: Call) -> Any | None:  # noqa: ANN401
        """Answer of a service; None when it is not there in time, or fails. It blocks."""
        ...
