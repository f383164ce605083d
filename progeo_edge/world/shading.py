"""Baked light: for every quad a small picture of the light that falls on it."""

from __future__ import annotations

from typing import TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.types import Image
from progeo_edge.world.lighting import Lighting
from progeo_edge.world.scene import FloatArray, Quad, Scene

LIGHT_ONE = 128
"""Value in a light map that leaves the texture's brightness as it is."""

FloatMap: TypeAlias = NDArray[np.float32]

_TEXELS_PER_M = 3.0
_RASTER_PX_PER_M = 4.0
_OFFSET_M = 0.3
_INDOOR_LAMPS = 0.07
_LAMP_COLOUR = np.array([0.55, 0.85, 1.15])


class LightBaker:
    """Computes light maps: sun with shadows from a height raster, sky light with contact shadows, lamps."""

    def __init__(self, scene: Scene, lighting: Lighting) -> None:
        self._scene = scene
        self._lighting = lighting
        self._heights = _rasterise(scene)
        covered = (self._heights > 0.3).astype(np.float32)
        self._enclosure = cast(FloatMap, cv2.GaussianBlur(covered, (0, 0), 0.5 * _RASTER_PX_PER_M))
        self._shadow = _shadow_heights(self._heights, lighting)

    def bake(self, quad: Quad) -> Image:
        """Light on one quad: (h, w, 3) uint8, LIGHT_ONE meaning 1.0; first texel at u = 0, last at u = 1."""
        points = _grid(quad) + _OFFSET_M * quad.normal
        light = self._sky_light(quad, points) + self._lamp_light(quad, points)
        if not self._scene.indoor and self._lighting.sun > 0:
            light += self._sun_light(quad, points)
        return np.clip(np.rint(light * LIGHT_ONE), 0, 255).astype(np.uint8)

    def _sky_light(self, quad: Quad, points: FloatArray) -> FloatArray:
        if self._scene.indoor:
            openness = np.ones(points.shape[:2])
        elif quad.normal[2] > 0.5:
            openness = 1.0 - 0.55 * self._sample(self._enclosure, points)
        else:
            openness = 0.72 + 0.28 * np.clip(points[..., 2] / 3.0, 0.0, 1.0)
        return openness[..., None] * self._lighting.ambient_colour()

    def _sun_light(self, quad: Quad, points: FloatArray) -> FloatArray:
        sun = self._lighting.sun_direction()
        if quad.cutout:
            facing, lit = 0.6, np.ones(points.shape[:2])
        else:
            facing = max(0.0, float(quad.normal @ sun)) ** 0.7
            lit = np.clip((points[..., 2] - self._sample(self._shadow, points)) / 0.3 + 0.5, 0.0, 1.0)
        return facing * lit[..., None] * self._lighting.sun_colour()

    def _lamp_light(self, quad: Quad, points: FloatArray) -> FloatArray:
        strength = _INDOOR_LAMPS if self._scene.indoor else self._lighting.lamps
        total = np.zeros((*points.shape[:2], 3))
        if strength == 0:
            return total
        centre, reach = points.mean(axis=(0, 1)), 14.0 + np.linalg.norm(quad.edge_u_m) + np.linalg.norm(quad.edge_v_m)
        for lamp in self._scene.lamps_m[np.linalg.norm(self._scene.lamps_m - centre, axis=1) < reach]:
            to_lamp = lamp - points
            distance2 = np.sum(to_lamp**2, axis=2)
            cosine = np.abs(to_lamp @ quad.normal) if quad.cutout else np.clip(to_lamp @ quad.normal, 0.0, None)
            total += (14.0 * strength * cosine / np.sqrt(distance2) / (distance2 + 2.0))[..., None] * _LAMP_COLOUR
        return total

    def _sample(self, raster: FloatMap, points: FloatArray) -> FloatArray:
        x = ((points[..., 0] - self._scene.low_xy[0]) * _RASTER_PX_PER_M - 0.5).astype(np.float32)
        y = ((points[..., 1] - self._scene.low_xy[1]) * _RASTER_PX_PER_M - 0.5).astype(np.float32)
        return cast(FloatArray, cv2.remap(raster, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _grid(quad: Quad) -> FloatArray:
    lengths = np.linalg.norm(quad.edge_u_m), np.linalg.norm(quad.edge_v_m)
    columns, rows = (max(2, round(float(length) * _TEXELS_PER_M)) for length in lengths)
    u, v = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows))
    return quad.origin_m + u[..., None] * quad.edge_u_m + v[..., None] * quad.edge_v_m


def _rasterise(scene: Scene) -> FloatMap:
    """Height of what stands on each cell of the ground."""
    low, high = np.array(scene.low_xy), np.array(scene.high_xy)
    width, height = np.ceil((high - low) * _RASTER_PX_PER_M).astype(int)
    raster: FloatMap = np.zeros((int(height), int(width)), np.float32)
    for solid in sorted(scene.solids, key=lambda solid: solid.height_m):
        outline = np.rint((solid.footprint_xy - low) * _RASTER_PX_PER_M - 0.5).astype(np.int32)
        cv2.fillConvexPoly(raster, outline, solid.height_m)
    return raster


def _shadow_heights(heights: FloatMap, lighting: Lighting) -> FloatMap:
    """Per cell the height below which the sun is hidden: the raster swept away from the sun, sinking as it goes."""
    shadow: FloatMap = heights.copy()
    if lighting.sun == 0:
        return shadow
    sun = lighting.sun_direction()
    slope_m = np.tan(np.deg2rad(lighting.sun_elevation_deg)) / _RASTER_PX_PER_M
    away = -sun[:2] / np.linalg.norm(sun[:2])
    size = (heights.shape[1], heights.shape[0])
    for step in range(1, int(heights.max() / slope_m) + 1):
        shift = np.array([[1, 0, away[0] * step], [0, 1, away[1] * step]], np.float32)
        moved = cv2.warpAffine(heights, shift, size)
        np.maximum(shadow, moved - np.float32(step * slope_m), out=shadow)
    return shadow
