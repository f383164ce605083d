"""Closures as pose_graph_tools_msgs/PoseGraph, for the systems of MIT SPARK and those that read the same messages.

Two kinds of consumers differ in what keys mean, and in which direction they read an edge:

- Kimera-PGMO and Kimera-RPGO count nodes, and read the pose of an edge as that of `to` in `from`. They know only nodes
  that the same stream brought them, so it brings keyframes and odometry too.
- Hydra's receiver of external loop closures finds its own nodes by the stamps in the keys, and reads the pose of an
  edge as that of `from` in `to` (`ExternalLoopClosureReceiver::update`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from progeo_edge.config import OdometryConfig
from progeo_edge.constraints import step_covariance
from progeo_edge.geometry import FloatArray, invert
from progeo_edge.map_rows import KeyframeInfo
from progeo_edge.types import Transform
from progeo_ros.adapters import Action, Counters, Publish, Subscription
from progeo_ros.adapters.measured import MeasuredClosure, measured_closures
from progeo_ros.config import NodeConfig
from progeo_ros.conversions.standard import pose_message
from progeo_ros.events import Outcome
from progeo_ros.message_types import MessageTypes, make_header

GRAPH_TYPE = "pose_graph_tools_msgs/msg/PoseGraph"
ODOMETRY, LOOP_CLOSURE = 0, 1
"""PoseGraphEdge.ODOM and LOOPCLOSE."""
GRAPH_TOPIC, HYDRA_TOPIC = "pose_graph_incremental", "external_loop_closures"
ROBOT_SHIFT = 56


class PoseGraph:
    """Adapter `pose_graph`; see docs/adapters.md."""

    name = "pose_graph"
    required_types: tuple[str, ...] = (
        GRAPH_TYPE,
        "pose_graph_tools_msgs/msg/PoseGraphEdge",
        "pose_graph_tools_msgs/msg/PoseGraphNode",
    )

    def __init__(self, config: NodeConfig, types: MessageTypes) -> None:
        self._robot_id = config.pose_graph.robot_id
        self._keys_are_stamps = config.pose_graph.keys == "stamps"
        self._types = types
        self._last: KeyframeInfo | None = None
        self._counters = Counters()

    def subscriptions(self) -> tuple[Subscription, ...]:
        """Nothing is listened to."""
        return ()

    def on_outcome(self, outcome: Outcome) -> Iterable[Action]:
        """What this keyframe adds to the graph."""
        closures = list(measured_closures(outcome, self._counters))
        keyframe = outcome.made
        if keyframe is None:
            return []
        has_node = keyframe.T_odom_base is not None or self._keys_are_stamps
        for _ in closures:
            self._counters.add("sent" if has_node else "without_odometry")
        if self._keys_are_stamps:
            edges = [self._closure_by_stamps(closure) for closure in closures]
            return [self._publish(outcome, HYDRA_TOPIC, [], edges)] if edges else []
        if keyframe.T_odom_base is None:
            return []
        edges = [*self._odometry(keyframe), *(self._closure_by_ids(closure) for closure in closures)]
        self._last = keyframe
        return [self._publish(outcome, GRAPH_TOPIC, [self._node(outcome, keyframe, keyframe.T_odom_base)], edges)]

    def _closure_by_stamps(self, closure: MeasuredClosure) -> Any:  # noqa: ANN401
        """From the query to the reference, because the pose of `from` in `to` is read."""
        return self._edge(
            LOOP_CLOSURE,
            closure.query.stamp_ns,
            closure.reference.stamp_ns,
            closure.query,
            closure.T_reference_query,
            closure.covariance,
        )

    def _closure_by_ids(self, closure: MeasuredClosure) -> Any:  # noqa: ANN401
        """From the reference to the query, because the pose of `to` in `from` is read."""
        return self._edge(
            LOOP_CLOSURE,
            self._key(closure.reference),
            self._key(closure.query),
            closure.query,
            closure.T_reference_query,
            closure.covariance,
        )

    def _odometry(self, keyframe: KeyframeInfo) -> Iterable[Any]:
        """From the keyframe before, when it is of the same run."""
        last = self._last
        if last is None or last.T_odom_base is None or keyframe.T_odom_base is None:
            return
        if last.session != keyframe.session or last.id >= keyframe.id:
            return
        T_last_this = invert(last.T_odom_base) @ keyframe.T_odom_base
        covariance = step_covariance(T_last_this, OdometryConfig())
        yield self._edge(ODOMETRY, self._key(last), self._key(keyframe), keyframe, T_last_this, covariance)

    def _key(self, keyframe: KeyframeInfo) -> int:
        """The robot's number in the high byte, the id below it."""
        return self._robot_id << ROBOT_SHIFT | keyframe.id

    def _edge(
        self, kind: int, key_from: int, key_to: int, newer: KeyframeInfo, T: Transform, covariance: FloatArray
    ) -> Any:  # noqa: ANN401
        return self._types.make(
            "pose_graph_tools_msgs/msg/PoseGraphEdge",
            header=make_header(self._types, newer.stamp_ns, ""),
            key_from=key_from,
            key_to=key_to,
            robot_from=self._robot_id,
            robot_to=self._robot_id,
            type=kind,
            pose=pose_message(self._types, T),
            covariance=covariance.ravel(),
        )

    def _node(self, outcome: Outcome, keyframe: KeyframeInfo, T_odom_base: Transform) -> Any:  # noqa: ANN401
        return self._types.make(
            "pose_graph_tools_msgs/msg/PoseGraphNode",
            header=make_header(self._types, keyframe.stamp_ns, outcome.odom_frame),
            robot_id=self._robot_id,
            key=self._key(keyframe),
            pose=pose_message(self._types, T_odom_base),
        )

    def _publish(self, outcome: Outcome, topic: str, nodes: list[Any], edges: list[Any]) -> Publish:
        header = make_header(self._types, outcome.frame.stamp_ns, outcome.odom_frame)
        return Publish(topic, GRAPH_TYPE, self._types.make(GRAPH_TYPE, header=header, nodes=nodes, edges=edges))

    def on_tick(self, now_ns: int) -> Iterable[Action]:
        """Nothing."""
        return []

    def counters(self) -> Mapping[str, int]:
        """Closures sent, and those that were not, by reason."""
        return dict(self._counters.values)

    def close(self) -> None:
        """Nothing is kept."""
