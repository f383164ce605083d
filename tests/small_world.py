"""Two passes of one short stretch of street, rendered once; and encoders and maps for tests of pure logic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import ModelSpec
from progeo_edge.config import Config, load_config
from progeo_edge.encoders import Encoder, load_encoder
from progeo_edge.geometry import Camera, invert, make_transform
from progeo_edge.map_store import MapStore
from progeo_edge.sources.base import SkippedFrame
from progeo_edge.types import Frame, Image, Keyframe, LocalFeatures, Status, Transform
from progeo_edge.world import StreetWorld, WorldSource, camera_towards, forward_camera, simulate_drive

NUM_POSES = 6
PASS_SECONDS = 100
LIGHT = (
    *("exclusion.distance_m=4", "exclusion.keyframes=4", "budget.deadline_ms=0"),
    *("verification.working_size_px=320", "verification.max_features=500"),
)
SPEC = ModelSpec("fake", 8, "fa" * 32)


@cache
def camera() -> Camera:
    return forward_camera(320, 240)


@cache
def street() -> StreetWorld:
    return StreetWorld(0)


@cache
def two_passes() -> tuple[tuple[Frame, ...], dict[int, Transform]]:
    """12 frames with depth and true odometry, the second 6 where the first were, 15 cm beside; and the truth by stamp.

    Stamps are 2 s apart, and 100 s between the passes.
    """
    first = simulate_drive(street(), 0, frame_rate_hz=2.5)[10 : 10 + NUM_POSES]
    T_odom_world = invert(first[0].T_world_base)
    start_ns = first[0].stamp_ns
    steps = []
    for lap in range(2):
        aside = make_transform(np.eye(3), [0.0, 0.15 * lap, 0.0])
        for i, step in enumerate(first):
            T_world_base = step.T_world_base @ aside
            stamp_ns = start_ns + (lap * PASS_SECONDS + 2 * i) * 10**9
            odometry = T_odom_world @ T_world_base
            steps.append(replace(step, stamp_ns=stamp_ns, T_world_base=T_world_base, T_odom_base=odometry))
    source = WorldSource(street(), steps, camera(), depth=True)
    return tuple(source), dict(source.truth)


@cache
def rig() -> dict[str, Camera]:
    """Two cameras of different size, one looking forwards and one backwards."""
    return {"front": camera(), "rear": camera_towards(180.0, 400, 300)}


@cache
def there_and_back() -> tuple[tuple[Frame, ...], dict[int, Transform]]:
    """6 moments of the rig with depth and true odometry, then the way back, turned round, 15 cm beside; and the truth.

    Stamps are 2 s apart, and 100 s between the passes. Each moment gives a front and a rear image.
    """
    there = simulate_drive(street(), 0, frame_rate_hz=2.5)[10 : 10 + NUM_POSES]
    T_odom_world = invert(there[0].T_world_base)
    turned = make_transform(np.diag([-1.0, -1.0, 1.0]), [0.0, 0.15, 0.0])
    steps = []
    for i, step in enumerate([*there, *there[::-1]]):
        T_world_base = step.T_world_base @ turned if i >= NUM_POSES else step.T_world_base
        stamp_ns = there[0].stamp_ns + (2 * i + (PASS_SECONDS if i >= NUM_POSES else 0)) * 10**9
        odometry = T_odom_world @ T_world_base
        steps.append(replace(step, stamp_ns=stamp_ns, T_world_base=T_world_base, T_odom_base=odometry))
    source = WorldSource(street(), steps, rig(), depth=True)
    return tuple(source), dict(source.truth)


@cache
def encoder() -> Encoder:
    return load_encoder("vlad")


def settings(*overrides: str) -> Config:
    """Conservative, without deadline, light on features, and with an exclusion window that the short stretch leaves."""
    return load_config(overrides=(*LIGHT, *overrides))


def without_odometry(frames: Sequence[Frame]) -> list[Frame]:
    return [replace(frame, T_odom_base=None) for frame in frames]


def write_images(folder: Path, frames: Sequence[Frame]) -> Path:
    """The frames as PNG, named by their place in the sequence."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{i:03d}.png"), frame.image)
    return folder


class ListSource:
    """Frames from a list, as a source."""

    def __init__(self, frames: Sequence[Frame], name: str = "list") -> None:
        self.name = name
        self.camera: Camera | None = camera()
        self.num_frames: int | None = len(frames)
        self.skipped: list[SkippedFrame] = []
        self._frames = frames

    def __iter__(self) -> Any:
        return iter(self._frames)


class FakeEncoder:
    """Gives the descriptors it was made with, one after the other."""

    def __init__(self, descriptors: Sequence[NDArray[np.float32]], spec: ModelSpec = SPEC) -> None:
        self.spec = spec
        self._descriptors = iter(descriptors)

    def encode(self, images: Sequence[Image]) -> NDArray[np.float32]:
        return np.stack([next(self._descriptors) for _ in images])

    def close(self) -> None:
        """Nothing is held."""


def at_angle(degrees: float) -> NDArray[np.float32]:
    """Unit vectors whose cosines are those of the difference of their angles."""
    angle = np.radians(degrees)
    return np.array([np.cos(angle), np.sin(angle), 0, 0, 0, 0, 0, 0], dtype=np.float32)


def fake_map(angles_deg: Sequence[float], **parts: Any) -> MapStore:
    """A map in memory of one session, keyframes 10 s apart; `parts` gives each keyframe its features or appearance."""
    store = MapStore.create(None, SPEC, descriptor_dtype="float32")
    session = store.begin_session("known", camera=None, config_yaml="")
    for i, angle in enumerate(angles_deg):
        store.add_keyframe(fake_keyframe(i, angle, session, **parts), status=Status.NO_CANDIDATE)
    return store


def fake_keyframe(id: int, angle_deg: float, session: int = 0, **parts: Any) -> Keyframe:
    values = {name: value[id] if isinstance(value, (list, tuple)) else value for name, value in parts.items()}
    return Keyframe(id, session, id * 10 * 10**9, at_angle(angle_deg), **values)


def grid_features(count: int = 100, size_px: tuple[int, int] = (100, 80)) -> LocalFeatures:
    """Keypoints spread over the image, with random descriptors."""
    rng = np.random.default_rng(0)
    return LocalFeatures(
        "orb",
        (rng.random((count, 2)) * size_px).astype(np.float32),
        np.full(count, 31.0, np.float32),
        rng.integers(0, 256, (count, 32), dtype=np.uint8),
        size_px,
    )
