"""What a configured node holds and does: recogniser, publishers and adapters; while active also inputs and a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.node import Node

from progeo_edge.camera_file import load_camera
from progeo_edge.config import Config
from progeo_edge.errors import ProgeoError
from progeo_edge.sources.images import FrameError
from progeo_ros.adapters.opening import open_adapters
from progeo_ros.config import NodeConfig
from progeo_ros.events import Outcome
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.health import Health
from progeo_ros.map_frame import MapFrame
from progeo_ros.pipeline import Pipeline
from progeo_ros.place_recogniser import PlaceRecogniser
from progeo_ros.publications import publications
from progeo_ros.recogniser_facts import RecogniserFacts
from progeo_ros.ros2.adapter_wiring import AdapterWiring
from progeo_ros.ros2.inputs import Inputs
from progeo_ros.ros2.types import RclpyTypes
from progeo_ros.ros2.wiring import OutcomePublishers, reliable

Report = Callable[[str, str, Exception | None], None]
"""Logs a sentence of some kind now and then; with an error that nobody expected, its traceback too."""


class Operation:
    """Opened by `configure`, closed by `cleanup`. Transitions come from one thread at a time.

    Attributes:
        config: Settings of the node.
        recogniser: Encoder, map and detector.
        health: What diagnostics say; `health_lock` guards it.
        pipeline: From messages to outcomes; runs while active.
    """

    def __init__(
        self,
        node: Node,
        config: NodeConfig,
        detector_config: Config,
        types: RclpyTypes,
        report: Report,
    ) -> None:
        """Open everything, or nothing.

        Raises:
            ProgeoError: bundle, engine, map or camera file cannot be used; the message says which and what to do.
        """
        self._node, self.config, self._types, self._report = node, config, types, report
        self._camera = load_camera(config.camera.file) if config.camera.file else None
        self.health, self.health_lock = Health(config), threading.Lock()
        self._assembler = FrameAssembler(config, self._camera)
        self._inputs: Inputs | None = None
        self._map_frame = MapFrame(config.frames.map)
        self._known_problems: set[str] = set()
        self.recogniser = PlaceRecogniser.open(config, detector_config)
        self._facts = RecogniserFacts(self.recogniser)
        try:
            self.pipeline = Pipeline(self._assembler, self.recogniser, self._emit, self._on_image_error)
            topics = publications(config, types, types.has("progeo_msgs/msg/LoopClosure"))
            self._publishers = OutcomePublishers(node, topics, types, self._on_failure)
            self._tf = self._tf_publisher() if config.frames.publish_tf else None
            group: CallbackGroup = MutuallyExclusiveCallbackGroup()
            adapters = open_adapters(config, types, self.recogniser.map_path, self.recogniser.encode)
            self._adapters = AdapterWiring(node, adapters, types, group, self._on_failure)
        except BaseException:
            self.recogniser.close()
            raise
        self.health.state = "inactive"

    # -- transitions -------------------------------------------------------------------------------------------------

    def activate(self) -> None:
        """Subscribe, and work on what comes."""
        self.pipeline.start()
        self._inputs = Inputs(
            self._node,
            self.pipeline,
            self._assembler,
            self.config,
            self._types,
            on_error=self._on_failure,
            on_stamp=self._note_image,
        )
        self.health.state = "active"

    def deactivate(self) -> None:
        """Unsubscribe; the image at work is finished, and the map stays open."""
        if self._inputs is not None:
            self._inputs.destroy()
            self._inputs = None
        if not self.pipeline.stop():
            self._report("stop", "the image at work takes long; its keyframe is kept when it is done", None)
        self.health.state = "inactive"

    def close(self) -> None:
        """Deactivate, and close adapters, map and encoder: the GPU is free afterwards."""
        self.deactivate()
        try:
            self._adapters.close()
            self._publishers.destroy()
            if self._tf is not None:
                self._node.destroy_publisher(self._tf)
        finally:
            self.recogniser.close()

    def pause(self, paused: bool) -> bool:
        """Drop images, or take them again; False while the node is inactive."""
        if not self.pipeline.is_running:
            return False
        self.pipeline.is_paused = paused
        self.health.state = "paused" if paused else "active"
        return True

    # -- once a second -----------------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        """Retries of adapters, what waits too long, and what diagnostics say.

        Args:
            now_ns: By the node's clock.
        """
        self.pipeline.tick(time.monotonic_ns())
        self._adapters.on_tick(now_ns)
        self._log_news()
        facts, counters = self._facts.read(), self._adapters.counters()

        def observe(assembler: FrameAssembler) -> None:
            drops, age_s = self.pipeline.drops, self.pipeline.queue_age_s
            # Always inside the pipeline's lock, as callbacks do it.
            with self.health_lock:
                self.health.observe(assembler, now_ns, dropped_busy=drops, queue_age_s=age_s, adapters=counters)
                self.health.facts.update(facts)

        self.pipeline.examine(observe)

    def _log_news(self) -> None:
        logger = self._node.get_logger()
        events, problems = self.pipeline.examine(lambda assembler: (assembler.take_events(), assembler.problems))
        for sentence in [*events, *sorted(set(problems) - self._known_problems)]:
            logger.warning(sentence)
        self._known_problems = set(problems)

    # -- what the worker says ----------------------------------------------------------------------------------------

    def _emit(self, outcome: Outcome) -> None:
        with self.health_lock:
            self.health.note_outcome(outcome)
        if not self._node.context.ok():  # shutting down: the map has the keyframe, and nobody can hear of it
            return
        self._publishers.publish(outcome)
        if self._tf is not None and self.recogniser.read_only:
            self._send_tf(self._tf, outcome)
        self._adapters.on_outcome(outcome)

    def _send_tf(self, publisher: Any, outcome: Outcome) -> None:  # noqa: ANN401
        message = self._map_frame.message(self._types, outcome)
        if message is not None:
            publisher.publish(message)

    def _tf_publisher(self) -> Any:  # noqa: ANN401
        return self._node.create_publisher(self._types.find("tf2_msgs/msg/TFMessage"), "/tf", reliable(100))

    def _note_image(self, stamp_ns: int) -> None:
        with self.health_lock:
            self.health.note_image(stamp_ns, self._now_ns())

    def _on_image_error(self, error: Exception) -> None:
        with self.health_lock:
            self.health.note_error(str(error), self._now_ns())
        expected = isinstance(error, ProgeoError | FrameError)
        self._report(f"image {type(error).__name__}", f"an image is left out: {error}", None if expected else error)

    def _on_failure(self, who: str, error: Exception) -> None:
        with self.health_lock:
            self.health.note_error(f"{who}: {error}", self._now_ns())
        expected = isinstance(error, ProgeoError | FrameError)
        self._report(f"{who} {type(error).__name__}", f"{who}: {error}", None if expected else error)

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)
