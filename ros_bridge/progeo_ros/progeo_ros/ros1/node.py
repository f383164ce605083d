"""The node: messages to the pipeline, and outcomes to topics, adapters and diagnostics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import rospy

from progeo_edge.camera_file import load_camera
from progeo_edge.config import Config
from progeo_edge.errors import ProgeoError
from progeo_edge.sources.images import FrameError
from progeo_ros.adapters.opening import open_adapters
from progeo_ros.complaints import Complaints
from progeo_ros.config import NodeConfig
from progeo_ros.events import Outcome
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.health import Health, diagnostics_message
from progeo_ros.map_frame import MapFrame
from progeo_ros.pipeline import Pipeline
from progeo_ros.place_recogniser import PlaceRecogniser
from progeo_ros.publications import publications
from progeo_ros.recogniser_facts import RecogniserFacts
from progeo_ros.ros1.adapter_wiring import AdapterWiring
from progeo_ros.ros1.inputs import Inputs
from progeo_ros.ros1.services import offer_services
from progeo_ros.ros1.topics import OutcomeTopic
from progeo_ros.ros1.types import GenpyTypes

TICK_S = 1.0


class Node:
    """Everything between the topics. Made, it works until it is closed.

    Attributes:
        config: Settings of the node.
        recogniser: Encoder, map and detector.
        pipeline: From messages to outcomes.
    """

    def __init__(self, config: NodeConfig, detector_config: Config) -> None:
        """Open everything, and subscribe.

        Raises:
            ProgeoError: model, map or camera file cannot be used; the message says which and what to do.
        """
        self.config = config
        self._types = GenpyTypes()
        self._complaints = Complaints()
        self._health, self._health_lock = Health(config), threading.Lock()
        assembler = FrameAssembler(config, load_camera(config.camera.file) if config.camera.file else None)
        self.recogniser = PlaceRecogniser.open(config, detector_config)
        self._facts = RecogniserFacts(self.recogniser)
        self.pipeline = Pipeline(assembler, self.recogniser, self._emit, self._on_image_error)
        self._map_frame = MapFrame(config.frames.map) if config.frames.publish_tf else None
        self._open_topics()
        adapters = open_adapters(config, self._types, self.recogniser.map_path, self.recogniser.encode)
        self._adapters = AdapterWiring(adapters, self._types, self._on_failure)
        self._services = offer_services(self._types, self)
        self.pipeline.start()
        self._inputs = Inputs(config, self.pipeline, assembler, self._types, self._note_image)
        self._stopping = threading.Event()
        self._ticker = threading.Thread(target=self._tick_until_closed, name="progeo-ticker", daemon=True)
        self._ticker.start()
        map_path, count, model = self.recogniser.map_path, self.recogniser.num_keyframes, self.recogniser.encoder.spec
        rospy.loginfo("map %s with %d keyframes, model %s", map_path, count, model.name)

    def _open_topics(self) -> None:
        has_progeo_msgs = self._types.has("progeo_msgs/msg/LoopClosure")
        if not has_progeo_msgs:
            rospy.logwarn(
                "progeo_msgs is not built: closures go out on loop_closure_pose in a standard message, and most "
                "services are not offered"
            )
        topics = publications(self.config, self._types, has_progeo_msgs)
        self._topics = [OutcomeTopic(publication, self._types) for publication in topics]
        self._diagnostics = self._publisher("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
        self._tf = self._publisher("/tf", "tf2_msgs/msg/TFMessage") if self._map_frame is not None else None

    def _publisher(self, topic: str, msgtype: str) -> Any:  # noqa: ANN401
        return rospy.Publisher(topic, self._types.message_class(msgtype), queue_size=10)

    def close(self) -> None:
        """Take no more messages, let the image at work finish, and close adapters, map and encoder."""
        self._inputs.close()
        for service in self._services:
            service.shutdown()
        self._stopping.set()
        self._ticker.join()
        if not self.pipeline.stop():
            rospy.logwarn("the image at work takes long; its keyframe is kept when it is done")
        self._adapters.close()
        self.recogniser.close()

    def pause(self, paused: bool) -> bool:
        """Drop images, or take them again."""
        self.pipeline.is_paused = paused
        self._health.state = "paused" if paused else "active"
        return True

    # -- once a second -----------------------------------------------------------------------------------------------

    def _tick_until_closed(self) -> None:
        """By the clock of the machine: simulated time that stands still must not silence the diagnostics."""
        while not self._stopping.wait(TICK_S):
            try:
                self._tick(_now_ns())
            except Exception as error:  # out of this thread nobody would hear of it
                self._on_failure("diagnostics", error)

    def _tick(self, now_ns: int) -> None:
        self.pipeline.tick(time.monotonic_ns())
        self._adapters.on_tick(now_ns)
        self._log_news()
        facts, counters = self._facts.read(), self._adapters.counters()

        def observe(assembler: FrameAssembler) -> Any:  # noqa: ANN401
            with self._health_lock:
                health = self._health
                drops, age_s = self.pipeline.drops, self.pipeline.queue_age_s
                health.observe(assembler, now_ns, dropped_busy=drops, queue_age_s=age_s, adapters=counters)
                health.facts.update(facts)
                _check_clock(health, now_ns)
                return diagnostics_message(self._types, health, now_ns, rospy.get_name().lstrip("/"))

        self._diagnostics.publish(self.pipeline.examine(observe))

    def _log_news(self) -> None:
        events, problems = self.pipeline.examine(lambda assembler: (assembler.take_events(), assembler.problems))
        # What stands before the colon lasts; what stands behind it may change with every message.
        lasting = [self._complaints.due(problem.partition(":")[0], problem) for problem in problems]
        for sentence in [*events, *filter(None, lasting)]:
            rospy.logwarn("%s", sentence)

    # -- what the worker says ----------------------------------------------------------------------------------------

    def _emit(self, outcome: Outcome) -> None:
        with self._health_lock:
            self._health.note_outcome(outcome)
        for topic in self._topics:
            self._try(f"topic {topic.name}", partial(topic.publish, outcome))
        if self._map_frame is not None and self.recogniser.read_only:
            self._send_tf(self._map_frame, outcome)
        self._adapters.on_outcome(outcome)

    def _send_tf(self, map_frame: MapFrame, outcome: Outcome) -> None:
        message = map_frame.message(self._types, outcome)
        if message is not None and self._tf is not None:
            self._tf.publish(message)

    def _note_image(self, stamp_ns: int) -> None:
        with self._health_lock:
            self._health.note_image(stamp_ns, _now_ns())

    # -- what goes wrong ---------------------------------------------------------------------------------------------

    def _try(self, who: str, do: Callable[[], None]) -> None:
        """One topic that fails does not keep the others from being sent."""
        try:
            do()
        except Exception as error:
            self._on_failure(who, error)

    def _on_image_error(self, error: Exception) -> None:
        self._on_failure("an image is left out", error)

    def _on_failure(self, who: str, error: Exception) -> None:
        """Logged now and then, counted always. What we did not expect is a fault of ours and keeps its traceback."""
        with self._health_lock:
            self._health.note_error(f"{who}: {error}", _now_ns())
        due = self._complaints.due(f"{who} {type(error).__name__}", f"{who}: {error}")
        if due is None:
            return
        if isinstance(error, ProgeoError | FrameError):
            rospy.logwarn("%s", due)
        else:
            rospy.logerr("%s", due, exc_info=error)


def _now_ns() -> int:
    """Time of ROS, simulated or not; 0 until /clock brings one."""
    return int(rospy.Time.now().to_nsec())


def _check_clock(health: Health, now_ns: int) -> None:
    if now_ns == 0:
        health.warnings["clock"] = "use_sim_time is set, but /clock brings no time"
    else:
        health.warnings.pop("clock", None)
