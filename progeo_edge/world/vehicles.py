"""What is painted on the boxes that stand for cars and vans."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from progeo_edge.types import Image
from progeo_edge.world.lettering import OWNERS, SHOP_WORDS, draw_accent, write
from progeo_edge.world.surfaces import Colour, Rng, jitter, shade, weather

CAR_COLOURS: tuple[Colour, ...] = (
    (40, 40, 170), (150, 90, 40), (200, 200, 205), (60, 60, 64),
    (60, 130, 70), (40, 150, 215), (120, 120, 124), (235, 235, 235),
)  # fmt: skip


def car_pictures(rng: Rng) -> tuple[Image, ...]:
    """Side, front, back, side windows, end window and roof of one car: like others of its kind, never the same."""
    colour = _car_colour(rng)
    front, back = _car_end(rng, colour, (225, 235, 240)), _car_end(rng, colour, (40, 40, 190))
    side_window, end_window = _cabin(rng, colour, int(rng.integers(2, 4))), _cabin(rng, colour, 1)
    roof = np.full((80, 128, 3), colour, np.uint8)
    pictures = (_car_side(rng, colour), front, back, side_window, end_window, roof)
    return tuple(weather(rng, picture, 0.8) for picture in pictures)


def van_pictures(rng: Rng) -> tuple[Image, Image]:
    """Side, with a name, and end of one van."""
    colour = _car_colour(rng)
    return _van_side(rng, colour), _van_end(rng, colour)


def _car_colour(rng: Rng) -> Colour:
    return jitter(rng, CAR_COLOURS[int(rng.integers(len(CAR_COLOURS)))], 0.15)


def _car_side(rng: Rng, colour: Colour) -> Image:
    image = np.full((52, 264, 3), colour, np.uint8)
    image[int(rng.integers(34, 41)) :] = (26, 26, 28)
    crease = int(rng.integers(6, 24))
    image[crease : crease + 2] = shade(colour, 0.7)
    if rng.random() < 0.3:
        image[24:30] = draw_accent(rng, 0.4)
    for x in (int(rng.integers(84, 106)), int(rng.integers(146, 174))):
        cv2.line(image, (x, 0), (x, 38), shade(colour, 0.5), 2)
        cv2.rectangle(image, (x - 22, 8), (x - 10, 11), (30, 30, 30), -1)
    rim = float(rng.uniform(90, 200))
    spokes, turn = int(rng.integers(3, 8)), float(rng.uniform(0, np.pi))
    for x in (int(rng.integers(44, 56)), int(rng.integers(206, 220))):
        cv2.circle(image, (x, 34), 23, (24, 24, 26), -1, cv2.LINE_AA)
        cv2.circle(image, (x, 34), 13, (rim, rim, rim), -1, cv2.LINE_AA)
        for angle in turn + np.arange(spokes) * 2 * np.pi / spokes:
            tip = (round(x + 12 * np.cos(angle)), round(34 + 12 * np.sin(angle)))
            cv2.line(image, (x, 34), tip, (50, 50, 54), 2, cv2.LINE_AA)
    return image


def _car_end(rng: Rng, colour: Colour, lights: Colour) -> Image:
    image = np.full((52, 108, 3), colour, np.uint8)
    image[42:] = (26, 26, 28)
    width, height, y = int(rng.integers(14, 28)), int(rng.integers(7, 16)), int(rng.integers(8, 16))
    for x in (4, 104 - width):
        cv2.rectangle(image, (x, y), (x + width, y + height), lights, -1)
        cv2.rectangle(image, (x, y), (x + width, y + height), (40, 40, 40), 1)
    cv2.rectangle(image, (34, y), (74, y + int(rng.integers(4, 11))), (40, 40, 42), -1)
    cv2.rectangle(image, (32, 28), (76, 39), (235, 235, 235), -1)
    plate = f"{rng.choice(list('ABKLMPRS'))}{int(rng.integers(100, 999))}"
    write(image, plate, (32, 28, 44, 12), (20, 20, 20), rng)
    return image


def _cabin(rng: Rng, colour: Colour, windows: int) -> Image:
    image = np.full((36, 128, 3), shade(colour, 0.9), np.uint8)
    pillars = np.linspace(2, 126, windows + 1)
    pillars[1:-1] += rng.uniform(-6, 6, windows - 1)
    for left, right in pairwise(pillars.astype(int).tolist()):
        cv2.rectangle(image, (left + 3, 5), (right - 3, 32), (74, 64, 56), -1)
        x, slant = int(rng.integers(left + 4, right - 20)), int(rng.integers(6, 16))
        cv2.line(image, (x, 30), (x + slant, 8), (150, 142, 132), int(rng.integers(1, 5)), cv2.LINE_AA)
        cv2.circle(image, (int(rng.integers(left + 8, right - 8)), 24), 5, (44, 42, 40), -1, cv2.LINE_AA)
    return image


def _van_side(rng: Rng, colour: Colour) -> Image:
    image = weather(rng, np.full((134, 320, 3), colour, np.uint8), 0.5)
    image[112:] = (28, 28, 30)
    cv2.rectangle(image, (250, 16), (312, 54), (70, 62, 54), -1)
    for x in (60, 262):
        cv2.circle(image, (x, 112), 22, (22, 22, 24), -1, cv2.LINE_AA)
        cv2.circle(image, (x, 112), 11, (160, 162, 166), -1, cv2.LINE_AA)
    cv2.line(image, (240, 4), (240, 110), shade(colour, 0.5), 2)
    ink = (30, 30, 34) if sum(colour) > 400 else (235, 238, 240)
    write(image, str(rng.choice(SHOP_WORDS)), (12, 18, 220, 46), ink, rng)
    write(image, f"{rng.choice(OWNERS)} & CO", (12, 64, 220, 28), ink, rng)
    return image


def _van_end(rng: Rng, colour: Colour) -> Image:
    image = weather(rng, np.full((134, 118, 3), colour, np.uint8), 0.5)
    image[116:] = (28, 28, 30)
    cv2.rectangle(image, (10, 14), (108, 56), (72, 64, 56), -1)
    cv2.line(image, (59, 10), (59, 112), shade(colour, 0.5), 2)
    for x in (6, 96):
        cv2.rectangle(image, (x, 72), (x + 16, 92), (50, 50, 200), -1)
    cv2.rectangle(image, (36, 94), (82, 107), (235, 235, 235), -1)
    write(image, str(int(rng.integers(1000, 9999))), (36, 94, 46, 13), (20, 20, 20), rng)
    return image
