"""What a node holds and does: recogniser, topics and adapters; while active also inputs and a worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

from progeo_edge.config import Config
from progeo_ros.adapter_wiring import AdapterWiring
from progeo_ros.adapters.opening import open_adapters
from progeo_ros.assembled import Assembler
from progeo_ros.complaints import Complaints
from progeo_ros.config import NodeConfig
from progeo_ros.conversions.incoming import header_stamp_ns
from progeo_ros.events import Outcome
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.health import Health, diagnostics_message
from progeo_ros.map_frame import MapFrame
from progeo_ros.message_types import MessageTypes
from progeo_ros.middleware import Middleware, Topic
from progeo_ros.pipeline import Pipeline
from progeo_ros.place_recogniser import PlaceRecogniser
from progeo_ros.publications import Publication, publications
from progeo_ros.recogniser_facts import RecogniserFacts
from progeo_ros.rig_assembler import open_assembler

log = logging.getLogger(__name__)


class Operation:
    """Made, it holds everything; it works from `activate` to `deactivate`, which come from one thread at a time.

    Attributes:
        config: Settings of the node.
        recogniser: Encoder, map and detector.
        pipeline: From messages to outcomes; runs while active.
    """

    def __init__(self, config: NodeConfig, detector_config: Config, ros: Middleware) -> None:
        """Open everything, or nothing.

        Raises:
            ProgeoError: bundle, engine, map or camera file cannot be used; the message says which and what to do.
        """
        self.config, self._ros = config, ros
        self._complaints = Complaints()
        self._health, self._health_lock = Health(config), threading.Lock()
        self._health.state = "inactive"
        self._assembler = open_assembler(config)
        self._unsubscribe: Callable[[], None] | None = None
        with ExitStack() as opened:
            self.recogniser = PlaceRecogniser.open(config, detector_config)
            opened.callback(self.recogniser.close)
            self._facts = RecogniserFacts(self.recogniser)
            on_image_error = partial(self._on_failure, "an image is left out")
            self.pipeline = Pipeline(self._assembler, self.recogniser, self._emit, on_image_error)
            self._topics = [(publication, self._advertise(publication, opened)) for publication in self._publications()]
            adapters = open_adapters(config, ros.types, self.recogniser.map_path, self.recogniser.encode)
            self._adapters = AdapterWiring(adapters, ros, self._on_failure)
            opened.callback(self._adapters.close)
            self._close_all = opened.pop_all().close
        path, count, model = self.recogniser.map_path, self.recogniser.num_keyframes, self.recogniser.encoder.spec.name
        log.info("map %s with %d keyframes, model %s", path, count, model)

    def _publications(self) -> tuple[Publication, ...]:
        types = self._ros.types
        topics = publications(self.config, types, types.has("progeo_msgs/msg/LoopClosure"))
        return (*topics, self._map_to_odom()) if self.config.frames.publish_tf else topics

    def _map_to_odom(self) -> Publication:
        map_frame = MapFrame(self.config.frames.map)

        def build(types: MessageTypes, outcome: Outcome) -> Iterable[Any]:
            message = map_frame.message(types, outcome) if self.recogniser.read_only else None
            return () if message is None else (message,)

        return Publication("/tf", "tf2_msgs/msg/TFMessage", depth=100, latched=False, always=True, build=build)

    def _advertise(self, publication: Publication, opened: ExitStack) -> Topic:
        topic = self._ros.advertise(publication.topic, publication.msgtype, publication.depth, publication.latched)
        opened.callback(topic.close)
        return topic

    # -- transitions -------------------------------------------------------------------------------------------------

    def activate(self) -> None:
        """Subscribe, and work on what comes."""
        self.pipeline.start()
        self._unsubscribe = self._ros.subscribe_inputs(
            self.config, self.pipeline, self._assembler, self._on_image, self._on_failure
        )
        self._health.state = "active"

    def deactivate(self) -> None:
        """Unsubscribe; the image at work is finished, and the map stays open."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if not self.pipeline.stop():
            log.warning("the image at work takes long; its keyframe is kept when it is done")
        self._health.state = "inactive"

    def close(self) -> None:
        """Deactivate, and close adapters, map and encoder: the GPU is free afterwards."""
        self.deactivate()
        self._close_all()

    def pause(self, paused: bool) -> bool:
        """Drop images, or take them again; False while the node is inactive."""
        if not self.pipeline.is_running:
            return False
        self.pipeline.is_paused = paused
        self._health.state = "paused" if paused else "active"
        return True

    # -- once a second -----------------------------------------------------------------------------------------------

    def tick(self) -> Any:  # noqa: ANN401
        """Retries of adapters, what waits too long, and news for the log.

        By the clock of the machine: simulated time that stands still must not silence the diagnostics.

        Returns:
            diagnostic_msgs/DiagnosticArray.
        """
        now_ns = self._ros.now_ns()
        self.pipeline.tick(time.monotonic_ns())
        self._adapters.on_tick(now_ns)
        self._log_news()
        facts, counters = self._facts.read(), self._adapters.counters()

        def observe(assembler: Assembler) -> None:
            drops, age_s = self.pipeline.drops, self.pipeline.queue_age_s
            # Always inside the pipeline's lock, as callbacks do it.
            with self._health_lock:
                self._health.observe(assembler, now_ns, dropped_busy=drops, queue_age_s=age_s, adapters=counters)

        self.pipeline.examine(observe)
        with self._health_lock:
            self._health.facts.update(facts)
            self._health.warn("calibration", self._facts.calibration_problem)
            no_time = "use_sim_time is set, but /clock brings no time"
            self._health.warn("clock", no_time if now_ns == 0 else "")
            return diagnostics_message(self._ros.types, self._health, now_ns, self._ros.name)

    def _log_news(self) -> None:
        events, problems = self.pipeline.examine(lambda assembler: (assembler.take_events(), assembler.problems))
        # What stands before the colon lasts; what stands behind it may change with every message.
        lasting = [self._complaints.due(problem.partition(":")[0], problem) for problem in problems]
        for sentence in [*events, *filter(None, lasting)]:
            log.warning("%s", sentence)

    # -- images ------------------------------------------------------------------------------------------------------

    def _on_image(self, part: FrameAssembler, message: Any) -> None:  # noqa: ANN401
        with self._health_lock:
            self._health.note_image(header_stamp_ns(message), self._ros.now_ns())
        part.on_image(message, time.monotonic_ns())

    def _emit(self, outcome: Outcome) -> None:
        with self._health_lock:
            self._health.note_outcome(outcome)
        if not self._ros.is_up():  # shutting down: the map has the keyframe, and nobody can hear of it
            return
        for publication, topic in self._topics:
            self._publish(publication, topic, outcome)
        self._adapters.on_outcome(outcome)

    def _publish(self, publication: Publication, topic: Topic, outcome: Outcome) -> None:
        """What nobody listens to is not built unless it is for late joiners; a topic that fails leaves the others."""
        try:
            if publication.always or topic.num_listeners() > 0:
                for message in publication.build(self._ros.types, outcome):
                    topic.publish(message)
        except Exception as error:
            self._on_failure(f"topic {publication.topic}", error)

    def _on_failure(self, who: str, error: Exception) -> None:
        """Counted always, logged now and then."""
        with self._health_lock:
            self._health.note_error(f"{who}: {error}", self._ros.now_ns())
        self._complaints.log_failure(who, error)
