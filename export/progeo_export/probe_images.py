"""The images an export is judged with: places, their second views, and which pairs show the same place.

`rendered_places` needs nothing; `read_places` takes the user's own. Golden images are chosen from either.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import Preprocess
from progeo_edge.errors import SourceError
from progeo_edge.evaluation.retrieval import list_images
from progeo_edge.geometry import make_transform, rotation_exp
from progeo_edge.preprocess import to_model_input
from progeo_edge.sources.images import FrameError, read_image
from progeo_edge.types import Image, Transform
from progeo_edge.world import DAY, EVENING, OVERCAST, StreetWorld, forward_camera, is_same_place, simulate_drive

_log = logging.getLogger(__name__)

TABLE_NAME = "places.csv"
NUM_GOLDEN = 8
MIN_PLACES = 8
"""Fewer places give no usable mean distance between places."""

_PLACES_PER_WORLD = 64
_FIRST_SEED = 21
_DIFFERENT_M, _DIFFERENT_DEG = 15.0, 60.0
_LIGHTS = (OVERCAST, EVENING, DAY)
_MIN_NEIGHBOUR_CORRELATION = 0.5
_MIN_CONTRAST = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class ProbeImages:
    """N images with the truth about their places.

    Attributes:
        images: (H, W, 3) BGR uint8, of any sizes.
        is_query: (N,); the others are the database that queries are searched in.
        same_place: (N, N), True where two images show the same place.
        different_places: (N, N), True where they surely do not; neighbours in a street are neither.
        source: Where they come from, for the manifest and the log.
    """

    images: tuple[Image, ...]
    is_query: NDArray[np.bool_]
    same_place: NDArray[np.bool_]
    different_places: NDArray[np.bool_]
    source: str


def rendered_places(num_places: int = 64, *, width_px: int = 640, height_px: int = 480) -> ProbeImages:
    """Places along rendered streets, each seen twice: by day, and as a query from beside it in another light.

    The same arguments give the same pictures, bit by bit. A new street begins after every 64 places.

    Args:
        num_places: Number of places; there are twice as many images, the database first.
        width_px: Width of the pictures.
        height_px: Height of the pictures.

    Raises:
        SourceError: fewer than `MIN_PLACES` places.
    """
    if num_places < MIN_PLACES:
        raise SourceError(f"{num_places} rendered places were asked for; expected at least {MIN_PLACES}")
    database: list[Image] = []
    queries: list[Image] = []
    poses: list[Transform] = []
    query_poses: list[Transform] = []
    streets: list[int] = []
    for street, first in enumerate(range(0, num_places, _PLACES_PER_WORLD)):
        count = min(_PLACES_PER_WORLD, num_places - first)
        world = StreetWorld(_FIRST_SEED + street)
        camera = forward_camera(width_px, height_px)
        street_poses = _spread_poses(world, count)
        street_queries = [pose @ _beside(first + k) for k, pose in enumerate(street_poses)]
        database += [world.render(camera, pose @ camera.T_base_camera, DAY)[0] for pose in street_poses]
        for k, pose in enumerate(street_queries):
            light = replace(_LIGHTS[k % len(_LIGHTS)], noise_seed=1 + first + k)
            queries.append(world.render(camera, pose @ camera.T_base_camera, light)[0])
        poses += street_poses
        query_poses += street_queries
        streets += [street] * count
    same, different = _relations(poses + query_poses, streets * 2)
    is_query = np.repeat([False, True], num_places)
    return ProbeImages((*database, *queries), is_query, same, different, f"rendered street, {num_places} places")


def read_places(folder: Path, *, max_images: int = 128) -> ProbeImages:
    """The user's images.

    With `places.csv` (columns image, place) the images of one place are views of it: the first is in the database, the
    others are queries. Without it every image counts as a place of its own, and its query is the same image as a camera
    moved by a few per cent would see it, a little brighter; recall then says whether a precision keeps these images
    apart, and nothing about finding a place again on another day.

    Args:
        folder: Images at any depth.
        max_images: At most so many images of the folder are taken, spread evenly over places or names.

    Raises:
        SourceError: no such folder, no image, a faulty table, fewer than `MIN_PLACES` places, or no query.
    """
    table = folder / TABLE_NAME
    labelled = table.is_file()
    names, labels = _read_table(table) if labelled else _every_image_a_place(folder)
    chosen = _whole_places(labels, max_images)
    images: list[Image] = []
    places: list[str] = []
    for k in chosen:
        image = _read(folder / names[k])
        if image is not None:
            images.append(image)
            places.append(labels[k])
    if len(set(places)) < MIN_PLACES:
        raise SourceError(
            f"{folder} gives {len(set(places))} places with readable images; expected at least {MIN_PLACES} "
            f"to measure the distance between places"
        )
    if labelled:
        return _from_labels(images, places, f"{folder.name}, {len(set(places))} labelled places")
    _log.info("%s has no %s: every image counts as one place, queries are slightly moved copies", folder, TABLE_NAME)
    copies = [_moved_copy(image) for image in images]
    same = np.tile(np.eye(len(images), dtype=np.bool_), (2, 2))
    is_query = np.repeat([False, True], len(images))
    return ProbeImages(
        (*images, *copies), is_query, same, ~same, f"{folder.name}, {len(images)} images with moved copies"
    )


def read_images(folder: Path, *, max_images: int) -> Iterator[Image]:
    """Readable images of a folder one by one, spread evenly over their names; unreadable ones are logged.

    Raises:
        SourceError: no such folder, or no image in it.
    """
    names = list_images(folder)
    for name in (names[k] for k in spread(len(names), max_images)):
        image = _read(folder / name)
        if image is not None:
            yield image


def golden_inputs(probe: ProbeImages, preprocess: Preprocess, count: int = NUM_GOLDEN) -> NDArray[np.uint8]:
    """(count, height_px, width_px, 3) uint8 BGR: database images spread over the set, resized as the graph takes them.

    `to_model_input` leaves their size as it is, so that every backend gets the same pixels.
    """
    database = np.flatnonzero(~probe.is_query)
    chosen = [probe.images[database[k]] for k in spread(len(database), count)]
    plain = preprocess.model_copy(
        update={"dtype": "uint8", "layout": "nhwc", "color": "bgr", "mean": None, "std": None}
    )
    return np.asarray(to_model_input(chosen, plain), dtype=np.uint8)


def is_picture(image: Image) -> bool:
    """Whether an image looks like a photograph and not like noise or a blank sheet.

    Neighbouring pixels of photographs are alike (correlation above 0.8 as a rule), those of random numbers are not.
    """
    grey = image if image.ndim == 2 else image.mean(axis=2)
    values = np.asarray(grey, dtype=np.float64)
    if min(values.shape) < 2 or values.std() < _MIN_CONTRAST:
        return False
    centred = values - values.mean()
    along_rows = (centred[:, 1:] * centred[:, :-1]).mean() / centred.var()
    along_columns = (centred[1:] * centred[:-1]).mean() / centred.var()
    return bool(min(along_rows, along_columns) >= _MIN_NEIGHBOUR_CORRELATION)


def spread(available: int, wanted: int) -> list[int]:
    """At most `wanted` of `range(available)`, evenly spaced and in order."""
    rows = np.linspace(0, available - 1, min(available, wanted)).round()
    return sorted({int(row) for row in rows})


def _read(path: Path) -> Image | None:
    """An image; None, with a warning, when it cannot be read."""
    try:
        return read_image(path)
    except FrameError as error:
        _log.warning("image %s is left out: %s", path, error)
        return None


def _spread_poses(world: StreetWorld, count: int) -> list[Transform]:
    """Base poses along the parts of the route that show new views."""
    drive = [step for step in simulate_drive(world) if step.label in ("first pass", "reverse pass")]
    return [drive[k].T_world_base for k in spread(len(drive), count)]


def _beside(k: int) -> Transform:
    """A second visit: up to 1.5 m ahead or behind, 0.6 m aside and 6 degrees turned, different for every place."""
    rng = np.random.default_rng([k, 5])
    ahead, aside, turn = rng.uniform(-1, 1, 3) * [1.5, 0.6, np.deg2rad(6.0)]
    return make_transform(rotation_exp([0, 0, turn]), [ahead, aside, 0.0])


def _relations(poses: Sequence[Transform], streets: Sequence[int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N, N) same place, and (N, N) surely different places; other streets are always different."""
    count = len(poses)
    same, near = np.zeros((count, count), np.bool_), np.zeros((count, count), np.bool_)
    for i in range(count):
        for j in range(i, count):
            if streets[i] == streets[j]:
                same[i, j] = same[j, i] = is_same_place(poses[i], poses[j])
                near[i, j] = near[j, i] = is_same_place(
                    poses[i], poses[j], max_distance_m=_DIFFERENT_M, max_angle_deg=_DIFFERENT_DEG
                )
    return same, ~near


def _read_table(table: Path) -> tuple[list[str], list[str]]:
    with table.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        columns = set(reader.fieldnames or ())
        rows = list(reader) if {"image", "place"} <= columns else []
    if not {"image", "place"} <= columns:
        raise SourceError(f"{table} has the columns {', '.join(sorted(columns)) or 'none'}; expected image and place")
    for line, row in enumerate(rows, start=2):
        if not row["image"] or not row["place"]:
            raise SourceError(f"{table} line {line} has an empty image or place; fill it in or remove the line")
        if not (table.parent / row["image"]).is_file():
            raise SourceError(f"{table} line {line} names {row['image']!r}, which is no file beside it")
    return [row["image"] for row in rows], [row["place"] for row in rows]


def _every_image_a_place(folder: Path) -> tuple[list[str], list[str]]:
    names = list_images(folder)
    return names, names


def _whole_places(labels: Sequence[str], max_images: int) -> list[int]:
    """Rows of evenly spaced places, each with all its images, until `max_images` is reached."""
    rows_of: dict[str, list[int]] = {}
    for k, label in enumerate(labels):
        rows_of.setdefault(label, []).append(k)
    groups = list(rows_of.values())
    num_places = len(groups)
    while num_places > 1 and sum(len(groups[k]) for k in spread(len(groups), num_places)) > max_images:
        num_places -= 1
    return [row for k in spread(len(groups), num_places) for row in groups[k]]


def _from_labels(images: list[Image], places: list[str], source: str) -> ProbeImages:
    is_query = np.array([place in places[:k] for k, place in enumerate(places)], dtype=np.bool_)
    if not is_query.any():
        raise SourceError(f"{source}: no place has two images, so there is no query; give some places a second image")
    label = np.unique(places, return_inverse=True)[1]
    same = np.asarray(label[:, None] == label[None, :])
    return ProbeImages(tuple(images), is_query, same, ~same, source)


def _moved_copy(image: Image) -> Image:
    """The image turned by 1.5 degrees, 5 per cent nearer, shifted by 2 per cent and 8 per cent brighter."""
    height, width = image.shape[:2]
    motion = cv2.getRotationMatrix2D((width / 2, height / 2), 1.5, 1.05)
    motion[:, 2] += (0.02 * width, -0.01 * height)
    moved = cv2.warpAffine(image, motion, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(np.clip(moved * 1.08 + 4.0, 0, 255), dtype=np.uint8)
