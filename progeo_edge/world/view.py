"""Pixel arithmetic of one pinhole view: which quads are in it, where they fall, where on them a pixel looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.types import Transform
from progeo_edge.world.scene import FloatArray, Quad, Texture

NEAR_M = 0.05
SKY = -1
"""Quad index of the pixels that show no quad."""
MIN_VOLUME = 1e-6
"""Determinant of a quad's frame under which the camera lies in its plane."""
GRID_PX = 8
"""Texture levels are chosen on every so-many-th pixel."""

_CLIP_OFFSETS = np.array([NEAR_M, 0.0, 0.0, 0.0, 0.0])
_LEVEL_BIAS = -0.15
_MAX_STEEPNESS = 0.2

FloatMap: TypeAlias = NDArray[np.float32]
Box: TypeAlias = tuple[slice, slice]
"""Rows and columns of an image."""


@dataclass(frozen=True, eq=False)
class Outline:
    """Where the visible part of a quad falls in an image.

    Attributes:
        polygon_px: (N, 2) corners.
        nearest_m: Smallest depth.
        farthest_m: Largest depth.
        box: Bounding box within the image.
    """

    polygon_px: FloatArray
    nearest_m: float
    farthest_m: float
    box: Box


class View:
    """Buffers and pixel arithmetic of one image."""

    def __init__(self, K: FloatArray, width: int, height: int) -> None:
        self.K, self.K_inverse = K, np.linalg.inv(K)
        self.width, self.height = width, height
        self.image = np.zeros((height, width, 3), np.uint8)
        self.inverse_depth = np.zeros((height, width), np.float32)
        self.ids = np.full((height, width), SKY, np.int16)
        self._x = np.arange(width, dtype=np.float32)
        self._y = np.arange(height, dtype=np.float32)[:, None]
        tan_x = np.array([[-0.5, 0, 1], [width - 0.5, 0, 1]]) @ self.K_inverse.T
        tan_y = np.array([[0, -0.5, 1], [0, height - 0.5, 1]]) @ self.K_inverse.T
        self.clip_planes = np.array(
            [[0, 0, 1], [1, 0, -tan_x[0, 0]], [-1, 0, tan_x[1, 0]], [0, 1, -tan_y[0, 1]], [0, -1, tan_y[1, 1]]]
        )

    def linear(self, row: FloatArray, box: Box) -> FloatMap:
        """The product row . (x, y, 1) over a box of pixels."""
        a, b, c = row.astype(np.float32)
        return cast(FloatMap, (a * self._x[box[1]]) + (b * self._y[box[0]] + c))

    def coordinates(self, plane: FloatArray, box: Box) -> tuple[FloatMap, FloatMap, FloatMap]:
        """u, v and 1/z over a box of pixels."""
        inverse = self.linear(plane[2], box)
        depth = np.float32(1.0) / np.where(np.abs(inverse) < 1e-6, np.float32(1e-6), inverse)
        return self.linear(plane[0], box) * depth, self.linear(plane[1], box) * depth, inverse

    def footprint(self, plane: FloatArray, box: Box, texture: Texture) -> tuple[FloatMap, FloatMap]:
        """Ripmap levels along u and v on a grid of every `GRID_PX`-th pixel."""
        coarse = slice(box[0].start, box[0].stop, GRID_PX), slice(box[1].start, box[1].stop, GRID_PX)
        u, v, inverse = self.coordinates(plane, coarse)
        levels = []
        for row, coordinate, size in ((0, u, texture.sizes_u[0]), (1, v, texture.sizes_v[0])):
            along_x = plane[row, 0] - coordinate * plane[2, 0]
            along_y = plane[row, 1] - coordinate * plane[2, 1]
            texels = np.hypot(along_x, along_y) * size / np.maximum(np.abs(inverse), 1e-6)
            levels.append(np.log2(np.maximum(texels, 1e-6)) + _LEVEL_BIAS)
        return levels[0].astype(np.float32), levels[1].astype(np.float32)

    def outline(self, corners: FloatArray) -> Outline | None:
        """Where the visible part of a quad falls; None when nothing of it is in view."""
        polygon = _clip(corners, self.clip_planes)
        if len(polygon) < 3:
            return None
        projected = polygon @ self.K.T
        pixels = projected[:, :2] / projected[:, 2:]
        (x0, y0), (x1, y1) = np.floor(pixels.min(axis=0)), np.ceil(pixels.max(axis=0)) + 1
        left, top, right, bottom = max(0, int(x0)), max(0, int(y0)), min(self.width, int(x1)), min(self.height, int(y1))
        if right <= left or bottom <= top:
            return None
        box = slice(top, bottom), slice(left, right)
        return Outline(pixels, float(polygon[:, 2].min()), float(polygon[:, 2].max()), box)

    def fill(self, outline: Outline) -> NDArray[np.bool_]:
        """Mask over the outline's box: the polygon with its border pixels."""
        rows, columns = outline.box
        mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        corners = np.rint((outline.polygon_px - [columns.start, rows.start]) * 16).astype(np.int32)
        cv2.fillConvexPoly(mask, corners, 1, shift=4)
        return mask.view(np.bool_)

    def trim(self, plane: FloatArray, outline: Outline, mask: NDArray[np.bool_]) -> None:
        """Take the border pixels of a quad seen edge-on out of a mask.

        Their centres lie outside the quad. On most quads their depth is still right to a few per cent; on one seen
        edge-on it may be anything.
        """
        if np.hypot(plane[2, 0], plane[2, 1]) * outline.farthest_m < _MAX_STEEPNESS:
            return
        u, v, inverse = (self.linear(row, outline.box) for row in plane)
        mask &= (u >= 0) & (u <= inverse) & (v >= 0) & (v <= inverse)

    def seen_box(self, index: int, box: Box) -> Box | None:
        """The part of `box` that shows a quad; None when nearer ones hid it after all."""
        x, y, w, h = cv2.boundingRect((self.ids[box] == index).view(np.uint8))
        if w == 0:
            return None
        top, left = box[0].start + y, box[1].start + x
        return slice(top, top + h), slice(left, left + w)


def stack_frames(quads: tuple[Quad, ...]) -> FloatArray:
    """(N, 3, 3): columns edge_u, edge_v, origin."""
    return np.array([np.stack([q.edge_u_m, q.edge_v_m, q.origin_m], axis=1) for q in quads]).reshape(-1, 3, 3)


def in_camera(frames: FloatArray, T_camera_world: Transform) -> FloatArray:
    """The same frames in camera coordinates."""
    result = T_camera_world[:3, :3] @ frames
    result[:, :, 2] += T_camera_world[:3, 3]
    return result


def corners_of(frames: FloatArray) -> FloatArray:
    """(N, 3, 3) frames to (N, 4, 3) corners in order round the quad."""
    edge_u, edge_v, origin = frames[:, :, 0], frames[:, :, 1], frames[:, :, 2]
    return np.stack([origin, origin + edge_u, origin + edge_u + edge_v, origin + edge_v], axis=1)


def find_visible(view: View, frames: FloatArray, corners: FloatArray) -> NDArray[np.intp]:
    """Quads that face the camera and are not wholly outside one side of the view."""
    volume = np.einsum("ij,ij->i", np.cross(frames[:, :, 0], frames[:, :, 1]), frames[:, :, 2])
    outside = (corners @ view.clip_planes.T < _CLIP_OFFSETS).all(axis=1).any(axis=1)
    return np.flatnonzero((volume > MIN_VOLUME) & ~outside)


def _clip(polygon: FloatArray, planes: FloatArray) -> FloatArray:
    """Sutherland-Hodgman: the part of a convex polygon on the positive side of all planes."""
    if (polygon @ planes.T >= _CLIP_OFFSETS).all():
        return polygon
    for plane, offset in zip(planes, _CLIP_OFFSETS, strict=True):
        distance = polygon @ plane - offset
        if distance.min() >= 0:
            continue
        kept = []
        for i in range(len(polygon)):
            j = (i + 1) % len(polygon)
            if distance[i] >= 0:
                kept.append(polygon[i])
            if (distance[i] >= 0) != (distance[j] >= 0):
                kept.append(polygon[i] + distance[i] / (distance[i] - distance[j]) * (polygon[j] - polygon[i]))
        polygon = np.array(kept).reshape(-1, 3)
        if len(polygon) < 3:
            break
    return polygon
