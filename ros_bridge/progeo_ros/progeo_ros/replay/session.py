"""One replay: messages of a bag in, in the order of recording; what the node would publish out."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from progeo_edge.errors import InputError
from progeo_edge.sources.images import FrameError
from progeo_ros.adapters import Action, Adapter, Publish, Subscription
from progeo_ros.assembled import Assembler, Pending
from progeo_ros.config import NodeConfig
from progeo_ros.conversions.incoming import header_stamp_ns
from progeo_ros.events import Outcome
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.health import Health, diagnostics_message
from progeo_ros.map_frame import MapFrame
from progeo_ros.pipeline import ask
from progeo_ros.place_recogniser import PlaceRecogniser
from progeo_ros.publications import publications
from progeo_ros.recogniser_facts import RecogniserFacts
from progeo_ros.replay.bag_writer import BagWriter
from progeo_ros.replay.topics import Inputs
from progeo_ros.rosbags_types import RosbagsTypes

logger = logging.getLogger(__name__)

FOREVER_NS = 1 << 60
"""Longer than anything that images wait for."""
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
    """

    def __init__(
        self,
        config: NodeConfig,
        assembler: Assembler,
        recogniser: PlaceRecogniser,
        adapters: Sequence[Adapter],
        writer: BagWriter,
        types: RosbagsTypes,
    ) -> None:
        """Declare all topics of the node in the bag."""
        self.num_images = self.num_keyframes = self.num_closures = self.num_calls = 0
        self.statuses: Counter[str] = Counter()
        self._num_refused = 0
        self._first_refusal = ""
        self._assembler = assembler
        self._recogniser = recogniser
        self._adapters = adapters
        self._writer = writer
        self._types = types
        self._health = Health(config)
        self._facts = RecogniserFacts(recogniser)
        self._publications = publications(config, types, has_progeo_msgs=True)
        self._map_frame = MapFrame(config.frames.map) if config.frames.publish_tf and recogniser.read_only else None
        self._next_tick_ns: int | None = None
        for publication in self._publications:
            writer.declare(
                f"/{publication.topic}", publication.msgtype, latched=publication.latched, depth=publication.depth
            )
        writer.declare("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")

    def handlers(self, inputs: Mapping[str, Inputs]) -> dict[str, list[Callable[[Any, int], None]]]:
        """What is called with each message of a topic, and the time of its recording."""
        table: dict[str, list[Callable[[Any, int], None]]] = {}
        ours = [found for prefix, of_camera in inputs.items() for found in self._of_camera(prefix, of_camera)]
        for topic, handler in [*ours, *self._adapter_handlers()]:
            if topic is not None:
                table.setdefault(topic, []).append(handler)
        return table

    def _of_camera(self, prefix: str, inputs: Inputs) -> list[tuple[str | None, Callable[[Any, int], None]]]:
        part = self._assembler.parts[prefix]
        return [
            (inputs.camera_info, lambda message, _: part.on_camera_info(message)),
            (inputs.image, lambda message, log_ns: self._on_image(part, message, log_ns)),
            (inputs.depth, lambda message, _: part.on_depth(message)),
            (inputs.right, lambda message, _: part.on_right(message)),
            (inputs.right_info, lambda message, _: part.on_right_camera_info(message)),
            (inputs.odom, lambda message, _: part.on_odometry(message)),
            (inputs.keyframe, lambda message, _: part.on_keyframe_trigger(message)),
            (inputs.tf, lambda message, _: part.on_transforms(message, is_static=False)),
            (inputs.tf_static, lambda message, _: part.on_transforms(message, is_static=True)),
        ]

    def process_ready(self, log_ns: int) -> None:
        """Everything that is complete now, and what is due by the clock of the recording."""
        self._process_moments(log_ns, log_ns)
        if self._next_tick_ns is None:
            self._next_tick_ns = log_ns + TICK_NS
        if log_ns >= self._next_tick_ns:
            self._next_tick_ns = log_ns + TICK_NS
            self._tick(log_ns)

    def finish(self, log_ns: int) -> None:
        """Images that would still wait, the last diagnostics, and the adapters' files."""
        self._process_moments(log_ns + FOREVER_NS, log_ns)
        self._tick(log_ns)
        for adapter in self._adapters:
            adapter.close()

    def reasons(self) -> list[tuple[str, int]]:
        """Why images led to no loop closure, the most frequent reason first."""
        return [(name, n) for name, n in self.statuses.most_common() if name not in ("ACCEPTED", "NOT_A_KEYFRAME")]

    def notes(self) -> list[str]:
        """What a person should know about the input, a clause each."""
        counts = self._assembler.counts
        notes = [*self._assembler.problems, *self._assembler.take_events()]
        if self._num_refused:
            notes.append(f"{self._num_refused} images cannot be used, the first: {self._first_refusal}")
        elif counts.broken:
            notes.append(f"{counts.broken} images cannot be used, the last: {self._assembler.last_problem}")
        for number, what in (
            (counts.dropped_by_rate, "images left out by input.max_rate_hz"),
            (counts.dropped_late, "images left out: their stamps repeat or go back"),
            (counts.not_asked_for, "images that no trigger on the topic keyframe named"),
            (counts.triggers_unmatched, "triggers on the topic keyframe to which no image came"),
            (counts.without_odometry, "images without odometry at their time"),
            (counts.odometry_invalid, "messages of odometry that are no pose"),
            (counts.without_depth, "images without depth at their time"),
            (counts.without_right, "images without a right image at their time"),
        ):
            if number:
                notes.append(f"{number} {what}")
        if self.num_calls:
            notes.append(f"{self.num_calls} services were called by adapters; in a replay nobody answers")
        return notes

    def _process_moments(self, now_ns: int, log_ns: int) -> None:
        while moment := self._assembler.pop_moment(now_ns):
            for pending in moment:
                self._process(pending, log_ns)

    def _process(self, pending: Pending, log_ns: int) -> None:
        try:
            assembled = replace(self._assembler.decode(pending), arrival_ns=time.monotonic_ns())
            outcome = ask(self._recogniser.process, assembled)
        except (FrameError, InputError) as error:
            self._num_refused += 1
            self._first_refusal = self._first_refusal or str(error)
            self._health.note_error(str(error), log_ns)
            return
        self._count(outcome)
        for publication in self._publications:
            for message in publication.build(self._types, outcome):
                self._writer.write(f"/{publication.topic}", message, log_ns)
        if self._map_frame is not None and (tf := self._map_frame.message(self._types, outcome)) is not None:
            self._writer.write("/tf", tf, log_ns)
        for adapter in self._adapters:
            self._perform(adapter.on_outcome(outcome), log_ns)

    def _on_image(self, part: FrameAssembler, message: Any, log_ns: int) -> None:  # noqa: ANN401
        self._health.note_image(header_stamp_ns(message), log_ns)
        part.on_image(message, log_ns)

    def _count(self, outcome: Outcome) -> None:
        self._health.note_outcome(outcome)
        self.num_images += 1
        self.num_keyframes += outcome.update.keyframe is not None
        self.num_closures += len(outcome.update.closures)
        self.statuses[outcome.update.status.value] += 1

    def _tick(self, now_ns: int) -> None:
        counters = {adapter.name: adapter.counters() for adapter in self._adapters}
        self._health.observe(self._assembler, now_ns, adapters=counters)
        # Where the map lies is known only when the replay is done.
        self._health.facts.update({key: value for key, value in self._facts.read().items() if key != "map"})
        self._health.warn("calibration", self._facts.calibration_problem)
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
