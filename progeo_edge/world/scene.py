"""What a world is made of: textured rectangles, their textures, lamps and the route that a robot drives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from progeo_edge.types import Image
from progeo_edge.world.lighting import DAY, Lighting

LEVELS = 6
_PAD = 2

FloatArray = NDArray[np.float64]


class Texture:
    """A picture with all its reductions by powers of two, separately along u and v (a ripmap).

    A wall seen at a grazing angle is squeezed along u only; a ripmap reduces just that axis, so the picture neither
    shimmers nor blurs. Level (i, j) lies in `atlas` at column `offsets_u[i]`, row `offsets_v[j]`, each with a
    replicated border.

    Attributes:
        image: (H, W, 4) uint8: BGR and the fourth plane: emission, or opacity for cut-outs.
        atlas: All levels in one picture.
        offsets_u: (LEVELS,) float32 column of the first texel of each level.
        offsets_v: (LEVELS,) float32 row of the first texel of each level.
        sizes_u: (LEVELS,) float32 width of each level in texels.
        sizes_v: (LEVELS,) float32 height of each level in texels.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        height, width = image.shape[:2]
        widths = [max(1, width >> i) for i in range(LEVELS)]
        heights = [max(1, height >> j) for j in range(LEVELS)]
        self.sizes_u, self.sizes_v = np.array(widths, np.float32), np.array(heights, np.float32)
        self.offsets_u, self.offsets_v = _starts(widths), _starts(heights)
        self.atlas = np.empty((sum(heights) + 2 * _PAD * LEVELS, sum(widths) + 2 * _PAD * LEVELS, 4), np.uint8)
        column = image
        for i, w in enumerate(widths):
            column = _reduce(column, w, height)
            level = column
            for j, h in enumerate(heights):
                level = _reduce(level, w, h)
                padded = cv2.copyMakeBorder(level, _PAD, _PAD, _PAD, _PAD, cv2.BORDER_REPLICATE)
                y, x = int(self.offsets_v[j]) - _PAD, int(self.offsets_u[i]) - _PAD
                self.atlas[y : y + h + 2 * _PAD, x : x + w + 2 * _PAD] = padded


def _reduce(image: Image, width: int, height: int) -> Image:
    if image.shape[:2] == (height, width):
        return image
    return cast(Image, cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def _starts(sizes: Sequence[int]) -> NDArray[np.float32]:
    padded = np.array([0, *sizes[:-1]]) + np.array([0] + [2 * _PAD] * (len(sizes) - 1))
    return cast(NDArray[np.float32], (np.cumsum(padded) + _PAD).astype(np.float32))


def opaque(image: Image) -> Image:
    """(H, W, 3) to (H, W, 4) with a zero fourth plane: nothing glows."""
    return np.dstack([image, np.zeros(image.shape[:2], np.uint8)])


@dataclass(frozen=True, eq=False)
class Quad:
    """A textured parallelogram: point(u, v) = origin + u * edge_u + v * edge_v, u and v from 0 to 1.

    Seen from its front, u runs right and v runs down; from behind it is invisible.

    Attributes:
        origin_m: (3,) top left corner in the world frame (x east, y north, z up).
        edge_u_m: (3,) vector to the top right corner.
        edge_v_m: (3,) vector to the bottom left corner.
        texture: What is painted on it.
        cutout: The texture's fourth plane is opacity, and its clear parts let the background through.
        detail: The surface carries the renderer's fine grain where it is near (ground).
    """

    origin_m: FloatArray
    edge_u_m: FloatArray
    edge_v_m: FloatArray
    texture: Texture
    cutout: bool = False
    detail: bool = False

    @property
    def normal(self) -> FloatArray:
        """Unit normal towards the viewer."""
        normal = np.cross(self.edge_v_m, self.edge_u_m)
        return cast(FloatArray, normal / np.linalg.norm(normal))


def wall(left_xy: ArrayLike, right_xy: ArrayLike, bottom_m: float, top_m: float, texture: Texture) -> Quad:
    """Vertical rectangle from left to right as its viewer sees it."""
    left, right = np.asarray(left_xy, np.float64), np.asarray(right_xy, np.float64)
    along = np.append(right - left, 0.0)
    return Quad(np.append(left, top_m), along, np.array([0.0, 0.0, bottom_m - top_m]), texture)


def slab(low_xy: ArrayLike, high_xy: ArrayLike, height_m: float, texture: Texture, *, detail: bool = False) -> Quad:
    """Horizontal rectangle seen from above; u runs along x, v along -y."""
    (x0, y0), (x1, y1) = np.asarray(low_xy, np.float64), np.asarray(high_xy, np.float64)
    return Quad(
        np.array([x0, y1, height_m]), np.array([x1 - x0, 0, 0.0]), np.array([0, y0 - y1, 0.0]), texture, detail=detail
    )


@dataclass(frozen=True, eq=False)
class Solid:
    """A footprint that throws a shadow.

    Attributes:
        footprint_xy: (N, 2) convex outline in metres.
        height_m: How high it is.
    """

    footprint_xy: FloatArray
    height_m: float


@dataclass(frozen=True)
class Leg:
    """One straight stretch of a route.

    Attributes:
        to_xy: Where it ends, on the centre line of the street.
        label: What this stretch is for: "first pass", "revisit", "reverse", ...
        lateral_m: Distance to the right of the centre line.
        lighting: The light during this stretch.
    """

    to_xy: tuple[float, float]
    label: str = "first pass"
    lateral_m: float = 1.0
    lighting: Lighting = DAY


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that the renderer needs.

    Attributes:
        quads: All surfaces.
        solids: What throws shadows.
        low_xy: Lower corner of the mapped area.
        high_xy: Upper corner.
        lamps_m: (N, 3) positions of lamps.
        indoor: Lit by the lamps and evenly, never by the sun; no sky.
        start_xy: Where the route begins.
        route: Its legs.
    """

    quads: tuple[Quad, ...]
    low_xy: tuple[float, float]
    high_xy: tuple[float, float]
    solids: tuple[Solid, ...] = ()
    lamps_m: FloatArray = field(default_factory=lambda: np.zeros((0, 3)))
    indoor: bool = False
    start_xy: tuple[float, float] = (0.0, 0.0)
    route: tuple[Leg, ...] = ()
