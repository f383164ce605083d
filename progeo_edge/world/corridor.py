"""A corridor in which every few metres look exactly like the next few."""

from __future__ import annotations

import cv2
import numpy as np

from progeo_edge.types import Image
from progeo_edge.world.scene import Leg, Quad, Scene, Texture, opaque, slab, wall
from progeo_edge.world.surfaces import Rng, plaster, slabs, weather

PERIOD_M = 4.0
HALF_WIDTH_M = 1.4
HEIGHT_M = 2.7
_PX_PER_M = 64


def build_corridor(seed: int, length_m: float) -> Scene:
    """A straight corridor along x, one period of it copied over and over; walls at both ends."""
    rng = np.random.default_rng([seed, 5])
    left, right = Texture(opaque(_wall(rng))), Texture(opaque(_wall(rng)))
    floor, ceiling, end = Texture(opaque(_floor(rng))), Texture(opaque(_ceiling(rng))), Texture(opaque(_wall(rng)))
    starts = np.arange(0.0, length_m, PERIOD_M)
    quads: list[Quad] = []
    for x0 in starts:
        x1 = x0 + PERIOD_M
        quads.append(wall((x0, HALF_WIDTH_M), (x1, HALF_WIDTH_M), 0.0, HEIGHT_M, left))
        quads.append(wall((x1, -HALF_WIDTH_M), (x0, -HALF_WIDTH_M), 0.0, HEIGHT_M, right))
        quads.append(slab((x0, -HALF_WIDTH_M), (x1, HALF_WIDTH_M), 0.0, floor))
        quads.append(
            Quad(
                np.array([x0, -HALF_WIDTH_M, HEIGHT_M]),
                np.array([PERIOD_M, 0, 0]),
                np.array([0, 2 * HALF_WIDTH_M, 0]),
                ceiling,
            )
        )
    far = float(starts[-1] + PERIOD_M)
    quads.append(wall((far, HALF_WIDTH_M), (far, -HALF_WIDTH_M), 0.0, HEIGHT_M, end))
    quads.append(wall((0.0, -HALF_WIDTH_M), (0.0, HALF_WIDTH_M), 0.0, HEIGHT_M, end))
    lamps = np.stack([starts + 0.5 * PERIOD_M, 0 * starts, 0 * starts + HEIGHT_M - 0.1], axis=1)
    return Scene(
        quads=tuple(quads),
        low_xy=(0.0, -HALF_WIDTH_M),
        high_xy=(far, HALF_WIDTH_M),
        lamps_m=lamps,
        indoor=True,
        start_xy=(2.0, 0.0),
        route=(Leg((far - 5.0, 0.0), "first pass", 0.0),),
    )


def _wall(rng: Rng) -> Image:
    """One door, a notice board, a socket and a handrail."""
    width, height = round(PERIOD_M * _PX_PER_M), round(HEIGHT_M * _PX_PER_M)
    image = weather(rng, plaster(rng, height, width, (196, 206, 210)), 0.7)
    image[-14:] = (90, 98, 110)
    cv2.rectangle(image, (0, 108), (width, 113), (110, 120, 140), -1)
    door = int(rng.integers(10, 40))
    colour = tuple(float(c) for c in rng.uniform(60, 170, 3))
    cv2.rectangle(image, (door, 38), (door + 58, height), (235, 238, 240), -1)
    cv2.rectangle(image, (door + 5, 43), (door + 53, height), colour, -1)
    cv2.rectangle(image, (door + 14, 54), (door + 44, 88), (90, 80, 70), -1)
    cv2.circle(image, (door + 47, 118), 3, (40, 200, 230), -1, cv2.LINE_AA)
    board = int(rng.integers(120, 160))
    cv2.rectangle(image, (board, 50), (board + 76, 100), (90, 130, 170), -1)
    for _ in range(9):
        x, y = int(rng.integers(board + 3, board + 60)), int(rng.integers(53, 84))
        paper = tuple(float(c) for c in rng.uniform(120, 250, 3))
        cv2.rectangle(image, (x, y), (x + int(rng.integers(8, 15)), y + int(rng.integers(8, 15))), paper, -1)
        cv2.line(image, (x + 2, y + 3), (x + 7, y + 3), (40, 40, 40), 1)
    return image


def _floor(rng: Rng) -> Image:
    return weather(rng, slabs(rng, round(2 * HALF_WIDTH_M * _PX_PER_M), round(PERIOD_M * _PX_PER_M), 32), 0.5)


def _ceiling(rng: Rng) -> Image:
    width, height = round(PERIOD_M * _PX_PER_M), round(2 * HALF_WIDTH_M * _PX_PER_M)
    image = weather(rng, np.full((height, width, 3), 205, np.uint8), 0.4)
    for x in range(0, width, 32):
        cv2.line(image, (x, 0), (x, height), (150, 150, 150), 1)
    for y in range(0, height, 32):
        cv2.line(image, (0, y), (width, y), (150, 150, 150), 1)
    cv2.rectangle(image, (width // 2 - 38, height // 2 - 14), (width // 2 + 38, height // 2 + 14), (250, 250, 250), -1)
    return image
