"""Folders whose file names carry position and heading between "@" signs, as SF-XL and the sets in its format do.

`@ east @ north @ zone @ letter @ latitude @ longitude @ panorama @ tile @ heading @ ... @.jpg`: split at "@", field 1
is the easting and field 2 the northing in metres, field 3 the UTM zone, field 9 the heading in degrees.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import SourceError
from progeo_train.config import PlacesConfig
from progeo_train.data.image_table import UNKNOWN, ImageNames, ImageTable
from progeo_train.data.partition import FULL_CIRCLE_DEG, partition, wrap_heading_deg
from progeo_train.data.place_groups import PlaceGroups
from progeo_train.data.scan_cache import Progress, scan_images

logger = logging.getLogger(__name__)

EAST_FIELD, NORTH_FIELD, ZONE_FIELD, HEADING_FIELD = 1, 2, 3, 9
NUM_ZONES = 60

_WIDEST_NUMBER = 32
_NAMES_AT_A_TIME = 1 << 17


def read_utm_folder(
    folder: Path, places: PlacesConfig, cache_folder: Path | None, progress: Progress | None = None
) -> tuple[ImageTable, PlaceGroups]:
    """List a folder, read the file names, and partition the images.

    Images without a position or a heading stay in the table (with NaN) and out of the groups. The UTM zone becomes the
    region, since coordinates of different zones have nothing to do with each other.

    Args:
        folder: Images at any depth.
        places: What a place is.
        cache_folder: Where the list of names is kept; None keeps none.
        progress: Called with the number of images found while the folder is walked.

    Raises:
        SourceError: no image; none with a position in its name; none with a heading (unless places.heading_deg is
            360); no class with enough images.
    """
    table = read_utm_names(folder, scan_images(folder, cache_folder, progress))
    _check_positions(table, folder)
    if places.heading_deg < FULL_CIRCLE_DEG:
        _check_headings(table, folder, places)
    return table, partition(table.east_m, table.north_m, table.heading_deg, places, table.region)


def read_utm_names(root: Path, names: ImageNames) -> ImageTable:
    """Read what the names say; a field that is absent, empty or no finite number is unknown."""
    zone = number_fields(names, ZONE_FIELD)
    is_zone = (zone >= 1) & (zone <= NUM_ZONES)
    return ImageTable.of(
        root,
        names,
        east_m=number_fields(names, EAST_FIELD),
        north_m=number_fields(names, NORTH_FIELD),
        heading_deg=wrap_heading_deg(number_fields(names, HEADING_FIELD)),
        region=np.where(is_zone, zone, UNKNOWN).astype(np.int32),
    )


def number_fields(names: ImageNames, field: int) -> NDArray[np.float64]:
    """Numbers between the "@" number `field` and the next one of each file name (its folders do not count).

    Works on the bytes of all names at once: a million names take about a second.

    Returns:
        (N,) float64; NaN where the field is absent, empty or no finite number.
    """
    text = np.frombuffer(names.blob, np.uint8)
    at_signs = np.flatnonzero(text == ord("@"))
    first = np.searchsorted(at_signs, _file_name_starts(names, text))
    num_signs = np.searchsorted(at_signs, names.offsets[1:]) - first
    values = np.full(len(names), np.nan)
    rows = np.flatnonzero(num_signs >= field)
    starts = at_signs[first[rows] + field - 1] + 1
    ends = names.offsets[rows + 1].copy()
    is_closed = num_signs[rows] > field
    ends[is_closed] = at_signs[first[rows[is_closed]] + field]
    for begin in range(0, len(rows), _NAMES_AT_A_TIME):
        part = slice(begin, begin + _NAMES_AT_A_TIME)
        values[rows[part]] = _parse(text, starts[part], ends[part])
    values[~np.isfinite(values)] = np.nan
    return values


def _file_name_starts(names: ImageNames, text: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where the last part of each path begins."""
    slashes = np.flatnonzero(text == ord("/"))
    last_before_end = np.searchsorted(slashes, names.offsets[1:]) - 1
    starts: NDArray[np.int64] = names.offsets[:-1].copy()
    if len(slashes):
        after_slash = slashes[np.maximum(last_before_end, 0)] + 1
        has_folder = (last_before_end >= 0) & (after_slash > starts)
        starts[has_folder] = after_slash[has_folder]
    return starts


def _parse(text: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers of the pieces [start, end) of a text; NaN where a piece is none."""
    lengths = ends - starts
    width = int(min(lengths.max(initial=1), _WIDEST_NUMBER)) or 1
    columns = np.arange(width)
    is_inside = columns < lengths[:, None]
    pieces = np.where(is_inside, text[np.minimum(starts[:, None] + columns, len(text) - 1)], 0).astype(np.uint8)
    words = pieces.view(f"S{width}")[:, 0]
    words = np.where((lengths == 0) | (lengths > width), b"nan", words)
    try:
        return words.astype(np.float64)
    except ValueError:
        return np.array([_number(word) for word in words.tolist()], np.float64)


def _number(word: bytes) -> float:
    try:
        return float(word)
    except ValueError:
        return np.nan


def _check_positions(table: ImageTable, folder: Path) -> None:
    without = int(np.sum(np.isnan(table.east_m) | np.isnan(table.north_m)))
    if without == len(table):
        raise SourceError(
            f"{folder}: none of {without} images has a UTM position in its name, such as {table.names[0]}; expected "
            "'@ east @ north @ ... @ heading @ ... @.jpg', or a CSV of image, east_m, north_m, heading_deg"
        )
    if without:
        logger.warning("%s: %d of %d images have no UTM position in their names", folder, without, len(table))


def _check_headings(table: ImageTable, folder: Path, places: PlacesConfig) -> None:
    without = int(np.sum(np.isnan(table.heading_deg)))
    if without == len(table):
        raise SourceError(
            f"{folder}: none of {without} images has a heading in its name, such as {table.names[0]}; expected degrees "
            f"after the ninth '@', for classes of places.heading_deg = {places.heading_deg:g}; state headings in a CSV "
            "of image, east_m, north_m, heading_deg, or set places.heading_deg=360 to make places of positions alone"
        )
    if without:
        logger.warning("%s: %d of %d images have no heading and are left out", folder, without, len(table))
