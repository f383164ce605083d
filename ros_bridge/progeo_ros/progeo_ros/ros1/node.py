"""The node: callbacks to the pipeline, and outcomes to topics."""

from __future__ import annotations

import threading
import time

import rospy

from progeo_edge.camera_file import load_camera
from progeo_edge.config import Config
from progeo_edge.errors import ProgeoError
from progeo_ros.config import NodeConfig
from progeo_ros.events import Outcome
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.pipeline import Pipeline
from progeo_ros.place_recogniser import PlaceRecogniser
from progeo_ros.publications import publications
from progeo_ros.ros1.inputs import inputs, subscribe
from progeo_ros.ros1.topics import OutcomeTopic
from progeo_ros.ros1.types import GenpyTypes

TICK_S = 0.1
QUIET_S = 10.0
"""The same kind of trouble is logged once in this time; diagnostics count all of it."""


class Node:
    """Everything between the topics. Made, it works until it is closed.

    Args:
        config: Settings of the node.
        detector_config: Settings of the detector.

    Raises:
        ProgeoError: model, map or camera file cannot be used.
    """

    def __init__(self, config: NodeConfig, detector_config: Config) -> None:
        self.types = GenpyTypes()
        has_progeo_msgs = self.types.has("progeo_msgs/msg/LoopClosure")
        assembler = FrameAssembler(config, load_camera(config.camera.file) if config.camera.file else None)
        self._recogniser = PlaceRecogniser.open(config, detector_config)
        self._topics = [OutcomeTopic(item, self.types) for item in publications(config, self.types, has_progeo_msgs)]
        self._pipeline = Pipeline(assembler, self._recogniser, self._emit, _log_trouble)
        self._stopping = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progeo-ticker", daemon=True)
        self._ticker.start()
        self._subscribers = [subscribe(item, self.types) for item in inputs(config, self._pipeline)]

    def close(self) -> None:
        """Take no more messages, let the image at work finish, and close the map."""
        for subscriber in self._subscribers:
            subscriber.unregister()
        self._stopping.set()
        self._ticker.join()
        self._pipeline.stop()
        self._recogniser.close()

    def _emit(self, outcome: Outcome) -> None:
        for topic in self._topics:
            topic.publish(outcome)

    def _tick(self) -> None:
        """By the clock of the machine: a simulation that stands still must not keep images waiting."""
        while not self._stopping.wait(TICK_S):
            self._pipeline.tick(time.monotonic_ns())


def _log_trouble(error: Exception) -> None:
    """One bad image does not end the node; what is no ProgeoError is a fault of ours and keeps its traceback."""
    if isinstance(error, ProgeoError):
        rospy.logwarn_throttle(QUIET_S, "image not used: %s", error)
    else:
        rospy.logerr("image not used: %s", error, exc_info=error)
