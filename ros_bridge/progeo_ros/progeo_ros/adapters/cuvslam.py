"""Hints for cuVSLAM: where in its map the robot is, whenever it asks. Takes the place of Isaac's cuVGL.

The launch files of Isaac's mapping connect cuVSLAM's `visual_slam/trigger_hint` and `visual_slam/initial_pose` to the
topics used here. The trigger is a PoseWithCovarianceStamped whose content means nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from progeo_edge.constraints import metric_constraint
from progeo_edge.errors import InputError
from progeo_ros.adapters import Action, Counters, Publish, Subscription
from progeo_ros.config import NodeConfig
from progeo_ros.conversions.outgoing import relocalization_message, relocalizing_closure
from progeo_ros.events import Outcome
from progeo_ros.message_types import NANOSECONDS, MessageTypes

log = logging.getLogger(__name__)

POSE_TYPE = "geometry_msgs/msg/PoseWithCovarianceStamped"


class Cuvslam:
    """Adapter `cuvslam`; see docs/adapters.md.

    A request is answered once, with the next place that is recognised in an earlier session of the map. Requests that
    come meanwhile are the same request.
    """

    name = "cuvslam"
    required_types: tuple[str, ...] = (POSE_TYPE,)

    def __init__(self, config: NodeConfig, types: MessageTypes) -> None:
        self._config = config.cuvslam
        self._map_frame = config.frames.map
        self._types = types
        self._is_asked = False
        self._asked_ns: int | None = None
        self._counters = Counters()

    def subscriptions(self) -> tuple[Subscription, ...]:
        """The requests."""
        return (Subscription(self._config.trigger_topic, POSE_TYPE, self._on_trigger),)

    def _on_trigger(self, message: Any) -> Iterable[Action]:  # noqa: ANN401
        self._counters.add("requests")
        self._is_asked, self._asked_ns = True, None
        return []

    def on_outcome(self, outcome: Outcome) -> Iterable[Action]:
        """Answer with the first metric closure to an earlier session."""
        message = self._hint(outcome) if self._is_asked else None
        if message is None:
            return []
        self._is_asked = False
        self._counters.add("answered")
        return [Publish(self._config.pose_topic, POSE_TYPE, message)]

    def on_tick(self, now_ns: int) -> Iterable[Action]:
        """Let a request lapse that could not be answered; the robot may have been placed by other means."""
        if not self._is_asked:
            return []
        if self._asked_ns is None or now_ns < self._asked_ns:
            self._asked_ns = now_ns
        if now_ns - self._asked_ns > self._config.timeout_s * NANOSECONDS:
            self._is_asked = False
            self._counters.add("timed_out")
            log.warning(
                "cuVSLAM asked where it is, and for %.0f s no place of an earlier session was recognised in metres; "
                "loop_candidates says why. It asks again when a hint fails, or by hand",
                self._config.timeout_s,
            )
        return []

    def _hint(self, outcome: Outcome) -> Any | None:  # noqa: ANN401
        """The pose in the map; None when no closure gives one that can be trusted as far as it says."""
        closure = relocalizing_closure(outcome)
        if closure is None:
            return None
        try:
            metric_constraint(closure)
        except InputError as error:
            self._counters.add("bad_covariance")
            log.warning("a closure cannot be a hint: %s", error)
            return None
        return relocalization_message(self._types, outcome, self._map_frame)

    def counters(self) -> Mapping[str, int]:
        """Requests, answers, and requests that lapsed."""
        return {**self._counters.values, "waiting": int(self._is_asked)}

    def close(self) -> None:
        """Nothing is kept."""
