"""A map along a straight line, and a detector that says what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from progeo_edge.config import Config
from progeo_edge.detector import LoopDetector
from progeo_edge.geometry import invert, make_transform
from progeo_edge.map_rows import KeyframeInfo
from progeo_edge.relocalisation import Relocaliser
from progeo_edge.types import (
    Candidate,
    Frame,
    LoopClosure,
    PoseKind,
    Relocalisation,
    ScaleSource,
    Status,
    Transform,
    Update,
    Verification,
)

NUM_KEYFRAMES = 40
I4 = np.eye(4)


def at(x_m: float, y_m: float = 0.0) -> Transform:
    return make_transform(np.eye(3), [x_m, y_m, 0.0])


def infos(T_odom_map: Transform | None = I4, session: int = 0, first: int = 0) -> list[KeyframeInfo]:
    """Keyframes a metre apart along x; without odometry when the transform is None."""
    return [
        KeyframeInfo(
            first + i,
            session,
            i * 10**9,
            "",
            "cam0",
            None if T_odom_map is None else T_odom_map @ at(i),
            Status.NO_CANDIDATE,
        )
        for i in range(NUM_KEYFRAMES)
    ]


def passed(
    reference_id: int,
    T_reference_query: Transform | None = I4,
    *,
    num_inliers: int = 100,
    probability: float | None = None,
    kind: PoseKind = PoseKind.METRIC,
) -> Candidate:
    """An accepted candidate."""
    verification = Verification(
        Status.ACCEPTED,
        T_reference_query if kind is not PoseKind.NONE else None,
        np.eye(6) if kind is not PoseKind.NONE else None,
        kind,
        ScaleSource.DEPTH if kind is PoseKind.METRIC else ScaleSource.NONE,
        num_matches=2 * num_inliers,
        num_inliers=num_inliers,
    )
    return Candidate(reference_id, 0.8, Status.ACCEPTED, probability=probability, verification=verification)


def failed(reference_id: int) -> Candidate:
    """A candidate that the geometry refused."""
    return Candidate(reference_id, 0.7, Status.FEW_INLIERS, verification=Verification(Status.FEW_INLIERS))


def seen_from(x_m: float, *references: int, **options: Any) -> list[Candidate]:
    """What a robot at x_m on the line is told by these references: accepted, with exact poses."""
    return [passed(reference, at(x_m - reference), **options) for reference in references]


class ToldDetector:
    """Stands in for a LoopDetector: gives the answers it was made with, one per frame."""

    def __init__(
        self,
        answers: Sequence[Sequence[Candidate] | Status],
        keyframes: Sequence[KeyframeInfo],
        closures: Sequence[LoopClosure] = (),
        config: Config | None = None,
    ) -> None:
        self.config = config or Config()
        by_id = {info.id: info for info in keyframes}
        self.map_store = SimpleNamespace(
            infos=lambda: list(keyframes), closures=lambda: list(closures), keyframe=by_id.__getitem__
        )
        self.encoder = SimpleNamespace(encode=lambda images: np.stack([_descriptor(image) for image in images]))
        self.num_asked = 0
        self._answers = list(answers)

    def relocalize(self, frame: Frame) -> Update:
        answer = self._answers[self.num_asked]
        self.num_asked += 1
        if isinstance(answer, Status):
            return Update(None, status=answer)
        accepted = any(candidate.status is Status.ACCEPTED for candidate in answer)
        return Update(None, tuple(answer), status=Status.ACCEPTED if accepted else Status.FEW_INLIERS)


def _descriptor(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    angle = float(image.mean()) / 255 * np.pi
    return np.array([np.cos(angle), np.sin(angle)], dtype=np.float32)


def views(xs_m: Sequence[float], T_odom_line: Transform | None = I4) -> list[Frame]:
    """Frames a second apart of a robot that stands at these places of the line, each with another picture."""
    return [
        Frame(
            i * 10**9,
            np.full((4, 4, 3), 20 * (i % 12), np.uint8),
            T_odom_base=None if T_odom_line is None else T_odom_line @ at(x_m),
        )
        for i, x_m in enumerate(xs_m)
    ]


def relocaliser(
    answers: Sequence[Sequence[Candidate] | Status],
    keyframes: Sequence[KeyframeInfo] | None = None,
    closures: Sequence[LoopClosure] = (),
    config: Config | None = None,
) -> Relocaliser:
    told = ToldDetector(answers, infos() if keyframes is None else keyframes, closures, config)
    return Relocaliser(cast(LoopDetector, told))


def ask(
    answers: Sequence[Sequence[Candidate] | Status],
    xs_m: Sequence[float],
    T_odom_line: Transform | None = I4,
    **map: Any,
) -> Relocalisation:
    """The answer after all these views."""
    asked = relocaliser(answers, **map)
    for frame in views(xs_m, T_odom_line):
        asked.add(frame)
    return asked.answer


def error_m(T: Transform | None, truth: Transform) -> float:
    assert T is not None
    return float(np.linalg.norm((invert(truth) @ T)[:3, 3]))
