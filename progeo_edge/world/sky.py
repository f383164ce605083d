"""Sky box with soft clouds, and the fine grain of the ground."""

from __future__ import annotations

import cv2
import numpy as np

from progeo_edge.types import Image
from progeo_edge.world.scene import Quad, Texture, opaque
from progeo_edge.world.surfaces import Rng, to_image

_FACE_PX = 192


def sky_box(rng: Rng) -> tuple[Quad, ...]:
    """Five inward faces of a unit cube round the camera: four sides and the zenith."""
    clouds = _cloud_waves(rng)
    faces = []
    for turn in range(4):
        c, s = np.round(np.cos(turn * np.pi / 2)), np.round(np.sin(turn * np.pi / 2))
        forward, right = np.array([c, s, 0.0]), np.array([s, -c, 0.0])
        faces.append((forward - right + [0, 0, 1.0], 2 * right, np.array([0, 0, -2.0])))
    faces.append((np.array([-1.0, -1.0, 1.0]), np.array([2.0, 0, 0]), np.array([0, 2.0, 0])))
    return tuple(Quad(o, u, v, Texture(opaque(_paint(o, u, v, clouds)))) for o, u, v in faces)


def grain_tile(rng: Rng) -> Image:
    """(512, 512) uint8 noise about 128 that tiles without a seam; covers 4 m of ground."""
    fine = rng.standard_normal((512, 512)).astype(np.float32)
    wrapped = cv2.copyMakeBorder(fine, 16, 16, 16, 16, cv2.BORDER_WRAP)
    soft = cv2.GaussianBlur(wrapped, (0, 0), 1.2)[16:-16, 16:-16]
    coarse = cv2.GaussianBlur(wrapped, (0, 0), 4.0)[16:-16, 16:-16]
    return to_image(128.0 + 14.0 * soft / soft.std() + 9.0 * coarse / coarse.std())


def _cloud_waves(rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    frequencies = rng.normal(0.0, 1.0, (48, 3)) * np.array([3.0, 3.0, 7.0])
    return frequencies * np.linspace(0.6, 2.6, 48)[:, None], rng.uniform(0, 2 * np.pi, 48)


def _paint(origin: np.ndarray, edge_u: np.ndarray, edge_v: np.ndarray, clouds: tuple[np.ndarray, np.ndarray]) -> Image:
    """Colour by direction only, so that neighbouring faces join."""
    steps = (np.arange(_FACE_PX) + 0.5) / _FACE_PX
    u, v = np.meshgrid(steps, steps)
    rays = origin + u[..., None] * edge_u + v[..., None] * edge_v
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    height = np.clip(rays[..., 2], 0.0, 1.0)[..., None]
    blue = np.array([232.0, 222.0, 208.0]) * (1 - height**0.55) + np.array([226.0, 160.0, 98.0]) * height**0.55
    waves = np.sin(rays @ clouds[0].T + clouds[1]) / np.linspace(0.7, 2.2, 48)
    cover = 1.0 / (1.0 + np.exp(-2.2 * (waves.sum(axis=2) / 2.6 - 0.35)))
    white = cover[..., None] * 0.8
    return to_image((blue * (1 - white) + 246.0 * white).astype(np.float32))
