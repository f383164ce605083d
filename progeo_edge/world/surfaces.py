"""Procedural surfaces: noise, wall materials and ground, drawn from a random generator as uint8 BGR pictures."""

from __future__ import annotations

from typing import TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.types import Image

Rng: TypeAlias = np.random.Generator
Colour: TypeAlias = tuple[float, float, float]
"""BGR, 0 to 255."""

WALL_COLOURS: tuple[Colour, ...] = (
    (122, 168, 214),
    (150, 196, 222),
    (178, 200, 206),
    (96, 122, 190),
    (184, 172, 150),
    (150, 170, 140),
    (205, 214, 222),
    (110, 150, 176),
    (170, 150, 168),
    (128, 198, 226),
)


def value_noise(rng: Rng, height: int, width: int, cell_px: float) -> NDArray[np.float32]:
    """Smooth noise of zero mean, about -1 to 1, with features of `cell_px` pixels; (height, width) float32."""
    rows, columns = max(2, round(height / cell_px)), max(2, round(width / cell_px))
    coarse = rng.uniform(-1.0, 1.0, (rows, columns)).astype(np.float32)
    return cast(NDArray[np.float32], cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def to_image(values: NDArray[np.float32]) -> Image:
    """Clip to 0..255 and round to uint8."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def jitter(rng: Rng, colour: Colour, amount: float) -> Colour:
    """The colour with each channel changed by up to `amount` of itself."""
    b, g, r = np.clip(np.array(colour) * rng.uniform(1 - amount, 1 + amount, 3), 0, 255)
    return float(b), float(g), float(r)


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker or lighter."""
    b, g, r = (min(255.0, factor * channel) for channel in colour)
    return b, g, r


def weather(rng: Rng, image: Image, strength: float = 1.0) -> Image:
    """Grain, clouds of dirt and darker streaks under edges: what tells two walls of one material apart."""
    height, width = image.shape[:2]
    dirt = 0.07 * value_noise(rng, height, width, 70) + 0.05 * value_noise(rng, height, width, 18)
    streaks = 0.05 * value_noise(rng, 3, width, 9)[1]
    grain = 0.035 * rng.standard_normal((height, width), dtype=np.float32)
    factor = 1.0 + strength * (dirt + streaks[None, :] + grain)
    return to_image(image * factor[:, :, None])


def brick(rng: Rng, height: int, width: int, colour: Colour, brick_px: tuple[int, int] = (14, 5)) -> Image:
    """Running bond: every brick has its own shade, between lines of mortar."""
    brick_width, brick_height = brick_px
    rows = np.arange(height) // brick_height
    shifted = np.arange(width)[None, :] + (rows[:, None] % 2) * (brick_width // 2)
    columns = shifted // brick_width
    shades = rng.normal(1.0, 0.13, (rows[-1] + 1, columns.max() + 1)).astype(np.float32)
    image: Image = to_image(shades[:, :, None] * np.array(colour, np.float32))[rows[:, None], columns]
    mortar = ((np.arange(height) % brick_height) == 0)[:, None] | ((shifted % brick_width) == 0)
    image[mortar] = np.rint(0.45 * np.array(colour) + 70.0).astype(np.uint8)
    return image


def plaster(rng: Rng, height: int, width: int, colour: Colour) -> Image:
    """Painted render with patches, some of them fallen off so that the bricks beneath show."""
    image = np.full((height, width, 3), colour, np.float32)
    image *= (1.0 + 0.05 * value_noise(rng, height, width, 30))[:, :, None]
    result = to_image(image)
    bricks = brick(rng, height, width, (92, 112, 168))
    for _ in range(int(rng.integers(2, 6))):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        blob = _blob(rng, centre, float(rng.uniform(8, 26)))
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [blob], 255)
        cv2.copyTo(bricks, mask, result)
        cv2.polylines(result, [blob], True, shade(colour, 0.7), 1, cv2.LINE_AA)
    return result


def stone(rng: Rng, height: int, width: int, colour: Colour) -> Image:
    """Ashlar: large blocks with fine joints."""
    return brick(rng, height, width, colour, (int(rng.integers(34, 48)), int(rng.integers(15, 22))))


def siding(rng: Rng, height: int, width: int, colour: Colour) -> Image:
    """Horizontal boards with a shadow under each and butt joints."""
    board = int(rng.integers(8, 12))
    image = brick(rng, height, width, colour, (int(rng.integers(110, 170)), board)).astype(np.float32)
    shadow = np.where(np.arange(height) % board == board - 1, 0.65, 1.0).astype(np.float32)
    return to_image(image * shadow[:, None, None])


MATERIALS = (brick, plaster, stone, siding)


def asphalt(rng: Rng, height: int, width: int) -> Image:
    """Grey tarmac with grain, worn lanes, cracks and repaired patches."""
    grey = np.full((height, width), 92.0, np.float32)
    grey += 7.0 * value_noise(rng, height, width, 150) + 5.0 * value_noise(rng, height, width, 22)
    grey += rng.normal(0.0, 8.0, (height, width)).astype(np.float32)
    image = np.stack([grey * 1.02, grey, grey * 0.98], axis=2).astype(np.float32)
    area = height * width
    for _ in range(area // 90_000):
        _patch(rng, image)
    result = to_image(image)
    for _ in range(area // 40_000):
        _crack(rng, result)
    return result


def slabs(rng: Rng, height: int, width: int, slab_px: int) -> Image:
    """Pavement of square slabs, each of its own shade."""
    return brick(rng, height, width, (142, 148, 152), (slab_px, slab_px))


def manhole(image: Image, centre: tuple[int, int], radius: int, rng: Rng) -> None:
    """A cast-iron cover with a pattern of its own, drawn in place."""
    cv2.circle(image, centre, radius, (48, 48, 50), -1, cv2.LINE_AA)
    cv2.circle(image, centre, radius - 2, (104, 106, 110), 2, cv2.LINE_AA)
    spokes, turn = int(rng.integers(4, 9)), float(rng.uniform(0, np.pi))
    for angle in turn + np.arange(spokes) * 2 * np.pi / spokes:
        tip = (round(centre[0] + 0.7 * radius * np.cos(angle)), round(centre[1] + 0.7 * radius * np.sin(angle)))
        cv2.line(image, centre, tip, (122, 124, 128), 2, cv2.LINE_AA)
    cv2.circle(image, centre, max(2, radius // 4), (38, 38, 40), -1, cv2.LINE_AA)


def _blob(rng: Rng, centre: tuple[int, int], radius: float) -> NDArray[np.int32]:
    angles = np.linspace(0, 2 * np.pi, 11)[:-1]
    radii = radius * rng.uniform(0.6, 1.3, 10)
    points = np.stack([centre[0] + radii * np.cos(angles), centre[1] + radii * np.sin(angles)], axis=1)
    return points.astype(np.int32)


def _patch(rng: Rng, image: NDArray[np.float32]) -> None:
    height, width = image.shape[:2]
    x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
    w, h = int(rng.integers(20, 110)), int(rng.integers(20, 70))
    image[y : y + h, x : x + w] *= rng.uniform(0.72, 1.12)
    cv2.rectangle(image, (x, y), (x + w, y + h), (58, 58, 58), 2)


def _crack(rng: Rng, image: Image) -> None:
    height, width = image.shape[:2]
    steps = rng.normal(0.0, 7.0, (int(rng.integers(5, 16)), 2)) + rng.normal(0.0, 5.0, 2)
    points = np.cumsum(steps, axis=0) + np.array([rng.uniform(0, width), rng.uniform(0, height)])
    cv2.polylines(image, [points.astype(np.int32)], False, (44, 44, 46), 1, cv2.LINE_AA)
