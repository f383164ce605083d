"""Robots that wake up in rendered streets: what the detector says to their first views, and the truth beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from progeo_edge.config import load_config
from progeo_edge.detector import LoopDetector
from progeo_edge.encoders import load_encoder
from progeo_edge.geometry import invert, rotation_angle
from progeo_edge.map_store import MapStore
from progeo_edge.types import Frame, Status, Transform, Update
from progeo_edge.world import StreetWorld, WorldSource, forward_camera, simulate_drive
from progeo_edge.world.lighting import EVENING, NIGHT, OVERCAST
from progeo_edge.world.trajectory import DriveStep
from progeo_edge.world.world import repetitive_corridor

FRAME_RATE_HZ = 2.5
"""A view every 1.2 m at 3 m/s."""
LIGHTS = {"evening": EVENING, "overcast": OVERCAST, "night": NIGHT}
CAMERA = forward_camera(320, 240)


@dataclass(frozen=True, eq=False)
class TrialView:
    """One view after waking up."""

    frame: Frame
    T_world_base: Transform
    update: Update


@dataclass(frozen=True, eq=False)
class Trial:
    """The first views of one robot in one map.

    Attributes:
        detector: Over the map.
        has_camera: Whether it was asked with intrinsics and depth, or with neither.
        light: Of the query drive.
        is_own: Whether the map is of the world the robot is in.
        reference_poses: T_world_base by keyframe id.
        views: In the order of time.
    """

    detector: LoopDetector
    has_camera: bool
    light: str
    is_own: bool
    reference_poses: Mapping[int, Transform]
    views: tuple[TrialView, ...]

    def distance(self, view: TrialView, reference_id: int) -> tuple[float, float]:
        """Metres and degrees between a view and a reference of its own world."""
        T_reference_view = invert(self.reference_poses[reference_id]) @ view.T_world_base
        metres = float(np.linalg.norm(T_reference_view[:3, 3]))
        return metres, float(np.degrees(rotation_angle(T_reference_view[:3, :3])))

    def is_elsewhere(self, view: TrialView, reference_id: int) -> bool:
        """Certainly another place."""
        metres, degrees = self.distance(view, reference_id)
        return metres > 20.0 or degrees > 90.0

    def is_at(self, view: TrialView, reference_id: int) -> bool:
        """Certainly the same place: as near as the detector itself allows, with common view."""
        metres, degrees = self.distance(view, reference_id)
        return metres <= 10.0 and degrees <= 60.0

    def best_inliers_in_place(self, view: TrialView) -> int:
        """Inliers of the best passed verification at the right place; 0 when none passed."""
        passed = [
            c.verification.num_inliers
            for c in view.update.candidates
            if c.status is Status.ACCEPTED and c.verification is not None and self.is_at(view, c.reference_id)
        ]
        return max(passed, default=0)


@dataclass(frozen=True, eq=False)
class _KnownMap:
    """Asked with intrinsics and depth, and with neither."""

    with_camera: LoopDetector
    without_camera: LoopDetector
    reference_poses: Mapping[int, Transform]


def record_trials(seeds: Sequence[int], *, num_starts: int, num_views: int) -> Iterator[Trial]:
    """Wake up `num_starts` times in every world, in its own map and in the map of the world before.

    Args:
        seeds: Of the worlds.
        num_starts: Random places of another drive in other light.
        num_views: Frames from there on.
    """
    before: _KnownMap | None = None
    for seed in seeds:
        world = StreetWorld(seed)
        drive = _first_pass(simulate_drive(world, seed, frame_rate_hz=FRAME_RATE_HZ))
        known = _drive_map(WorldSource(world, drive, CAMERA, depth=True))
        light = list(LIGHTS)[seed % len(LIGHTS)]
        other = [
            replace(step, lighting=replace(LIGHTS[light], noise_seed=step.lighting.noise_seed))
            for step in simulate_drive(world, seed + 1000, frame_rate_hz=FRAME_RATE_HZ)[: len(drive)]
        ]
        for start in np.random.default_rng(seed).integers(0, len(other) - num_views, num_starts):
            source = WorldSource(world, other[start : start + num_views], CAMERA, depth=True)
            frames = list(source)
            yield from _ask(known, light, True, frames, source.truth)
            if before is not None:
                yield from _ask(before, light, False, frames, source.truth)
        before = known


def corridor_trials(seed: int, num_starts: int, num_views: int) -> Iterator[Trial]:
    """Wake up in a corridor whose every 4 m look the same; only a match of the true period is right."""
    world = repetitive_corridor(seed)
    drives = [
        simulate_drive(world, drive_seed, frame_rate_hz=FRAME_RATE_HZ, speed_m_per_s=1.5)
        for drive_seed in (seed, seed + 1000)
    ]
    known = _drive_map(WorldSource(world, drives[0], CAMERA, depth=True))
    for start in np.random.default_rng(seed).integers(0, len(drives[1]) - num_views, num_starts):
        source = WorldSource(world, drives[1][start : start + num_views], CAMERA, depth=True)
        yield from _ask(known, "day", True, list(source), source.truth)


def _first_pass(drive: Sequence[DriveStep]) -> Sequence[DriveStep]:
    """Up to the first change of light: one drive round both blocks by day."""
    return drive[: next(i for i, step in enumerate(drive) if "evening" in step.label)]


def _drive_map(source: WorldSource) -> _KnownMap:
    encoder = load_encoder("vlad")
    store = MapStore.create(None, encoder.spec)
    config = load_config(defaults={"budget": {"deadline_ms": 0.0}})
    detector = LoopDetector(encoder, store, CAMERA, config)
    for frame in source:
        detector.process(frame)
    detector.close()
    poses = {info.id: source.truth[info.stamp_ns] for info in store.infos()}
    return _KnownMap(detector, LoopDetector(encoder, store, None, config), poses)


def _ask(
    known: _KnownMap, light: str, is_own: bool, frames: Sequence[Frame], truth: Mapping[int, Transform]
) -> Iterator[Trial]:
    for detector in (known.with_camera, known.without_camera):
        has_camera = detector is known.with_camera
        seen = [frame if has_camera else replace(frame, depth_m=None) for frame in frames]
        views = tuple(TrialView(frame, truth[frame.stamp_ns], detector.relocalize(frame)) for frame in seen)
        yield Trial(detector, has_camera, light, is_own, known.reference_poses, views)
