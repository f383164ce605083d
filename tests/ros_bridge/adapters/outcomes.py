"""Outcomes as the node makes them, and small helpers to read messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from progeo_edge.geometry import FloatArray, make_transform, rotation_exp, transform_from_quaternion
from progeo_edge.map_rows import KeyframeInfo
from progeo_edge.types import (
    Frame,
    Keyframe,
    LoopClosure,
    PoseKind,
    ScaleSource,
    Status,
    Transform,
    Update,
    Verification,
)
from progeo_ros.adapters import Action, Publish
from progeo_ros.events import Outcome
from progeo_ros.message_types import NANOSECONDS

START_NS = 1_700_000_000 * NANOSECONDS
IMAGE = np.zeros((4, 6, 3), np.uint8)
COVARIANCE = np.diag([0.04, 0.05, 0.06, 0.001, 0.002, 0.003]) + 0.0005


def seconds(value: float) -> int:
    """Stamp of a moment of the run."""
    return START_NS + round(value * NANOSECONDS)


def info(keyframe_id: int, at_s: float, T: Transform | None = None, session: int = 1) -> KeyframeInfo:
    return KeyframeInfo(keyframe_id, session, seconds(at_s), "", "cam0", T, Status.NO_CANDIDATE)


def closure(
    query_id: int,
    reference_id: int,
    T: Transform | None = None,
    covariance: FloatArray | None = COVARIANCE,
    kind: PoseKind = PoseKind.METRIC,
) -> LoopClosure:
    pose = np.eye(4) if T is None else T
    verification = Verification(Status.ACCEPTED, pose, covariance, kind, ScaleSource.DEPTH, 100, 80, 0.8, 0.3, 0.7)
    return LoopClosure(query_id, reference_id, 0.9, 0.99, verification)


def outcome(
    at_s: float,
    keyframe_id: int | None = None,
    T: Transform | None = None,
    closures: Sequence[LoopClosure] = (),
    references: Sequence[KeyframeInfo] = (),
    session: int = 1,
) -> Outcome:
    """An image of the run; with an id, a keyframe."""
    descriptor = np.array([0.6, 0.8], np.float32)
    keyframe = None
    if keyframe_id is not None:
        keyframe = Keyframe(keyframe_id, session, seconds(at_s), descriptor, T_odom_base=T)
    return Outcome(
        frame=Frame(seconds(at_s), IMAGE, T_odom_base=T),
        update=Update(keyframe, closures=tuple(closures), status=Status.ACCEPTED),
        references={reference.id: reference for reference in references},
        session="run",
        session_names={0: "earlier", 1: "run"},
        model_id="ab" * 32,
        min_similarity=0.5,
        base_frame="base_link",
        odom_frame="odom",
        camera_frame="camera",
        latency_ms=20.0,
    )


def messages(actions: Iterable[Action], topic: str) -> list[Any]:
    """What was published on a topic."""
    return [action.message for action in actions if isinstance(action, Publish) and action.topic == topic]


def read_transform(message: Any) -> Transform:
    """geometry_msgs/Transform or Pose to a matrix."""
    is_transform = hasattr(message, "translation")
    t, q = (message.translation, message.rotation) if is_transform else (message.position, message.orientation)
    return transform_from_quaternion([t.x, t.y, t.z], [q.x, q.y, q.z, q.w])


_coordinate = st.floats(-20.0, 20.0)
_angle = st.floats(-1.7, 1.7)
transforms = st.builds(
    lambda t, r: make_transform(rotation_exp(r), t),
    st.tuples(_coordinate, _coordinate, _coordinate),
    st.tuples(_angle, _angle, _angle),
)
"""Rigid transforms with rotations under pi."""


def _covariance(seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(6, 6)) * np.array([[0.3, 0.3, 0.3, 0.05, 0.05, 0.05]]).T
    return np.asarray(A @ A.T + np.diag([1e-3] * 3 + [1e-5] * 3))


covariances = st.integers(0, 2**32 - 1).map(_covariance)
"""Positive definite (6, 6), full, with metres and radians of different size."""
