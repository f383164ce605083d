"""Closures as pairs of stamps, for a SLAM system of one's own that finds its nodes by time.

No standard message holds two stamps. nav_msgs/Odometry states a pose with covariance of one named frame in another, in
ROS 1 and ROS 2 alike; here the names are the stamps. voxgraph (ROS 1) has a message of its own for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from progeo_edge.back_ends import parent_axes, rotation_vector_information
from progeo_ros.adapters import Action, Counters, Publish, Subscription
from progeo_ros.adapters.measured import MeasuredClosure, measured_closures
from progeo_ros.adapters.transform_messages import transform_message
from progeo_ros.config import NodeConfig
from progeo_ros.conversions.standard import pose_with_covariance
from progeo_ros.events import Outcome
from progeo_ros.message_types import MessageTypes, make_header

PAIR_TYPE, PAIR_TOPIC = "nav_msgs/msg/Odometry", "loop_closure_pairs"
VOXGRAPH_TYPE, VOXGRAPH_TOPIC = "voxgraph_msgs/msg/LoopClosure", "loop_closure_input"


class StampedPairs:
    """Adapter `stamped_pairs`; see docs/adapters.md."""

    name = "stamped_pairs"
    required_types: tuple[str, ...] = (PAIR_TYPE,)

    def __init__(self, config: NodeConfig, types: MessageTypes) -> None:
        self._types = types
        self._has_voxgraph = types.has(VOXGRAPH_TYPE)
        self._counters = Counters()

    def subscriptions(self) -> tuple[Subscription, ...]:
        """Nothing is listened to."""
        return ()

    def on_outcome(self, outcome: Outcome) -> Iterable[Action]:
        """One message per metric closure, and one more where voxgraph's messages are installed."""
        for closure in measured_closures(outcome, self._counters):
            self._counters.add("sent")
            yield Publish(PAIR_TOPIC, PAIR_TYPE, self._pair(closure))
            if self._has_voxgraph:
                yield Publish(VOXGRAPH_TOPIC, VOXGRAPH_TYPE, self._voxgraph(closure))

    def _pair(self, closure: MeasuredClosure) -> Any:  # noqa: ANN401
        """Pose of the query in the reference, each named by its stamp in nanoseconds."""
        T = closure.T_reference_query
        pose = pose_with_covariance(self._types, T, parent_axes(T, closure.covariance))
        header = make_header(self._types, closure.query.stamp_ns, str(closure.reference.stamp_ns))
        return self._types.make(PAIR_TYPE, header=header, child_frame_id=str(closure.query.stamp_ns), pose=pose)

    def _voxgraph(self, closure: MeasuredClosure) -> Any:  # noqa: ANN401
        """The transform maps from `to` to `from` (`VoxgraphMapper::loopClosureCallback`)."""
        return self._types.make(
            VOXGRAPH_TYPE,
            from_timestamp=self._types.time(closure.reference.stamp_ns),
            to_timestamp=self._types.time(closure.query.stamp_ns),
            transform=transform_message(self._types, closure.T_reference_query),
            information=rotation_vector_information(closure.covariance).ravel(),
        )

    def on_tick(self, now_ns: int) -> Iterable[Action]:
        """Nothing."""
        return []

    def counters(self) -> Mapping[str, int]:
        """Closures sent, and those that were not, by reason."""
        return dict(self._counters.values)

    def close(self) -> None:
        """Nothing is kept."""
