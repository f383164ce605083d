"""Matches with exact truth: simulated points seen by two cameras, and pairs of rendered street views."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from progeo_edge.geometry import Camera, FloatArray, invert, make_transform, rotation_angle, rotation_exp, se3_log
from progeo_edge.types import Image, LocalFeatures, ScaleSource, Transform, Verification
from progeo_edge.world import StreetWorld, World, forward_camera, simulate_drive

SIZE = (640, 480)


def pinhole(distortion: tuple[float, ...] = (), mounting: Transform | None = None) -> Camera:
    K = np.array([[420.0, 0, 319.5], [0, 420.0, 239.5], [0, 0, 1]])
    return Camera("pinhole", *SIZE, K, np.array(distortion), np.eye(4) if mounting is None else mounting)


def fisheye() -> Camera:
    K = np.array([[260.0, 0, 319.5], [0, 260.0, 239.5], [0, 0, 1]])
    return Camera("fisheye", *SIZE, K, np.array([0.03, -0.01, 0.002, 0.0]))


def scattered_points(rng: np.random.Generator, count: int) -> FloatArray:
    """(count, 3) in the optical frame of the reference, 4 to 20 m away."""
    z = rng.uniform(4, 20, count)
    return np.column_stack([rng.uniform(-0.6, 0.6, count) * z, rng.uniform(-0.45, 0.45, count) * z, z])


def planar_points(rng: np.random.Generator, count: int) -> FloatArray:
    """(count, 3) on one slanted wall."""
    x, y = rng.uniform(-5, 5, count), rng.uniform(-3.5, 3.5, count)
    return np.column_stack([x, y, 8.0 + 0.3 * x])


def seen(
    rng: np.random.Generator,
    points_m: FloatArray,
    T_reference_query: Transform,
    query_camera: Camera,
    reference_camera: Camera,
    *,
    noise_px: float = 0.5,
    outliers: int = 0,
    points: str = "",
) -> tuple[LocalFeatures, LocalFeatures]:
    """Features of query and reference whose descriptors match one to one.

    Args:
        rng: Noise and descriptors.
        points_m: (N, 3) in the reference camera's optical frame.
        T_reference_query: Of the cameras.
        query_camera: Calibration of the query.
        reference_camera: Calibration of the reference.
        noise_px: Standard deviation per coordinate.
        outliers: Matches more, whose positions are random.
        points: Which sides carry points: any of "q" and "r".
    """
    in_query = (points_m - T_reference_query[:3, 3]) @ T_reference_query[:3, :3]
    query_px, reference_px = query_camera.project(in_query), reference_camera.project(points_m)
    keep = (in_query[:, 2] > 0.5) & _inside(query_px) & _inside(reference_px)
    sides = []
    count = int(keep.sum()) + outliers
    descriptors = rng.integers(0, 256, (count, 32), dtype=np.uint8)
    order = rng.permutation(count)
    for name, pixels, cloud in (("q", query_px, in_query), ("r", reference_px, points_m)):
        wrong_px = rng.uniform((0, 0), SIZE, (outliers, 2))
        noisy = np.vstack([pixels[keep] + noise_px * rng.standard_normal((count - outliers, 2)), wrong_px])
        depth_m = np.concatenate([cloud[keep, 2], rng.uniform(4, 20, outliers)])
        camera = query_camera if name == "q" else reference_camera
        measured = np.column_stack([camera.normalise(noisy), np.ones(count)]) * depth_m[:, None]
        shuffled = order if name == "q" else np.arange(count)
        sides.append(
            LocalFeatures(
                "orb",
                noisy[shuffled].astype(np.float32),
                np.full(count, 31.0, dtype=np.float32),
                descriptors[shuffled],
                SIZE,
                measured[shuffled].astype(np.float32) if name in points else None,
                ScaleSource.DEPTH if name in points else ScaleSource.NONE,
            )
        )
    return sides[0], sides[1]


def _inside(pixels: FloatArray) -> NDArray[np.bool_]:
    return np.asarray(((pixels > 0) & (pixels < np.array(SIZE) - 1)).all(axis=1))


def move(x_m: float, y_m: float, z_m: float, *rotation_deg: float) -> Transform:
    """A relative pose from metres and a rotation vector in degrees."""
    return make_transform(rotation_exp(np.radians(rotation_deg or (0.0, 0.0, 0.0))), [x_m, y_m, z_m])


def pose(result: Verification) -> Transform:
    assert result.T_reference_query is not None
    return result.T_reference_query


def covariance(result: Verification) -> FloatArray:
    assert result.covariance is not None
    return result.covariance


def nees(result: Verification, truth: Transform) -> float:
    """e^T Sigma^-1 e per degree of freedom: one where the covariance says the truth."""
    error = se3_log(invert(pose(result)) @ truth)
    return float(error @ np.linalg.solve(covariance(result), error)) / 6


def rotation_error_deg(T: Transform, truth: Transform) -> float:
    return float(np.degrees(rotation_angle(T[:3, :3].T @ truth[:3, :3])))


def direction_error_deg(direction: FloatArray, truth: FloatArray) -> float:
    cosine = direction @ truth / np.linalg.norm(direction) / np.linalg.norm(truth)
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


@cache
def street(seed: int = 0) -> World:
    return StreetWorld(seed)


@cache
def base_poses(seed: int = 0) -> tuple[Transform, ...]:
    return tuple(step.T_world_base for step in simulate_drive(street(seed), seed))


@cache
def street_camera() -> Camera:
    return forward_camera(*SIZE, baseline_m=0.12)


@cache
def view(index: int, T_here_there: bytes = b"", seed: int = 0) -> tuple[Image, Image, NDArray[np.float32]]:
    """Left, right and depth from pose `index` of the drive, moved by a (4, 4) transform given as bytes."""
    camera = street_camera()
    T = base_poses(seed)[index]
    if T_here_there:
        T = T @ np.frombuffer(T_here_there).reshape(4, 4)
    return street(seed).render_stereo(camera, T @ camera.T_base_camera)


def lens_view(camera: Camera, T_world_base: Transform) -> tuple[Image, NDArray[np.float32]]:
    """Image and depth through any lens."""
    return street().render(camera, T_world_base @ camera.T_base_camera)
