"""A map of distinct places along a line, and drives past them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import SearchConfig
from progeo_edge.geometry import make_transform
from progeo_edge.index import PlaceIndex
from progeo_edge.motion.place_graph import PlaceGraph
from progeo_edge.types import Keyframe

DIMENSION = 32
SPACING_M = 2.0


def places(count: int, seed: int = 0) -> NDArray[np.float32]:
    """(count, DIMENSION) unit vectors."""
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def known_way(descriptors: NDArray[np.float32], first_id: int = 0) -> tuple[PlaceGraph, PlaceIndex]:
    """The places as one session, SPACING_M apart."""
    graph, index = PlaceGraph(), PlaceIndex(DIMENSION, SearchConfig())
    for row, descriptor in enumerate(descriptors):
        graph.add_keyframe(first_id + row, 0, at(row * SPACING_M))
        index.add([first_id + row], descriptor[None])
    return graph, index


def at(x_m: float) -> NDArray[np.float64]:
    return make_transform(np.eye(3), [x_m, 0.0, 0.0])


def drive(
    descriptors: NDArray[np.float32] | Sequence[NDArray[np.float32]],
    *,
    step_m: float | None = SPACING_M,
    first_id: int = 10_000,
) -> list[Keyframe]:
    """Keyframes of another session that see these, `step_m` apart; None without odometry."""
    poses = [None if step_m is None else at(number * step_m) for number in range(len(descriptors))]
    return [
        Keyframe(first_id + number, 1, number, descriptor, T_odom_base=pose)
        for number, (descriptor, pose) in enumerate(zip(descriptors, poses, strict=True))
    ]


def noisy(descriptors: NDArray[np.float32], amount: float, seed: int = 1) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).standard_normal(descriptors.shape).astype(np.float32) / DIMENSION**0.5
    seen = descriptors + amount * noise
    return np.asarray(seen / np.linalg.norm(seen, axis=1, keepdims=True))
