"""A drive along a world's route: true poses at a steady frame rate, and the odometry of a robot that drifts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from progeo_edge.geometry import invert, make_transform, rotation_angle, rotation_exp
from progeo_edge.types import Transform
from progeo_edge.world.lighting import Lighting
from progeo_edge.world.scene import FloatArray, Leg
from progeo_edge.world.world import World

START_NS = 1_700_000_000_000_000_000
_STEP_M = 0.05
_CORNER_RADIUS_M = 5.0
_BLEND_M = 6.0


@dataclass(frozen=True, slots=True)
class DriftModel:
    """How wheel odometry goes wrong. Standard deviations of a whole drive's constants and of its random walks.

    Attributes:
        scale_std: Constant error of the distance per metre.
        yaw_bias_deg_per_m: Constant turn per metre.
        yaw_walk_deg_per_sqrt_m: Random walk of the heading.
        translation_walk_m_per_sqrt_m: Random walk of the position.
        tilt_std_deg: Error of roll and pitch, which an inertial unit keeps bounded.
    """

    scale_std: float = 0.01
    yaw_bias_deg_per_m: float = 0.025
    yaw_walk_deg_per_sqrt_m: float = 0.2
    translation_walk_m_per_sqrt_m: float = 0.015
    tilt_std_deg: float = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class DriveStep:
    """One frame of a drive.

    Attributes:
        stamp_ns: Time.
        T_world_base: True pose of the base (x forward, y left, z up).
        T_odom_base: Pose by drifting odometry, identity at the start but for tilt.
        lighting: Light and sensor of this frame.
        label: What the robot is doing: the label of the route's leg.
    """

    stamp_ns: int
    T_world_base: Transform
    T_odom_base: Transform
    lighting: Lighting
    label: str


def simulate_drive(
    world: World,
    seed: int = 0,
    *,
    frame_rate_hz: float = 4.0,
    speed_m_per_s: float = 3.0,
    drift: DriftModel | None = None,
    max_frames: int | None = None,
) -> tuple[DriveStep, ...]:
    """Drive the route of a world once, slower round corners, never exactly along the line.

    Args:
        world: Where.
        seed: Decides the wander, the bumps, the drift and the sensor noise.
        frame_rate_hz: Frames per second.
        speed_m_per_s: Speed on straight stretches.
        drift: Odometry's errors; None takes the defaults.
        max_frames: Give only so many frames; they are the first ones of the whole drive.
    """
    rng = np.random.default_rng([seed, 11])
    legs = world.scene.route
    centre_line, leg_of_point = _centre_line(np.array(world.scene.start_xy), legs)
    path = _shift(centre_line, _lateral_offsets(rng, leg_of_point, legs))
    travelled = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    heading = np.unwrap(np.arctan2(*np.gradient(path, axis=0).T[::-1]))
    stops = _distances_at_frames(travelled, heading, speed_m_per_s, frame_rate_hz)
    truth = _poses(rng, path, travelled, heading, stops)
    odometry = _drifting_odometry(rng, truth, drift or DriftModel())
    leg_indices = leg_of_point[np.searchsorted(travelled, stops).clip(0, len(leg_of_point) - 1)]
    exposures = 1.0 + 0.04 * _wander(rng, stops, 40.0)
    return tuple(
        DriveStep(
            stamp_ns=START_NS + round(i * 1e9 / frame_rate_hz),
            T_world_base=truth[i],
            T_odom_base=odometry[i],
            lighting=_light_of(legs[leg_indices[i]], float(exposures[i]), seed * 100_000 + i),
            label=legs[leg_indices[i]].label,
        )
        for i in range(len(stops))[:max_frames]
    )


def is_same_place(
    T_world_base_a: Transform,
    T_world_base_b: Transform,
    *,
    max_distance_m: float = 8.0,
    max_angle_deg: float = 45.0,
) -> bool:
    """Whether two poses see the same place: near each other and looking the same way."""
    T_a_b = invert(T_world_base_a) @ T_world_base_b
    near = bool(np.linalg.norm(T_a_b[:3, 3]) <= max_distance_m)
    return near and bool(np.rad2deg(rotation_angle(T_a_b[:3, :3])) <= max_angle_deg)


def _centre_line(start_xy: FloatArray, legs: Sequence[Leg]) -> tuple[FloatArray, np.ndarray]:
    """(N, 2) points every `_STEP_M` along the legs, corners rounded; and (N,) the leg that each point belongs to."""
    nodes = np.array([start_xy, *(leg.to_xy for leg in legs)])
    points: list[FloatArray] = []
    owners: list[np.ndarray] = []
    begin = nodes[0]
    for i in range(len(legs)):
        end, is_last = nodes[i + 1], i + 1 == len(legs)
        along = (end - nodes[i]) / np.linalg.norm(end - nodes[i])
        turns = not is_last and abs(float(along @ _direction(end, nodes[i + 2]))) < 0.99
        stop = end - _CORNER_RADIUS_M * along if turns else end
        points.append(_straight(begin, stop))
        owners.append(np.full(len(points[-1]), i))
        begin = end
        if turns:
            begin = end + _CORNER_RADIUS_M * _direction(end, nodes[i + 2])
            points.append(_arc(stop, end, begin))
            owners.append(np.where(np.arange(len(points[-1])) < len(points[-1]) / 2, i, i + 1))
    return np.concatenate(points), np.concatenate(owners)


def _direction(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.asarray((b - a) / np.linalg.norm(b - a))


def _straight(a: FloatArray, b: FloatArray) -> FloatArray:
    count = max(1, round(float(np.linalg.norm(b - a)) / _STEP_M))
    return np.asarray(a + (np.arange(count) / count)[:, None] * (b - a))


def _arc(a: FloatArray, corner: FloatArray, b: FloatArray) -> FloatArray:
    """Quarter circle from a to b, tangent to both streets that meet in the corner."""
    centre = a + b - corner
    count = max(2, round(0.5 * np.pi * _CORNER_RADIUS_M / _STEP_M))
    angles = 0.5 * np.pi * np.arange(count)[:, None] / count
    return np.asarray(centre + np.cos(angles) * (a - centre) + np.sin(angles) * (b - centre))


def _lateral_offsets(rng: np.random.Generator, leg_of_point: np.ndarray, legs: Sequence[Leg]) -> FloatArray:
    """Distance to the right of the centre line, without steps between legs, with a slow wander."""
    wanted = np.array([leg.lateral_m for leg in legs])[leg_of_point]
    reach = round(_BLEND_M / _STEP_M)
    window = np.hanning(2 * reach + 1)
    blended = np.convolve(np.pad(wanted, reach, mode="edge"), window / window.sum(), mode="valid")
    return np.asarray(blended + 0.1 * _wander(rng, _STEP_M * np.arange(len(wanted), dtype=np.float64), 15.0))


def _wander(rng: np.random.Generator, distance_m: FloatArray, wavelength_m: float) -> FloatArray:
    """Smooth signal of unit size along the way."""
    phases, stretch = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.7, 1.4, 3)
    waves = [
        np.sin(2 * np.pi * distance_m / (wavelength_m * s * k) + p)
        for p, s, k in zip(phases, stretch, (1, 1.9, 3.3), strict=True)
    ]
    return np.asarray(sum(waves) / np.sqrt(1.5))


def _shift(line: FloatArray, right_m: FloatArray) -> FloatArray:
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    return np.asarray(line + right_m[:, None] * np.stack([tangent[:, 1], -tangent[:, 0]], axis=1))


def _distances_at_frames(travelled: FloatArray, heading: FloatArray, speed: float, rate_hz: float) -> FloatArray:
    """(N,) distance travelled at every frame; lateral acceleration stays below 1.2 m/s^2."""
    smooth = np.convolve(np.pad(np.gradient(heading, travelled), 40, mode="edge"), np.ones(81) / 81, mode="valid")
    allowed = np.minimum(speed, np.sqrt(1.2 / np.maximum(np.abs(smooth), 1e-3)))
    stops, position = [], 0.0
    while position < travelled[-1]:
        stops.append(position)
        position += float(np.interp(position, travelled, allowed)) / rate_hz
    return np.array(stops)


def _poses(
    rng: np.random.Generator, path: FloatArray, travelled: FloatArray, heading: FloatArray, stops: FloatArray
) -> list[Transform]:
    x, y, yaw = (np.interp(stops, travelled, values) for values in (path[:, 0], path[:, 1], heading))
    yaw = yaw + np.deg2rad(0.8) * _wander(rng, stops, 11.0)
    pitch, roll = (np.deg2rad(0.4) * _wander(rng, stops, 6.0) for _ in range(2))
    return [make_transform(_rotation(yaw[i], pitch[i], roll[i]), [x[i], y[i], 0.0]) for i in range(len(stops))]


def _rotation(yaw: float, pitch: float, roll: float) -> FloatArray:
    return np.asarray(rotation_exp([0, 0, yaw]) @ rotation_exp([0, pitch, 0]) @ rotation_exp([roll, 0, 0]))


def _drifting_odometry(rng: np.random.Generator, truth: list[Transform], drift: DriftModel) -> list[Transform]:
    """Integrate the true motion in the plane with errors; roll and pitch as an inertial unit gives them."""
    scale = 1.0 + drift.scale_std * rng.standard_normal()
    yaw_bias = np.deg2rad(drift.yaw_bias_deg_per_m) * rng.standard_normal()
    position, yaw = np.zeros(2), 0.0
    odometry: list[Transform] = []
    for i, T_world_base in enumerate(truth):
        if i > 0:
            before = truth[i - 1]
            step_xy = (T_world_base - before)[:2, 3]
            length = float(np.linalg.norm(step_xy))
            forward = _planar_rotation(-_yaw_of(before)) @ step_xy
            forward = scale * forward + drift.translation_walk_m_per_sqrt_m * np.sqrt(length) * rng.standard_normal(2)
            position = position + _planar_rotation(yaw) @ forward
            turn = _yaw_of(T_world_base) - _yaw_of(before)
            walk = np.deg2rad(drift.yaw_walk_deg_per_sqrt_m) * np.sqrt(length) * rng.standard_normal()
            yaw += float((turn + np.pi) % (2 * np.pi) - np.pi + yaw_bias * length + walk)
        pitch, roll = _tilt_of(T_world_base) + np.deg2rad(drift.tilt_std_deg) * rng.standard_normal(2)
        odometry.append(make_transform(_rotation(yaw, pitch, roll), [*position, 0.0]))
    return odometry


def _yaw_of(T: Transform) -> float:
    return float(np.arctan2(T[1, 0], T[0, 0]))


def _tilt_of(T: Transform) -> FloatArray:
    return np.array([np.arcsin(-T[2, 0]), np.arctan2(T[2, 1], T[2, 2])])


def _planar_rotation(angle: float) -> FloatArray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _light_of(leg: Leg, exposure: float, noise_seed: int) -> Lighting:
    return replace(leg.lighting, exposure=leg.lighting.exposure * exposure, noise_seed=noise_seed)
