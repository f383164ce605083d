"""Images with exact depth of textured quads, on the CPU: a z-buffer, ripmapped textures, baked light.

With (u, v) the position on a quad and z the depth of a pixel (x, y), the point lies on the quad and on the ray:
[edge_u edge_v origin] (u, v, 1)^T = z K^-1 (x, y, 1)^T in the camera frame. So (u/z, v/z, 1/z) is linear in the pixel:
one 3x3 matrix per quad gives its texture coordinates and the exact inverse depth. Outlines are filled with their
border pixels, so that neighbouring quads leave no crack: a quad may be up to one pixel too wide, in picture and depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.geometry import invert
from progeo_edge.types import Image, Transform
from progeo_edge.world.lighting import Lighting
from progeo_edge.world.scene import LEVELS, FloatArray, Quad, Texture
from progeo_edge.world.shading import LIGHT_ONE
from progeo_edge.world.view import (
    MIN_VOLUME,
    SKY,
    Box,
    FloatMap,
    View,
    corners_of,
    find_visible,
    in_camera,
    stack_frames,
)

_GRAIN_REACH_M = 6.4
_GRAIN_PERIOD_M = 4.0


@dataclass(frozen=True, eq=False)
class Rectilinear:
    """What an ideal pinhole sees: the shaded picture and what is needed to know its exact depth anywhere.

    Attributes:
        image: (H, W, 3) uint8 before the sensor.
        inverse_depth: (H, W) float32, 0 for the sky.
        quad_ids: (H, W) int16 index of the quad seen, -1 for the sky.
    """

    image: Image
    inverse_depth: FloatMap
    quad_ids: NDArray[np.int16]

    def depth_m(self) -> FloatMap:
        """(H, W) float32 depth along the optical axis, 0 for the sky."""
        return np.divide(1.0, self.inverse_depth, out=np.zeros_like(self.inverse_depth), where=self.inverse_depth > 0)


class QuadRenderer:
    """Draws a fixed set of quads from any pose with an ideal pinhole."""

    def __init__(self, quads: tuple[Quad, ...], sky: tuple[Quad, ...], grain: Image) -> None:
        self._quads = quads
        self._sky = sky
        self._grain = grain
        self._frames = stack_frames(quads)
        self._sky_frames = stack_frames(sky)

    def render(
        self,
        K: FloatArray,
        width_px: int,
        height_px: int,
        T_world_camera: Transform,
        lighting: Lighting,
        light_maps: tuple[Image, ...],
    ) -> Rectilinear:
        """Draw one view.

        Args:
            K: (3, 3) intrinsics without distortion.
            width_px: Image width.
            height_px: Image height.
            T_world_camera: Pose of the optical frame.
            lighting: Only sky, haze and lamps are used here; the rest is in the light maps.
            light_maps: One per quad, from `LightBaker`.
        """
        view = View(K, width_px, height_px)
        T_camera_world = invert(T_world_camera)
        frames = in_camera(self._frames, T_camera_world)
        corners = corners_of(frames)
        visible = find_visible(view, frames, corners)
        planes = np.linalg.inv(frames[visible]) @ view.K_inverse
        nearest = corners[visible, :, 2].min(axis=1)
        boxes: dict[int, tuple[int, Box]] = {}
        for i in sorted(range(len(visible)), key=lambda i: (self._quads[visible[i]].cutout, nearest[i])):
            box = self._cover(view, int(visible[i]), corners[visible[i]], planes[i])
            if box is not None:
                boxes[int(visible[i])] = i, box
        self._draw_sky(view, T_camera_world, lighting)
        for index, (i, box) in boxes.items():
            self._shade(view, index, planes[i], box, light_maps[index], lighting)
        if lighting.haze > 0:
            _add_haze(view, lighting)
        return Rectilinear(view.image, view.inverse_depth, view.ids)

    def depth_planes(self, T_world_camera: Transform) -> FloatArray:
        """(N, 3) per quad c with 1/z = c . (x/z, y/z, 1): exact depth for any ray."""
        frames = in_camera(self._frames, invert(T_world_camera))
        solid = np.abs(np.linalg.det(frames)) > MIN_VOLUME
        planes = np.zeros((len(frames), 3))
        planes[solid] = np.linalg.inv(frames[solid])[:, 2]
        return planes

    def _cover(self, view: View, index: int, corners: FloatArray, plane: FloatArray) -> Box | None:
        """Enter one quad into the z-buffer; returns the pixels it may have changed, None when it is hidden."""
        outline = view.outline(corners)
        if outline is None:
            return None
        box = outline.box
        buffer, ids = view.inverse_depth[box], view.ids[box]
        if cv2.minMaxLoc(buffer)[0] * outline.nearest_m > 1.0:
            return None
        inverse = view.linear(plane[2], box)
        nearer = inverse > buffer
        nearer &= view.fill(outline)
        view.trim(plane, outline, nearer)
        if not nearer.any():
            return None
        if self._quads[index].cutout:
            nearer &= _sample(view, plane, box, self._quads[index].texture)[:, :, 3] > 127
        np.copyto(buffer, inverse, where=nearer)
        np.copyto(ids, np.int16(index), where=nearer)
        return box

    def _shade(self, view: View, index: int, plane: FloatArray, box: Box, light_map: Image, lighting: Lighting) -> None:
        """Colour the pixels that show one quad."""
        quad = self._quads[index]
        seen = view.seen_box(index, box)
        if seen is None:
            return
        mask = (view.ids[seen] == index).view(np.uint8)
        u, v, inverse = view.coordinates(plane, seen)
        texels = _sample_at(quad.texture, u, v, view.footprint(plane, seen, quad.texture))
        colour = cast(Image, cv2.cvtColor(texels, cv2.COLOR_BGRA2BGR))
        if quad.detail:
            self._add_grain(colour, quad, u, v, inverse)
        light_rows, light_columns = light_map.shape[:2]
        light = cv2.remap(
            light_map, u * (light_columns - 1), v * (light_rows - 1), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        colour = cast(Image, cv2.multiply(colour, light, scale=1.0 / LIGHT_ONE))
        if lighting.lamps > 0 and not quad.cutout:
            glow = cv2.merge([cv2.convertScaleAbs(texels[:, :, 3], alpha=c * lighting.lamps) for c in (0.4, 0.7, 0.95)])
            colour = cast(Image, cv2.add(colour, glow))
        cv2.copyTo(colour, mask, view.image[seen])

    def _add_grain(self, colour: Image, quad: Quad, u: FloatMap, v: FloatMap, inverse: FloatMap) -> None:
        """Fine grain on the rows near the camera, fading out before it would alias."""
        nearest = inverse.max(axis=1)
        near_rows = np.flatnonzero(nearest > 1.0 / _GRAIN_REACH_M)
        if len(near_rows) == 0:
            return
        rows = slice(int(near_rows[0]), int(near_rows[-1]) + 1)
        period_px = self._grain.shape[0] / _GRAIN_PERIOD_M
        x = u[rows] * np.float32(np.linalg.norm(quad.edge_u_m) * period_px)
        y = v[rows] * np.float32(np.linalg.norm(quad.edge_v_m) * period_px)
        grain = cv2.remap(self._grain, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        fade = np.clip(1.6 - 1.6 / (_GRAIN_REACH_M * nearest[rows]), 0.0, 1.0)[:, None].astype(np.float32)
        faded = (LIGHT_ONE + fade * (grain.astype(np.float32) - LIGHT_ONE)).astype(np.uint8)
        colour[rows] = cv2.multiply(colour[rows], cv2.merge([faded, faded, faded]), scale=1.0 / LIGHT_ONE)

    def _draw_sky(self, view: View, T_camera_world: Transform, lighting: Lighting) -> None:
        if not self._sky or not (view.ids == SKY).any():
            return
        turn_only = T_camera_world.copy()
        turn_only[:3, 3] = 0.0
        frames = in_camera(self._sky_frames, turn_only)
        for quad, corners, plane in zip(
            self._sky, corners_of(frames), np.linalg.inv(frames) @ view.K_inverse, strict=True
        ):
            outline = view.outline(corners)
            if outline is None:
                continue
            box = outline.box
            mask = view.fill(outline) & (view.ids[box] == SKY)
            if mask.any():
                colour = cv2.cvtColor(_sample(view, plane, box, quad.texture), cv2.COLOR_BGRA2BGR)
                cv2.copyTo(cv2.convertScaleAbs(colour, alpha=lighting.sky), mask.view(np.uint8), view.image[box])


def _sample(view: View, plane: FloatArray, box: Box, texture: Texture) -> Image:
    u, v, _ = view.coordinates(plane, box)
    return _sample_at(texture, u, v, view.footprint(plane, box, texture))


def _sample_at(texture: Texture, u: FloatMap, v: FloatMap, levels: tuple[FloatMap, FloatMap]) -> Image:
    """(h, w, 4) texels, bilinear in the nearest ripmap level."""
    x = _to_atlas(u, levels[0], texture.sizes_u, texture.offsets_u)
    y = _to_atlas(v, levels[1], texture.sizes_v, texture.offsets_v)
    return cast(Image, cv2.remap(texture.atlas, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _to_atlas(coordinate: FloatMap, level: FloatMap, sizes: FloatMap, offsets: FloatMap) -> FloatMap:
    nearest = np.clip(np.rint(level), 0, LEVELS - 1).astype(np.intp)
    size = (coordinate.shape[1], coordinate.shape[0])
    scale = cv2.resize(sizes[nearest], size, interpolation=cv2.INTER_NEAREST)
    start = cv2.resize(offsets[nearest] - 0.5, size, interpolation=cv2.INTER_NEAREST)
    return cast(FloatMap, np.clip(coordinate, 0.0, 1.0) * scale + start)


def _add_haze(view: View, lighting: Lighting) -> None:
    """Mix in haze that grows with depth; the sky stays."""
    coarse = cv2.resize(view.inverse_depth, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_NEAREST)
    clear = np.exp(np.float32(np.log1p(-lighting.haze) / 100.0) / np.maximum(coarse, np.float32(1e-3)))
    clear[coarse == 0] = 1.0
    clear = cv2.resize(clear, (view.width, view.height), interpolation=cv2.INTER_LINEAR)
    haze = np.empty_like(view.image)
    haze[:] = np.rint(np.array([232.0, 224.0, 214.0]) * lighting.sky)
    view.image = cast(Image, cv2.blendLinear(view.image, haze, clear, 1.0 - clear))
