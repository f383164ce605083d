"""What is published for an Outcome: one list, which the nodes and the replay of bags go through."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from progeo_ros.config import NodeConfig
from progeo_ros.conversions.outgoing import (
    descriptor_message,
    keyframe_message,
    loop_candidates_message,
    loop_closure_messages,
    loop_closure_pose_messages,
    num_inliers,
    relocalization_message,
)
from progeo_ros.conversions.pictures import ClosureLine, closure_line, loop_markers, match_picture
from progeo_ros.conversions.standard import image_message
from progeo_ros.events import Outcome
from progeo_ros.message_types import MessageTypes

Build = Callable[[MessageTypes, Outcome], Iterable[Any]]

MAX_LINES = 2000
"""Closures that loop_markers shows; older ones are left out."""


@dataclass(frozen=True, slots=True)
class Publication:
    """One topic that goes out. All are reliable.

    Attributes:
        topic: Relative to the node's namespace.
        msgtype: "progeo_msgs/msg/LoopClosure".
        depth: Messages kept for slow and late subscribers.
        latched: Late joiners get them (transient local, latched).
        always: False: built only while someone listens. What is latched is built always, since a late joiner has to
            get it.
        build: Messages for an outcome; none, one or several.
    """

    topic: str
    msgtype: str
    depth: int
    latched: bool
    always: bool
    build: Build


def publications(config: NodeConfig, types: MessageTypes, has_progeo_msgs: bool) -> tuple[Publication, ...]:
    """All topics for outcomes.

    Args:
        config: Settings of the node.
        types: Makes messages.
        has_progeo_msgs: Without these, closures go out in a standard message (`loop_closure_pose`) and reasons only in
            diagnostics.
    """
    standard = (
        Publication(
            "relocalization_pose",
            "geometry_msgs/msg/PoseWithCovarianceStamped",
            10,
            False,
            True,
            lambda types, outcome: _some(relocalization_message(types, outcome, config.frames.map)),
        ),
        Publication("match_image", "sensor_msgs/msg/Image", 1, False, False, _match_image(config)),
        Publication("loop_markers", "visualization_msgs/msg/MarkerArray", 1, True, True, LoopLines().build),
    )
    known = tuple(publication for publication in standard if types.has(publication.msgtype))
    return (*(_of_progeo_msgs(config) if has_progeo_msgs else _instead()), *known)


def _of_progeo_msgs(config: NodeConfig) -> tuple[Publication, ...]:
    dtype = config.output.descriptor_dtype
    return (
        Publication("loop_closures", "progeo_msgs/msg/LoopClosure", 100, True, True, loop_closure_messages),
        Publication(
            "loop_candidates",
            "progeo_msgs/msg/LoopCandidates",
            10,
            False,
            False,
            lambda types, outcome: [loop_candidates_message(types, outcome)],
        ),
        Publication(
            "keyframes",
            "progeo_msgs/msg/Keyframe",
            10,
            False,
            False,
            lambda types, outcome: _some(keyframe_message(types, outcome, dtype)),
        ),
        Publication(
            "global_descriptor",
            "progeo_msgs/msg/GlobalDescriptor",
            10,
            False,
            False,
            lambda types, outcome: _some(descriptor_message(types, outcome, dtype)),
        ),
    )


def _instead() -> tuple[Publication, ...]:
    """Closures without progeo_msgs."""
    msgtype = "geometry_msgs/msg/PoseWithCovarianceStamped"
    return (Publication("loop_closure_pose", msgtype, 100, True, True, loop_closure_pose_messages),)


class LoopLines:
    """Keeps where the closures of the session stand, for loop_markers."""

    def __init__(self) -> None:
        self._lines: deque[ClosureLine] = deque(maxlen=MAX_LINES)
        self._session: int | None = None

    def build(self, types: MessageTypes, outcome: Outcome) -> list[Any]:
        """One message when there is a new closure within the session; poses of other sessions are of another frame."""
        keyframe = outcome.update.keyframe
        if keyframe is None:
            return []
        if keyframe.session != self._session:
            self._session = keyframe.session
            self._lines.clear()
        ends = [(c, outcome.reference(c.reference_id), outcome.query(c)) for c in outcome.closures]
        lines = [
            closure_line(closure, reference.T_odom_base, query.T_odom_base)
            for closure, reference, query in ends
            if query is not None and reference.session == query.session
        ]
        new = [line for line in lines if line is not None]
        self._lines.extend(new)
        return [loop_markers(types, self._lines, outcome.frame.stamp_ns, outcome.odom_frame)] if new else []


def _match_image(config: NodeConfig) -> Build:
    def build(types: MessageTypes, outcome: Outcome) -> Iterable[Any]:
        closures = outcome.update.closures
        if not closures:
            return []
        best = max(closures, key=num_inliers)
        thumbnail = outcome.thumbnail_of(best.reference_id)
        picture = match_picture(outcome.frame.image, thumbnail, best, config.output.match_image_height_px)
        return [image_message(types, picture, outcome.frame.stamp_ns, outcome.camera_frame)]

    return build


def _some(message: Any | None) -> list[Any]:  # noqa: ANN401
    return [] if message is None else [message]
