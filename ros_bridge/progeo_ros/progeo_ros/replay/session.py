"""One replay: messages of a bag in, in the order of recording; what the node would publish out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from progeo_edge.errors import InputError
from progeo_edge.sources.images import FrameError
from progeo_ros.adapters import Action, Adapter, Publish, Subscription
from progeo_ros.config import NodeConfig
from progeo_ros.events import Outcome
from progeo_ros.frame_assembler import FrameAssembler, Pending
from progeo_ros.health import Health, diagnostics_message
from progeo_ros.place_recogniser import PlaceRecogniser
from progeo_ros.publications import publications
from progeo_ros.replay.bag_writer import BagWriter
from progeo_ros.replay.topics import Inputs
from progeo_ros.rosbags_types import RosbagsTypes

logger = logging.getLogger(__name__)

TICK_NS = 1_000_000_000
"""Diagnostics and adapters are called once a second, in the time of the recording."""


class ReplaySession:
    """The node's wiring without a node: every image is processed, however long that takes.

    Attributes:
        num_images: Images that were processed.
        num_keyframes: Those that were kept.
        num_closures: Loop closures.
        statuses: Number of processed images per status.
        num_calls: Services that adapters wanted to call; in a replay nobody answers.
        first_problem: Why the first unusable image was left out.
    """

    def __init__(
        self,
        config: NodeConfig,
        assembler: FrameAssembler,
        recogniser: PlaceRecogniser,
        adapters: Sequence[Adapter],
        writer: BagWriter,
        types: RosbagsTypes,
    ) -> None:
        """Declare all topics of the node in the bag."""
        self.num_images = self.num_keyframes = self.num_closures = self.num_calls = 0
        self.statuses: Counter[str] = Counter()
        self.first_problem = ""
        self._assembler = assembler
        self._recogniser = recogniser
        self._adapters = adapters
        self._writer = writer
        self._types = types
        self._health = Health()
        self._publications = publications(config, types, has_progeo_msgs=True)
        self._next_tick_ns: int | None = None
        for publication in self._publications:
            writer.declare(
                f"/{publication.topic}", publication.msgtype, latched=publication.latched, depth=publication.depth
            )
        writer.declare("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")

    def handlers(self, inputs: Inputs) -> dict[str, list[Callable[[Any, int], None]]]:
        """What is called with each message of a topic, and the time of its recording."""
        assembler = self._assembler
        ours: list[tuple[str | None, Callable[[Any, int], None]]] = [
            (inputs.camera_info, lambda message, _: assembler.on_camera_info(message)),
            (inputs.image, assembler.on_image),
            (inputs.depth, lambda message, _: assembler.on_depth(message)),
            (inputs.right, lambda message, _: assembler.on_right(message)),
            (inputs.odom, lambda message, _: assembler.on_odometry(message)),
            (inputs.keyframe, lambda message, _: assembler.on_keyframe_trigger(message)),
        ]
        table: dict[str, list[Callable[[Any, int], None]]] = {}
        for topic, handler in [*ours, *self._adapter_handlers()]:
            if topic is not None:
                table.setdefault(topic, []).append(handler)
        return table

    def process_ready(self, log_ns: int) -> None:
        """Everything that is complete now, and what is due by the clock of the recording."""
        while (pending := self._assembler.pop()) is not None:
            self._process(pending, log_ns)
        if self._next_tick_ns is None:
            self._next_tick_ns = log_ns + TICK_NS
        if log_ns >= self._next_tick_ns:
            self._next_tick_ns = log_ns + TICK_NS
            self._tick(log_ns)

    def finish(self, log_ns: int) -> None:
        """The last diagnostics, and the adapters' files."""
        self.process_ready(log_ns)
        self._tick(log_ns)
        for adapter in self._adapters:
            adapter.close()

    def _process(self, pending: Pending, log_ns: int) -> None:
        try:
            assembled = self._assembler.decode(pending)
            outcome = self._recogniser.process(
                assembled.frame, assembled.camera, camera_frame=assembled.camera_frame, base_frame=assembled.base_frame
            )
        except (FrameError, InputError) as error:
            self.first_problem = self.first_problem or str(error)
            logger.warning("an image is left out: %s", error)
            return
        self._count(outcome)
        for publication in self._publications:
            for message in publication.build(self._types, outcome):
                self._writer.write(f"/{publication.topic}", message, log_ns)
        for adapter in self._adapters:
            self._perform(adapter.on_outcome(outcome), log_ns)

    def _count(self, outcome: Outcome) -> None:
        self.num_images += 1
        self.num_keyframes += outcome.update.keyframe is not None
        self.num_closures += len(outcome.update.closures)
        self.statuses[outcome.update.status.value] += 1

    def _tick(self, now_ns: int) -> None:
        self._writer.write("/diagnostics", diagnostics_message(self._types, self._health, now_ns), now_ns)
        for adapter in self._adapters:
            self._perform(adapter.on_tick(now_ns), now_ns)

    def _adapter_handlers(self) -> list[tuple[str, Callable[[Any, int], None]]]:
        subscriptions = [subscription for adapter in self._adapters for subscription in adapter.subscriptions()]
        return [(_absolute(subscription.topic), self._heard(subscription)) for subscription in subscriptions]

    def _heard(self, subscription: Subscription) -> Callable[[Any, int], None]:
        return lambda message, log_ns: self._perform(subscription.callback(message), log_ns)

    def _perform(self, actions: Iterable[Action], log_ns: int) -> None:
        for action in actions:
            if isinstance(action, Publish):
                self._writer.write(_absolute(action.topic), action.message, log_ns, latched=action.latched)
            else:
                self.num_calls += 1
                self._perform(action.on_reply(None), log_ns)


def _absolute(topic: str) -> str:
    return topic if topic.startswith("/") else f"/{topic}"
