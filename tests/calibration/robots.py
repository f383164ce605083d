"""A robot in a world of descriptors only: places on a circle, neighbours alike, different places alike by chance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from progeo_edge.bundle import ModelSpec
from progeo_edge.geometry import make_transform
from progeo_edge.types import Keyframe

DIMENSION = 24
SPEC = ModelSpec("synthetic", DIMENSION, "f" * 64)
STEP_M, RATE_HZ = 1.0, 1.0


def drive(num_places: int, num_keyframes: int, seed: int, *, odometry: bool = True) -> Iterator[Keyframe]:
    """Laps of a circle of `num_places` metres, one keyframe per metre and second."""
    places = np.random.default_rng([seed, 1]).normal(size=(num_places, DIMENSION))
    blur = np.stack([(5 - abs(shift)) * np.roll(places, shift, axis=0) for shift in range(-4, 5)])
    smooth = blur.sum(axis=0) / 9.2
    rng = np.random.default_rng([seed, 2])
    radius_m = num_places * STEP_M / (2 * np.pi)
    for i in range(num_keyframes):
        noisy = smooth[i % num_places] + 0.3 * rng.normal(size=DIMENSION)
        angle = 2 * np.pi * i / num_places
        pose = make_transform(np.eye(3), [radius_m * np.cos(angle), radius_m * np.sin(angle), 0.0])
        yield Keyframe(
            id=i,
            session=0,
            stamp_ns=int(i * 1e9 / RATE_HZ),
            descriptor=(noisy / np.linalg.norm(noisy)).astype(np.float32),
            T_odom_base=pose if odometry else None,
        )
