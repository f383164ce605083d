"""Street furniture: cars, vans, trees, lamps, signs, bins and columns; boxes and cut-outs with drawn sides."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

from progeo_edge.types import Image
from progeo_edge.world.lettering import ACCENTS, poster, write
from progeo_edge.world.scene import FloatArray, Quad, Solid, Texture, opaque, wall
from progeo_edge.world.surfaces import Rng, brick, plaster, shade, to_image, value_noise, weather
from progeo_edge.world.vehicles import car_pictures, van_pictures

PX_PER_M = 64


def box(
    centre_xy: ArrayLike,
    heading: FloatArray,
    size_m: tuple[float, float, float],
    bottom_m: float,
    sides: Sequence[Texture],
) -> list[Quad]:
    """Five faces of a box.

    Args:
        centre_xy: Middle of its footprint.
        heading: (2,) unit vector along its length.
        size_m: Length, width, height.
        bottom_m: Height of its lower face.
        sides: Textures of right, left, front, back and top.
    """
    length, width, height = size_m
    corners = footprint(centre_xy, heading, length, width)
    back_right, front_right, front_left, back_left = corners
    top = bottom_m + height
    walls = [(back_right, front_right), (front_left, back_left), (front_right, front_left), (back_left, back_right)]
    quads = [wall(a, b, bottom_m, top, side) for (a, b), side in zip(walls, sides[:4], strict=True)]
    roof = Quad(
        np.append(front_left, top),
        np.append(front_right - front_left, 0),
        np.append(back_left - front_left, 0),
        sides[4],
    )
    return [*quads, roof]


def footprint(centre_xy: ArrayLike, heading: FloatArray, length: float, width: float) -> FloatArray:
    """(4, 2) outline: back right, front right, front left, back left."""
    left = np.array([-heading[1], heading[0]])
    forward, side = 0.5 * length * heading, 0.5 * width * left
    centre = np.asarray(centre_xy, np.float64)
    return np.stack(
        [centre - forward - side, centre + forward - side, centre + forward + side, centre - forward + side]
    )


class PropShop:
    """Draws the textures once and places furniture; everything from one random generator."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._plain = {
            name: Texture(opaque(self._metal(shade))) for name, shade in (("dark", 62), ("grey", 128), ("light", 205))
        }
        self._bark = Texture(opaque(weather(rng, brick(rng, 160, 24, (62, 84, 104), (5, 17)), 2.0)))
        self._crowns = [Texture(_crown(rng)) for _ in range(4)]
        self._signs = [Texture(_sign(rng, i)) for i in range(6)]
        self._lamp_head = Texture(_lamp_head())

    def car(self, xy: ArrayLike, heading: FloatArray) -> tuple[list[Quad], list[Solid]]:
        """A parked car: a body and a cabin, drawn anew each time so that no two are quite the same."""
        drawn = car_pictures(self._rng)
        side, front, back, glass_side, glass_end, paint = (Texture(opaque(picture)) for picture in drawn)
        length = float(self._rng.uniform(3.7, 4.4))
        quads = box(xy, heading, (length, 1.7, 0.82), 0.12, [side, side, front, back, paint])
        cabin = np.asarray(xy) - 0.25 * heading
        quads += box(
            cabin, heading, (0.52 * length, 1.45, 0.55), 0.94, [glass_side, glass_side, glass_end, glass_end, paint]
        )
        return quads, [
            Solid(footprint(xy, heading, length, 1.7), 0.9),
            Solid(footprint(cabin, heading, 2.1, 1.4), 1.45),
        ]

    def van(self, xy: ArrayLike, heading: FloatArray) -> tuple[list[Quad], list[Solid]]:
        """A delivery van with a name on its side."""
        side, end = (Texture(opaque(picture)) for picture in van_pictures(self._rng))
        quads = box(xy, heading, (5.0, 1.85, 2.1), 0.15, [side, side, end, end, self._plain["light"]])
        return quads, [Solid(footprint(xy, heading, 5.0, 1.85), 2.25)]

    def tree(self, xy: ArrayLike) -> tuple[list[Quad], list[Solid]]:
        """A trunk and three crossed cut-outs, visible from both sides."""
        turn, height, spread = self._rng.uniform(0, np.pi), self._rng.uniform(2.3, 2.8), self._rng.uniform(2.6, 3.4)
        heading = np.array([np.cos(turn), np.sin(turn)])
        quads = box(xy, heading, (0.22, 0.22, height + 0.6), 0.0, [self._bark] * 5)
        crown = self._crowns[int(self._rng.integers(len(self._crowns)))]
        for angle in turn + np.arange(3) * np.pi / 3:
            half = 0.5 * spread * np.array([np.cos(angle), np.sin(angle)])
            centre = np.asarray(xy, np.float64)
            for sign in (1.0, -1.0):
                face = wall(centre - sign * half, centre + sign * half, height - 0.5, height - 0.5 + spread, crown)
                quads.append(Quad(face.origin_m, face.edge_u_m, face.edge_v_m, crown, cutout=True))
        angles = np.arange(8) * np.pi / 4
        outline = np.asarray(xy) + 0.42 * spread * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return quads, [Solid(outline, height + 0.5 * spread)]

    def lamp(self, xy: ArrayLike, towards_road: FloatArray) -> tuple[list[Quad], list[Solid], FloatArray]:
        """A lamp post with an arm over the road; also returns the position of its light."""
        along = np.array([-towards_road[1], towards_road[0]])
        quads = box(xy, along, (0.13, 0.13, 4.6), 0.0, [self._plain["dark"]] * 5)
        arm = np.asarray(xy, np.float64) + 0.45 * towards_road
        head = box(arm, towards_road, (1.0, 0.16, 0.14), 4.6, [self._plain["dark"]] * 5)
        shade = box(
            arm + 0.35 * towards_road,
            towards_road,
            (0.45, 0.3, 0.22),
            4.42,
            [self._lamp_head] * 4 + [self._plain["dark"]],
        )
        light = np.append(arm + 0.45 * towards_road, 4.3)
        return [*quads, *head, *shade], [Solid(footprint(xy, along, 0.2, 0.2), 4.6)], light

    def sign(self, xy: ArrayLike, facing: FloatArray) -> tuple[list[Quad], list[Solid]]:
        """A traffic sign that faces along `facing`."""
        left = np.array([-facing[1], facing[0]])
        pole = box(xy, left, (0.07, 0.07, 2.7), 0.0, [self._plain["grey"]] * 5)
        texture = self._signs[int(self._rng.integers(len(self._signs)))]
        centre = np.asarray(xy, np.float64) + 0.05 * facing
        face = wall(centre - 0.35 * left, centre + 0.35 * left, 2.0, 2.7, texture)
        front = Quad(face.origin_m, face.edge_u_m, face.edge_v_m, texture, cutout=True)
        return [*pole, front], [Solid(footprint(xy, left, 0.2, 0.2), 2.6)]

    def column(self, xy: ArrayLike, heading: FloatArray) -> tuple[list[Quad], list[Solid]]:
        """An advertising column, a bin, a crate or a switch cabinet: a box with pictures."""
        kind = int(self._rng.integers(3))
        size = ((0.9, 0.9, 2.4), (0.6, 0.6, 1.0), (1.3, 0.5, 1.3))[kind]
        sides = [
            Texture(opaque(self._column_side(kind, length, size[2]))) for length in (size[0], size[0], size[1], size[1])
        ]
        return box(xy, heading, size, 0.0, [*sides, self._plain["grey"]]), [
            Solid(footprint(xy, heading, *size[:2]), size[2])
        ]

    def _column_side(self, kind: int, width_m: float, height_m: float) -> Image:
        width, height = round(width_m * PX_PER_M), round(height_m * PX_PER_M)
        if kind == 0:
            image = np.full((height, width, 3), (60, 90, 60), np.uint8)
            image[8 : height - 20, 4 : width - 4] = poster(self._rng, width - 8, height - 28)
            return image
        colour = ACCENTS[int(self._rng.integers(len(ACCENTS)))]
        image = plaster(self._rng, height, width, colour)
        for y in range(6, height, 12):
            cv2.line(image, (3, y), (width - 4, y), shade(colour, 0.6), 2)
        label = str(int(self._rng.integers(10, 999)))
        write(image, label, (2, height // 3, width - 4, height // 3), (235, 235, 235), self._rng)
        return image

    def _metal(self, shade: float) -> Image:
        return to_image(np.repeat(shade + 8 * value_noise(self._rng, 96, 32, 12)[:, :, None], 3, axis=2))


def _crown(rng: Rng) -> Image:
    """Leaves, light above and dark below, on a clear background."""
    size = 192
    image = np.zeros((size, size, 4), np.uint8)
    image[:, :, :3] = (40, 84, 52)
    for _ in range(620):
        radius, angle = 78 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        x, y = size / 2 + radius * np.cos(angle), size / 2 + 0.95 * radius * np.sin(angle)
        light = 1.15 - 0.7 * y / size + 0.28 * rng.standard_normal()
        colour = tuple(float(c) for c in np.clip(np.array([52, 132, 84]) * light, 0, 255))
        axes = (int(rng.integers(3, 9)), int(rng.integers(2, 6)))
        cv2.ellipse(image, (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0, 360, (*colour, 255.0), -1)
    return image


def _sign(rng: Rng, kind: int) -> Image:
    """One of six traffic signs; opaque where the plate is."""
    image = np.zeros((64, 64, 4), np.uint8)
    red, white, blue = (40, 40, 200, 255), (240, 240, 240, 255), (170, 90, 30, 255)
    image[:, :, :3] = 128
    if kind in (0, 1):
        cv2.circle(image, (32, 32), 30, red, -1)
        cv2.circle(image, (32, 32), 22, white, -1)
    elif kind == 2:
        cv2.fillPoly(image, [np.array([[32, 3], [62, 60], [2, 60]])], red)
        cv2.fillPoly(image, [np.array([[32, 18], [50, 53], [14, 53]])], white)
    else:
        cv2.rectangle(image, (2, 2), (61, 61), blue if kind != 5 else white, -1)
        cv2.rectangle(image, (5, 5), (58, 58), white if kind != 5 else red, 2)
    text = ("30", "50", "!", "P", "H", "STOP")[kind]
    plate = image[:, :, :3].copy()
    write(plate, text, (12, 16, 40, 34), (20, 20, 20) if kind in (0, 1, 2, 5) else (240, 240, 240), rng)
    image[:, :, :3] = plate
    return image


def _lamp_head() -> Image:
    image = np.full((32, 32, 4), (190, 215, 225, 255), np.uint8)
    cv2.rectangle(image, (0, 0), (31, 31), (60, 60, 60, 0), 3)
    return image
