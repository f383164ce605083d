"""Procedural house fronts, each different: a BGR picture with a plane that says what glows at night."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from progeo_edge.types import Image
from progeo_edge.world.lettering import OWNERS, SHOP_WORDS, draw_accent, write
from progeo_edge.world.openings import (
    PX_PER_M,
    Canvas,
    draw_awning,
    draw_display,
    draw_door,
    draw_garage,
    draw_style,
    draw_window,
)
from progeo_edge.world.surfaces import MATERIALS, WALL_COLOURS, Colour, Rng, jitter, shade, to_image, weather

GROUND_FLOOR_M = 3.3
UPPER_FLOOR_M = 2.8
CORNICE_M = 0.6


def storeys_to_height_m(storeys: int) -> float:
    """Height of a house with a ground floor and `storeys` floors above it."""
    return GROUND_FLOOR_M + storeys * UPPER_FLOOR_M + CORNICE_M


def facade(rng: Rng, width_m: float, storeys: int) -> Image:
    """One house front, (H, W, 4) uint8: BGR and, as fourth plane, how strongly a pixel glows at night."""
    width, height = round(width_m * PX_PER_M), round(storeys_to_height_m(storeys) * PX_PER_M)
    colour = jitter(rng, WALL_COLOURS[int(rng.integers(len(WALL_COLOURS)))], 0.12)
    material = MATERIALS[int(rng.integers(len(MATERIALS)))]
    canvas = Canvas(material(rng, height, width, colour))
    trim = _trim_colour(rng, colour)
    _upper_floors(rng, canvas, storeys, trim)
    ground_top = height - round(GROUND_FLOOR_M * PX_PER_M)
    _ground_floor(rng, canvas, ground_top, trim)
    _cornice(rng, canvas, trim)
    _drainpipes(rng, canvas)
    canvas.image = weather(rng, canvas.image)
    return canvas.bgra()


def party_wall(rng: Rng, width_m: float, storeys: int) -> Image:
    """The plain side of a house: wall material and dirt only."""
    width, height = round(width_m * PX_PER_M), round(storeys_to_height_m(storeys) * PX_PER_M)
    material = MATERIALS[int(rng.integers(len(MATERIALS)))]
    canvas = Canvas(weather(rng, material(rng, height, width, (124, 140, 160)), 1.5))
    return canvas.bgra()


def _trim_colour(rng: Rng, wall: Colour) -> Colour:
    bright = sum(wall) / 3 < 165
    return jitter(rng, (214, 222, 228) if bright else (96, 104, 116), 0.08)


def _upper_floors(rng: Rng, canvas: Canvas, storeys: int, trim: Colour) -> None:
    width = canvas.image.shape[1]
    columns = max(2, int(width / (PX_PER_M * rng.uniform(1.9, 2.9))))
    style = draw_style(rng, width // columns, trim)
    for storey in range(storeys):
        top = round((CORNICE_M + storey * UPPER_FLOOR_M + 0.5) * PX_PER_M)
        if rng.random() < 0.4:
            canvas.rectangle(0, top + style.height_px + 24, width, 6, trim)
        for column in range(columns):
            x = round((column + 0.5) * width / columns - style.width_px / 2)
            draw_window(rng, canvas, x, top, style)


def _ground_floor(rng: Rng, canvas: Canvas, top: int, trim: Colour) -> None:
    height, width = canvas.image.shape[:2]
    kind = rng.random()
    if kind < 0.5:
        _shop(rng, canvas, top, trim)
    elif kind < 0.85:
        _dwelling(rng, canvas, top, trim)
    else:
        draw_garage(rng, canvas, top)
    plinth = int(rng.uniform(0.15, 0.4) * PX_PER_M)
    if kind >= 0.5:
        canvas.image[height - plinth :] = to_image(0.55 * canvas.image[height - plinth :].astype(np.float32))
    canvas.rectangle(0, top - 4, width, 6, trim)
    if kind >= 0.5 and rng.random() < 0.4:
        _graffiti(rng, canvas)


def _shop(rng: Rng, canvas: Canvas, top: int, trim: Colour) -> None:
    height, width = canvas.image.shape[:2]
    accent = draw_accent(rng, 0.25)
    canvas.rectangle(0, top, width, height - top, accent)
    sign = int(0.6 * PX_PER_M)
    canvas.rectangle(8, top + 8, width - 16, sign, shade(accent, 0.6))
    name = f"{rng.choice(OWNERS)}'S {rng.choice(SHOP_WORDS)}"
    write(canvas.image, name, (10, top + 8, width - 20, sign), (225, 238, 245), rng)
    canvas.glow(8, top + 8, width - 16, sign, 120)
    door_width, glass_top = int(1.0 * PX_PER_M), top + sign + 24
    door_x = int(rng.choice([14, width // 2 - door_width // 2, width - door_width - 14]))
    for x0, x1 in ((14, door_x - 12), (door_x + door_width + 12, width - 14)):
        if x1 - x0 > 40:
            draw_display(rng, canvas, x0, glass_top, x1 - x0, height - glass_top - 26)
    draw_door(rng, canvas, door_x, glass_top, door_width, height - glass_top, glazed=True)
    if rng.random() < 0.5:
        draw_awning(rng, canvas, glass_top - 16, accent)


def _dwelling(rng: Rng, canvas: Canvas, top: int, trim: Colour) -> None:
    height, width = canvas.image.shape[:2]
    columns = max(2, int(width / (PX_PER_M * rng.uniform(2.0, 2.8))))
    door_column = int(rng.integers(columns))
    style = replace(draw_style(rng, width // columns, trim), balcony=False)
    for column in range(columns):
        centre = round((column + 0.5) * width / columns)
        if column == door_column:
            door = int(1.05 * PX_PER_M)
            canvas.rectangle(centre - door // 2 - 7, top + 30, door + 14, height - top - 30, trim)
            draw_door(
                rng, canvas, centre - door // 2, top + 38, door, height - top - 38, glazed=bool(rng.random() < 0.4)
            )
            number = str(int(rng.integers(1, 99)))
            canvas.rectangle(centre + door // 2 + 12, top + 60, 22, 16, (120, 50, 30))
            write(canvas.image, number, (centre + door // 2 + 12, top + 60, 22, 16), (240, 240, 240), rng)
        else:
            draw_window(rng, canvas, centre - style.width_px // 2, top + 34, style)


def _graffiti(rng: Rng, canvas: Canvas) -> None:
    """Two or three looping strokes, as by a spray can."""
    height, width = canvas.image.shape[:2]
    for _ in range(int(rng.integers(1, 4))):
        t = np.linspace(0, 2 * np.pi, 60)
        frequency, phase = rng.integers(2, 7, 2), rng.uniform(0, 6, 2)
        size, left = rng.uniform(22, 50), rng.uniform(0, max(1, width - 160))
        x = left + 22 * t + 14 * np.sin(frequency[0] * t + phase[0])
        y = height - 58 + 0.5 * size * np.sin(frequency[1] * t + phase[1])
        points = np.stack([x, y], axis=1).astype(np.int32)
        colour = tuple(float(c) for c in rng.uniform(20, 240, 3))
        cv2.polylines(canvas.image, [points], False, (30, 30, 30), 7, cv2.LINE_AA)
        cv2.polylines(canvas.image, [points], False, colour, 4, cv2.LINE_AA)


def _cornice(rng: Rng, canvas: Canvas, trim: Colour) -> None:
    width, depth = canvas.image.shape[1], int(CORNICE_M * PX_PER_M * 0.7)
    canvas.rectangle(0, 0, width, depth, trim)
    canvas.rectangle(0, depth, width, 4, (60, 62, 66))
    spacing = int(rng.integers(10, 30))
    if rng.random() < 0.6:
        for x in range(0, width, spacing):
            canvas.rectangle(x, depth // 2, spacing // 2, depth // 2, shade(trim, 0.8))


def _drainpipes(rng: Rng, canvas: Canvas) -> None:
    height, width = canvas.image.shape[:2]
    x = 5 if rng.random() < 0.5 else width - 9
    shade = float(rng.uniform(70, 150))
    canvas.rectangle(x, int(0.4 * PX_PER_M), 5, height, (shade, shade, shade))
    for y in range(60, height, 90):
        canvas.rectangle(x - 1, y, 7, 4, (60, 60, 60))
