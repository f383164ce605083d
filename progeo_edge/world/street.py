"""The street world: two blocks of houses in a ring of houses, streets between them as a figure eight.

Streets have their centre lines on x = 0, w, 2w and y = 0, h. West is the first x, north the larger y.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from progeo_edge.types import Image
from progeo_edge.world.facades import facade, party_wall, storeys_to_height_m
from progeo_edge.world.lighting import DAY, EVENING, Lighting
from progeo_edge.world.props import PropShop
from progeo_edge.world.scene import FloatArray, Leg, Quad, Scene, Solid, Texture, opaque, slab, wall
from progeo_edge.world.surfaces import Rng, asphalt, manhole, slabs

STREET_HALF_M = 6.0
ROAD_HALF_M = 4.0
_GROUND_PX_PER_M = 40
_HOUSE_DEPTH_M = 5.0
_FREE_CORNER_M = 8.5


@dataclass(frozen=True, eq=False)
class _House:
    width_m: float
    storeys: int
    front: Texture


@dataclass(frozen=True)
class _Row:
    """A row of houses seen from the street: from its left end to its right end."""

    left_xy: tuple[float, float]
    right_xy: tuple[float, float]

    @property
    def length_m(self) -> float:
        return float(np.hypot(self.right_xy[0] - self.left_xy[0], self.right_xy[1] - self.left_xy[1]))


def build_street(seed: int) -> Scene:
    """Lay out one street world.

    The houses on the left hand of someone driving south are the same in the westernmost and in the easternmost street:
    look-alike fronts at two places. All else (right hand, ground, furniture, far ends) differs.
    """
    rng = np.random.default_rng(seed)
    w, h = float(rng.uniform(36.0, 40.0)), float(rng.uniform(30.0, 34.0))
    quads, solids = _houses(rng, w, h)
    ground = slab(
        (-STREET_HALF_M, -STREET_HALF_M),
        (2 * w + STREET_HALF_M, h + STREET_HALF_M),
        0.0,
        _ground(rng, w, h),
        detail=True,
    )
    more_quads, more_solids, lamps = _furniture(rng, w, h)
    margin = STREET_HALF_M + _HOUSE_DEPTH_M
    start, route = _route(w, h)
    return Scene(
        quads=(ground, *quads, *more_quads),
        low_xy=(-margin, -margin),
        high_xy=(2 * w + margin, h + margin),
        solids=(*solids, *more_solids),
        lamps_m=lamps,
        start_xy=start,
        route=route,
    )


def _houses(rng: Rng, w: float, h: float) -> tuple[list[Quad], list[Solid]]:
    s = STREET_HALF_M
    quads: list[Quad] = []
    solids: list[Solid] = []
    party = [Texture(party_wall(rng, _HOUSE_DEPTH_M, 4)) for _ in range(3)]
    twins = _draw_row(rng, h - 2 * s)
    rows: list[tuple[_Row, list[_House]]] = []
    for west in (0.0, w):
        low, high = (west + s, s), (west + w - s, h - s)
        rows += [(row, _draw_row(rng, row.length_m)) for row in _outward(low, high)[:3]]
        rows.append((_outward(low, high)[3], twins if west == 0.0 else _draw_row(rng, h - 2 * s)))
    rows += [(row, _draw_row(rng, row.length_m)) for row in _inward((-s, -s), (2 * w + s, h + s))[:3]]
    rows += _east_ring(rng, w, h, twins)
    for row, houses in rows:
        row_quads, row_solids = _raise_row(row, houses, party)
        quads += row_quads
        solids += row_solids
    return quads, solids


def _outward(low: tuple[float, float], high: tuple[float, float]) -> list[_Row]:
    """The four sides of a block, seen from outside: south, east, north, west."""
    (x0, y0), (x1, y1) = low, high
    return [_Row((x0, y0), (x1, y0)), _Row((x1, y0), (x1, y1)), _Row((x1, y1), (x0, y1)), _Row((x0, y1), (x0, y0))]


def _inward(low: tuple[float, float], high: tuple[float, float]) -> list[_Row]:
    """The sides of the ring, seen from inside: south, west, north, (east)."""
    (x0, y0), (x1, y1) = low, high
    return [_Row((x1, y0), (x0, y0)), _Row((x0, y0), (x0, y1)), _Row((x0, y1), (x1, y1)), _Row((x1, y1), (x1, y0))]


def _east_ring(rng: Rng, w: float, h: float, twins: list[_House]) -> list[tuple[_Row, list[_House]]]:
    """The easternmost row: the twins between two stretches of their own."""
    s, x = STREET_HALF_M, 2 * w + STREET_HALF_M
    stretches = [_Row((x, h + s), (x, h - s)), _Row((x, h - s), (x, s)), _Row((x, s), (x, -s))]
    houses = [_draw_row(rng, 2 * s), twins, _draw_row(rng, 2 * s)]
    return list(zip(stretches, houses, strict=True))


def _draw_row(rng: Rng, length_m: float) -> list[_House]:
    """Houses that fill a row exactly; the outermost have two upper storeys so that rows meet at their corners."""
    count = max(1, round(length_m / 8.8))
    shares = rng.uniform(0.8, 1.2, count)
    widths = length_m * shares / shares.sum()
    storeys = [2 if i in (0, count - 1) else int(rng.integers(1, 4)) for i in range(count)]
    return [_House(float(m), n, Texture(facade(rng, float(m), n))) for m, n in zip(widths, storeys, strict=True)]


def _raise_row(row: _Row, houses: list[_House], party: list[Texture]) -> tuple[list[Quad], list[Solid]]:
    left, right = np.array(row.left_xy), np.array(row.right_xy)
    along = (right - left) / row.length_m
    back = np.array([-along[1], along[0]]) * _HOUSE_DEPTH_M
    quads: list[Quad] = []
    solids: list[Solid] = []
    position = left
    for i, house in enumerate(houses):
        end, height = position + house.width_m * along, storeys_to_height_m(house.storeys)
        quads.append(wall(position, end, 0.0, height, house.front))
        if i > 0 and houses[i - 1].storeys < house.storeys:
            quads.append(wall(position + back, position, 0.0, height, party[i % len(party)]))
        if i + 1 < len(houses) and houses[i + 1].storeys < house.storeys:
            quads.append(wall(end, end + back, 0.0, height, party[i % len(party)]))
        solids.append(Solid(np.stack([position, end, end + back, position + back]), height))
        position = end
    return quads, solids


def _ground(rng: Rng, w: float, h: float) -> Texture:
    """Road, pavements, kerbs, markings, crossings and manholes of all streets in one picture."""
    s, scale = STREET_HALF_M, _GROUND_PX_PER_M
    width, height = round((2 * w + 2 * s) * scale), round((h + 2 * s) * scale)
    image = asphalt(rng, height, width)
    pavement = slabs(rng, height, width, 26)
    canvas = _GroundCanvas(image, -s, h + s)
    islands = [((x + ROAD_HALF_M, ROAD_HALF_M), (x + w - ROAD_HALF_M, h - ROAD_HALF_M)) for x in (0.0, w)]
    road = np.zeros((height, width), np.uint8)
    road[canvas.box((-ROAD_HALF_M, -ROAD_HALF_M), (2 * w + ROAD_HALF_M, h + ROAD_HALF_M))] = 255
    for low, high in islands:
        road[canvas.box(low, high)] = 0
    image[road == 0] = pavement[road == 0]
    kerbs, _ = cv2.findContours(road, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(image, kerbs, -1, (178, 184, 188), 9)
    cv2.drawContours(image, kerbs, -1, (52, 54, 56), 2)
    for start, end in _streets(w, h):
        _mark_street(rng, canvas, np.array(start), np.array(end))
    return Texture(opaque(image))


class _GroundCanvas:
    """Draws in metres on the ground picture."""

    def __init__(self, image: Image, west: float, north: float) -> None:
        self.image, self._west, self._north = image, west, north

    def pixel(self, xy: FloatArray) -> tuple[int, int]:
        return round((xy[0] - self._west) * _GROUND_PX_PER_M), round((self._north - xy[1]) * _GROUND_PX_PER_M)

    def box(self, low: tuple[float, float], high: tuple[float, float]) -> tuple[slice, slice]:
        (x0, y1), (x1, y0) = self.pixel(np.array(low)), self.pixel(np.array(high))
        return slice(y0, y1), slice(x0, x1)

    def bar(
        self, centre: FloatArray, along: FloatArray, length: float, width: float, colour: tuple[int, int, int]
    ) -> None:
        left = np.array([-along[1], along[0]])
        corners = [
            centre + 0.5 * (a * length * along + b * width * left) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        cv2.fillConvexPoly(self.image, np.array([self.pixel(c) for c in corners]), colour, cv2.LINE_AA)


def _streets(w: float, h: float) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Centre lines of the seven streets."""
    along_x = [((x, y), (x + w, y)) for x in (0.0, w) for y in (0.0, h)]
    return along_x + [((x, 0.0), (x, h)) for x in (0.0, w, 2 * w)]


def _mark_street(rng: Rng, canvas: _GroundCanvas, start: FloatArray, end: FloatArray) -> None:
    length = float(np.linalg.norm(end - start))
    along = (end - start) / length
    left = np.array([-along[1], along[0]])
    paint = (205, 212, 214)
    for position in np.arange(_FREE_CORNER_M, length - _FREE_CORNER_M, 3.0):
        canvas.bar(start + position * along, along, 1.4, 0.13, paint)
    for position in (5.4, length - 5.4):
        if rng.random() < 0.65:
            for offset in np.arange(-3.4, 3.5, 0.85):
                canvas.bar(start + position * along + offset * left, along, 2.2, 0.42, paint)
    for side in (-2.15, 2.15):
        for position in np.arange(_FREE_CORNER_M, length - _FREE_CORNER_M, 5.2):
            canvas.bar(start + position * along + 1.45 * side * left, left, 1.6, 0.09, paint)
    for _ in range(int(rng.integers(3, 6))):
        spot = start + rng.uniform(6, length - 6) * along + rng.uniform(-2.0, 2.0) * left
        manhole(canvas.image, canvas.pixel(spot), int(0.36 * _GROUND_PX_PER_M), rng)
    for _ in range(int(rng.integers(2, 5))):
        spot = start + rng.uniform(6, length - 6) * along + rng.choice([-3.7, 3.7]) * left
        canvas.bar(spot, along, 0.6, 0.34, (40, 40, 42))
        for slot in np.arange(-0.24, 0.25, 0.12):
            canvas.bar(spot + slot * along, left, 0.26, 0.04, (140, 142, 146))


def _furniture(rng: Rng, w: float, h: float) -> tuple[list[Quad], list[Solid], FloatArray]:
    """Cars at the kerbs; trees, lamps, signs and boxes on the pavements."""
    shop = PropShop(rng)
    quads: list[Quad] = []
    solids: list[Solid] = []
    lamps: list[FloatArray] = []
    for start, end in _streets(w, h):
        origin, length = np.array(start), float(np.hypot(end[0] - start[0], end[1] - start[1]))
        along = (np.array(end) - origin) / length
        for side in (-1.0, 1.0):
            inward = -side * np.array([-along[1], along[0]])
            heading = along if side < 0 else -along
            for position in np.arange(_FREE_CORNER_M + 2.4, length - _FREE_CORNER_M, 5.2):
                if rng.random() < 0.42:
                    vehicle = shop.van if rng.random() < 0.15 else shop.car
                    _add(
                        vehicle(origin + (position + rng.uniform(-0.3, 0.3)) * along - 3.1 * inward, heading),
                        quads,
                        solids,
                    )
            position = _FREE_CORNER_M + float(rng.uniform(0, 4))
            while position < length - _FREE_CORNER_M + 1:
                spot = origin + position * along - 4.45 * inward
                kind = rng.random()
                if kind < 0.36:
                    _add(shop.tree(spot), quads, solids)
                elif kind < 0.62:
                    posts, shadows, light = shop.lamp(spot, inward)
                    _add((posts, shadows), quads, solids)
                    lamps.append(light)
                elif kind < 0.82:
                    _add(shop.sign(spot, -heading), quads, solids)
                else:
                    _add(shop.column(spot, along), quads, solids)
                position += float(rng.uniform(3.5, 7.0))
    return quads, solids, np.array(lamps).reshape(-1, 3)


def _add(made: tuple[list[Quad], list[Solid]], quads: list[Quad], solids: list[Solid]) -> None:
    quads.extend(made[0])
    solids.extend(made[1])


def _route(w: float, h: float) -> tuple[tuple[float, float], tuple[Leg, ...]]:
    """A figure eight by day, then in the evening part of it again, 0.5 m beside, and part of it the other way round."""

    def leg(x: float, y: float, label: str, light: Lighting = DAY) -> Leg:
        return Leg((x, y), label, 1.0 if light is DAY else 1.5, light)

    first, reverse, again = "first pass", "reverse pass", "revisit in the evening"
    day = [
        leg(w, 0, first), leg(w, h, first), leg(2 * w, h, first), leg(2 * w, 0, first), leg(w, 0, first),
        leg(w, h, "revisit by day"), leg(0, h, first), leg(0, 0, first),
    ]  # fmt: skip
    evening = [
        leg(w, 0, again, EVENING), leg(2 * w, 0, reverse, EVENING), leg(2 * w, h, reverse, EVENING),
        leg(w, h, reverse, EVENING), leg(0, h, again, EVENING), leg(0, 0, again, EVENING),
        leg(0.6 * w, 0, again, EVENING),
    ]  # fmt: skip
    return (6.0, 0.0), (*day, *evening)
