"""Drives that invite wrong loop closures: what `python -m tools.adversarial` and its tests go through."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from progeo_edge.geometry import Camera, make_transform, rotation_exp
from progeo_edge.types import Frame, Image, Status, Transform
from progeo_edge.world import StreetWorld, World, forward_camera, repetitive_corridor, simulate_drive
from progeo_edge.world.lighting import DAY, Lighting
from progeo_edge.world.trajectory import START_NS

FLOOR_M = 3.0
Views = Iterable[tuple[Frame, Transform]]
"""Frames with their true T_world_base."""


@dataclass(frozen=True)
class Scenario:
    """A drive and what should come of it.

    Attributes:
        name: For the table.
        views: Makes the frames, with the truth.
        shares: Statuses, and the share of all frames that should have them at least.
        possible: Whether what the robot is given can tell the places apart at all.
    """

    name: str
    views: Callable[[], Views]
    shares: dict[Status, float]
    possible: bool = True


def camera() -> Camera:
    """What the robot carries."""
    return forward_camera(320, 240)


def scenarios(scale: float = 1.0) -> list[Scenario]:
    """All of them; a smaller scale makes them shorter.

    Args:
        scale: 1 for an hour of standing still and corridors of 40 and 200 metres.
    """
    seconds, length_m, long_m = round(3600 * scale), max(20.0, 40.0 * scale), max(60.0, 200.0 * scale)
    turns, street, num_floors = max(3, round(60 * scale)), max(60, round(200 * scale)), 3 if scale > 0.5 else 2
    still, dark = {Status.NOT_A_KEYFRAME: 0.95}, {Status.UNRECOGNISABLE: 0.5}
    far = {Status.ODOM_INCONSISTENT: 0.4}
    return [
        Scenario("stands still", lambda: standing(seconds, odometry=True), still),
        Scenario("stands still, no odometry", lambda: standing(seconds, odometry=False), still),
        Scenario("spins in place", lambda: spinning(turns, odometry=True), {Status.NO_CANDIDATE: 0.5}),
        Scenario("spins in place, no odometry", lambda: spinning(turns, odometry=False), {Status.ACCEPTED: 0.4}),
        Scenario("identical floors, depth", lambda: floors(length_m, num_floors, depth=True), far),
        Scenario("identical floors", lambda: floors(length_m, num_floors), far),
        Scenario(
            "identical floors, odometry that does not feel the lift",
            lambda: floors(length_m, num_floors, depth=True, heights=False),
            {},
            possible=False,
        ),
        Scenario(
            "identical floors, no odometry", lambda: floors(length_m, num_floors, odometry=False), {}, possible=False
        ),
        Scenario("long corridor, depth", lambda: corridor(long_m, depth=True), far),
        Scenario("long corridor", lambda: corridor(long_m), far),
        Scenario("long corridor, no odometry", lambda: corridor(long_m, odometry=False), {}, possible=False),
        Scenario("camera freezes", lambda: freezing(street, odometry=True), {Status.FROZEN: 0.3}),
        Scenario("camera freezes, no odometry", lambda: freezing(street, odometry=False), {Status.FROZEN: 0.1}),
        Scenario("lights off and on", lambda: lights_out(street, odometry=True), dark),
        Scenario("lights off and on, no odometry", lambda: lights_out(street, odometry=False), dark),
        Scenario("lens cap", lambda: lens_cap(street), {Status.UNRECOGNISABLE: 0.95}),
        Scenario("dirty lens", lambda: dirty_lens(street, odometry=True), {}),
        Scenario("dirty lens, no odometry", lambda: dirty_lens(street, odometry=False), {}),
    ]


# -- standing and turning ----------------------------------------------------------------------------------------


def standing(seconds: int, *, odometry: bool) -> Views:
    """One picture with the sensor's noise every second; the odometry trembles and creeps."""
    world, rng = StreetWorld(100), np.random.default_rng(1)
    T_world_base = simulate_drive(world, 100, frame_rate_hz=2.5, max_frames=40)[-1].T_world_base
    clean, _ = world.render(camera(), T_world_base @ camera().T_base_camera, replace(DAY, noise_std=0.0))
    crept_m = 0.0
    for i in range(seconds):
        crept_m += 0.002 * rng.standard_normal()
        tremble = make_transform(rotation_exp(0.005 * rng.standard_normal(3)), 0.02 * rng.standard_normal(3))
        T_odom_base = tremble @ make_transform(np.eye(3), [crept_m, 0, 0]) if odometry else None
        yield _frame(i, 1.0, _noisy(clean, 2.0, rng), T_odom_base), T_world_base


def spinning(turns: int, *, odometry: bool) -> Views:
    """A turn in 24 s, over and over."""
    world, rng = StreetWorld(100), np.random.default_rng(2)
    start = simulate_drive(world, 100, frame_rate_hz=2.5, max_frames=40)[-1].T_world_base
    truth = [start @ _at(0, 0, 0, 15.0 * i) for i in range(24 * turns)]
    pictures = [_clean(world, T) for T in truth[:24]]
    poses = drifting(truth, rng)
    for i, T in enumerate(truth):
        yield _frame(i, 1.0, _noisy(pictures[i % 24], 2.0, rng), poses[i] if odometry else None), T


# -- corridors ---------------------------------------------------------------------------------------------------


def floors(
    length_m: float, num_floors: int = 3, *, depth: bool = False, odometry: bool = True, heights: bool = True
) -> Views:
    """The same corridor on every floor: there, back, and up by the lift. `heights`: the odometry feels the lift."""
    world, rng = repetitive_corridor(100, length_m), np.random.default_rng(3)
    truth = []
    for floor in range(num_floors):
        z = floor * FLOOR_M
        if floor:
            truth += [_at(2.0, 0, z - FLOOR_M + 0.5 * step, 0) for step in range(1, 6)]
        there = np.arange(2.0, length_m - 5.0, 0.5)
        truth += [_at(x, 0.1 * np.sin(x + floor), z, 0) for x in there]
        truth += [_at(there[-1], 0, z, angle) for angle in range(20, 180, 20)]
        truth += [_at(x, 0.1 * np.cos(x - floor), z, 180) for x in there[::-1]]
        truth += [_at(there[0], 0, z, 180 + angle) for angle in range(20, 180, 20)]
    felt = truth if heights else [_at_height(T, 0.0) for T in truth]
    poses = drifting(felt, rng)
    for i, T in enumerate(truth):
        image, depth_m = _see(world, _at_height(T, 0.0), i)
        frame = _frame(i, 0.5, image, poses[i] if odometry else None)
        yield replace(frame, depth_m=depth_m if depth else None), T


def corridor(length_m: float, *, depth: bool = False, odometry: bool = True) -> Views:
    """Along a corridor that repeats itself every four metres, once."""
    world, rng = repetitive_corridor(101, length_m), np.random.default_rng(4)
    truth = [_at(x, 0.1 * np.sin(0.3 * x), 0, 0) for x in np.arange(2.0, length_m - 5.0, 0.5)]
    poses = drifting(truth, rng)
    for i, T in enumerate(truth):
        image, depth_m = _see(world, T, i)
        frame = _frame(i, 1.0, image, poses[i] if odometry else None)
        yield replace(frame, depth_m=depth_m if depth else None), T


# -- cameras in trouble ------------------------------------------------------------------------------------------


def freezing(num_frames: int, *, odometry: bool) -> Views:
    """Along a street; the middle third of the drive repeats one picture."""
    frozen: Image | None = None
    for i, (frame, T) in enumerate(_along_a_street(num_frames, odometry=odometry)):
        if num_frames // 3 <= i < 2 * num_frames // 3:
            frozen = frame.image if frozen is None else frozen
            frame = replace(frame, image=frozen)
        yield frame, T


def lights_out(num_frames: int, *, odometry: bool) -> Views:
    """Along a street; in every other stretch of ten frames it is nearly dark."""
    rng = np.random.default_rng(5)
    for i, (frame, T) in enumerate(_along_a_street(num_frames, odometry=odometry)):
        if i // 10 % 2:
            frame = replace(frame, image=_noisy((0.03 * frame.image).astype(np.uint8), 2.0, rng))
        yield frame, T


def lens_cap(num_frames: int) -> Views:
    """Nothing but the sensor's noise on black."""
    rng = np.random.default_rng(6)
    for frame, T in _along_a_street(num_frames, odometry=True):
        yield replace(frame, image=_noisy(np.zeros_like(frame.image), 3.0, rng)), T


def dirty_lens(num_frames: int, *, odometry: bool) -> Views:
    """Sharp dirt on a third of the picture, the same all the time."""
    rng = np.random.default_rng(7)
    dirt = np.full((240, 320, 3), 255, np.uint8)
    for _ in range(260):
        at = rng.integers(0, (320, 240)).tolist()
        cv2.circle(dirt, at, int(rng.integers(2, 9)), rng.integers(20, 200, 3).tolist(), -1, cv2.LINE_AA)
    is_dirty = (dirt < 255).any(axis=2, keepdims=True)
    for frame, T in _along_a_street(num_frames, odometry=odometry):
        yield replace(frame, image=np.where(is_dirty, _noisy(dirt, 2.0, rng), frame.image)), T


def _along_a_street(num_frames: int, *, odometry: bool) -> Iterator[tuple[Frame, Transform]]:
    world = StreetWorld(101)
    for i, step in enumerate(simulate_drive(world, 101, frame_rate_hz=2.0, max_frames=num_frames)):
        image, _ = world.render(camera(), step.T_world_base @ camera().T_base_camera, step.lighting)
        yield _frame(i, 0.5, image, step.T_odom_base if odometry else None), step.T_world_base


# -- the pieces --------------------------------------------------------------------------------------------------


def drifting(truth: Sequence[Transform], rng: np.random.Generator) -> list[Transform]:
    """Odometry with 1 % of scale, a random walk of 1.5 cm and 0.2 degrees per square root of a metre, level by IMU."""
    scale = 1.0 + 0.01 * rng.standard_normal()
    poses = [truth[0]]
    for before, after in itertools.pairwise(truth):
        step = np.linalg.inv(before) @ after
        root_m = np.sqrt(np.linalg.norm(step[:3, 3]))
        step[:3, 3] = scale * step[:3, 3] + 0.015 * root_m * rng.standard_normal(3) * (1.0, 1.0, 0.2)
        yaw = np.radians(0.2) * (root_m + 0.1) * rng.standard_normal()
        poses.append(poses[-1] @ step @ make_transform(rotation_exp([0, 0, yaw]), np.zeros(3)))
    tilts = np.radians(0.2) * rng.standard_normal((len(poses), 2))
    return [T @ make_transform(rotation_exp([*tilt, 0.0]), np.zeros(3)) for T, tilt in zip(poses, tilts, strict=True)]


def _at(x: float, y: float, z: float, yaw_deg: float) -> Transform:
    return make_transform(rotation_exp([0, 0, np.radians(yaw_deg)]), [x, y, z])


def _at_height(T: Transform, z: float) -> Transform:
    return make_transform(T[:3, :3], [T[0, 3], T[1, 3], z])


def _see(world: World, T_world_base: Transform, noise_seed: int) -> tuple[Image, np.ndarray]:
    return world.render(camera(), T_world_base @ camera().T_base_camera, Lighting(noise_seed=noise_seed))


def _clean(world: World, T_world_base: Transform) -> Image:
    return world.render(camera(), T_world_base @ camera().T_base_camera, replace(DAY, noise_std=0.0))[0]


def _noisy(image: Image, std: float, rng: np.random.Generator) -> Image:
    return np.clip(image + std * rng.standard_normal(image.shape, np.float32), 0, 255).astype(np.uint8)


def _frame(i: int, every_s: float, image: Image, T_odom_base: Transform | None) -> Frame:
    return Frame(START_NS + round(i * every_s * 1e9), image, f"{i:06d}", T_odom_base)
