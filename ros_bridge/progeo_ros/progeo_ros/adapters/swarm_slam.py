"""Closures between keyframes of one robot for Swarm-SLAM, and our global descriptors of its keyframes.

Swarm-SLAM counts keyframes by itself and tells their ids and stamps on `cslam/keyframe_odom`. Its back end makes a
factor from keyframe 0 to keyframe 1 of the transform (`intra_robot_loop_closure_callback` of cslam), with a covariance
of its own: the message carries none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from progeo_edge.map_rows import KeyframeInfo
from progeo_edge.types import Descriptor
from progeo_ros.adapters import Action, Counters, Publish, Subscription
from progeo_ros.adapters.measured import MeasuredClosure, measured_closures
from progeo_ros.adapters.node_history import NodeHistory, NodeMatch, between_nodes
from progeo_ros.adapters.transform_messages import transform_message
from progeo_ros.config import NodeConfig
from progeo_ros.events import Outcome
from progeo_ros.message_types import MessageTypes, stamp_ns_of

PACKAGE = "cslam_common_interfaces/msg"
MAX_WAITING = 200
"""Closures, and descriptors, whose keyframe ids are not known yet; beyond, the oldest is given up."""
MAX_OFFSET_MS = 50.0
"""A keyframe of Swarm-SLAM this near to one of ours stands for it."""
DESCRIPTOR_TOPIC = "swarm_slam/global_descriptors"


@dataclass(frozen=True, slots=True, eq=False)
class _Described:
    keyframe: KeyframeInfo
    descriptor: Descriptor


class SwarmSlam:
    """Adapter `swarm_slam`; see docs/adapters.md."""

    name = "swarm_slam"
    required_types: tuple[str, ...] = (
        f"{PACKAGE}/KeyframeOdom",
        f"{PACKAGE}/IntraRobotLoopClosure",
        f"{PACKAGE}/GlobalDescriptors",
    )

    def __init__(self, config: NodeConfig, types: MessageTypes) -> None:
        self._robot_id = config.pose_graph.robot_id
        self._namespace = f"/r{self._robot_id}/cslam"
        self._types = types
        self._nodes = NodeHistory(round(MAX_OFFSET_MS * 1e6))
        self._closures: deque[MeasuredClosure] = deque()
        self._described: deque[_Described] = deque()
        self._counters = Counters()

    def subscriptions(self) -> tuple[Subscription, ...]:
        """Ids and stamps of Swarm-SLAM's keyframes."""
        return (Subscription(f"{self._namespace}/keyframe_odom", f"{PACKAGE}/KeyframeOdom", self._on_keyframe),)

    def _on_keyframe(self, message: Any) -> Iterable[Action]:  # noqa: ANN401
        try:
            stamp_ns, node_id = stamp_ns_of(message.odom.header.stamp), int(message.id)
        except (AttributeError, TypeError, ValueError):
            self._counters.add("malformed")
            return []
        if self._nodes.add_node(stamp_ns, node_id):
            self._counters.add("restarts")
        return self._ready()

    def on_outcome(self, outcome: Outcome) -> Iterable[Action]:
        """Queue its closures and its descriptor, and send what can be sent."""
        self._nodes.add_pose(outcome.frame.stamp_ns, outcome.frame.T_odom_base)
        self._closures += measured_closures(outcome, self._counters)
        keyframe = outcome.made
        if keyframe is not None and outcome.update.keyframe is not None:
            self._described.append(_Described(keyframe, outcome.update.keyframe.descriptor))
        return self._ready()

    def _ready(self) -> list[Action]:
        """Messages of all that waits and whose keyframe ids are known now."""
        actions: list[Action] = []
        for _ in range(len(self._described)):
            self._send_descriptor(self._described.popleft(), actions)
        for _ in range(len(self._closures)):
            self._send_closure(self._closures.popleft(), actions)
        self._limit(self._described, "descriptors_without_id")
        self._limit(self._closures, "unknown_ids")
        return actions

    def _send_descriptor(self, described: _Described, actions: list[Action]) -> None:
        node = self._match(described.keyframe)
        if node is not None:
            self._counters.add("descriptors_sent")
            message = self._descriptors(node.id, described.descriptor)
            actions.append(Publish(DESCRIPTOR_TOPIC, f"{PACKAGE}/GlobalDescriptors", message))
        elif self._nodes.is_hopeless(described.keyframe.stamp_ns):
            self._counters.add("descriptors_without_id")
        else:
            self._described.append(described)

    def _send_closure(self, closure: MeasuredClosure, actions: list[Action]) -> None:
        reference, query = self._match(closure.reference), self._match(closure.query)
        if reference is not None and query is not None:
            if reference.id == query.id:
                self._counters.add("same_node")
                return
            self._counters.add("sent")
            message = self._closure(closure, reference, query)
            topic = f"{self._namespace}/intra_robot_loop_closure"
            actions.append(Publish(topic, f"{PACKAGE}/IntraRobotLoopClosure", message))
        elif any(self._nodes.is_hopeless(end.stamp_ns) for end in (closure.reference, closure.query)):
            self._counters.add("unknown_ids")
        else:
            self._closures.append(closure)

    def _match(self, keyframe: KeyframeInfo) -> NodeMatch | None:
        return self._nodes.match(keyframe.stamp_ns, keyframe.T_odom_base, lambda _: True)

    def _limit(self, queue: deque[Any], counter: str) -> None:
        while len(queue) > MAX_WAITING:
            queue.popleft()
            self._counters.add(counter)

    def _closure(self, closure: MeasuredClosure, reference: NodeMatch, query: NodeMatch) -> Any:  # noqa: ANN401
        T_0_1, _ = between_nodes(closure.T_reference_query, closure.covariance, reference, query)
        return self._types.make(
            f"{PACKAGE}/IntraRobotLoopClosure",
            keyframe0_id=reference.id,
            keyframe1_id=query.id,
            success=True,
            transform=transform_message(self._types, T_0_1),
        )

    def _descriptors(self, keyframe_id: int, descriptor: Descriptor) -> Any:  # noqa: ANN401
        one = self._types.make(
            f"{PACKAGE}/GlobalDescriptor",
            keyframe_id=keyframe_id,
            robot_id=self._robot_id,
            descriptor=np.asarray(descriptor, dtype=np.float64),
        )
        return self._types.make(f"{PACKAGE}/GlobalDescriptors", descriptors=[one])

    def on_tick(self, now_ns: int) -> Iterable[Action]:
        """Nothing: what waits is limited in number."""
        return []

    def counters(self) -> Mapping[str, int]:
        """What was sent, what was not by reason, and how much waits."""
        return {**self._counters.values, "waiting_for_ids": len(self._closures)}

    def close(self) -> None:
        """Nothing is kept."""
