"""CosPlace's partition (arXiv 2204.02287, section 3.1): images with position and heading to classes and groups.

A class is a cell of M x M metres and alpha degrees. Neighbouring classes may show the same things, so those of one
group lie apart: their cells are equal modulo N eastwards and northwards, and modulo L in heading.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progeo_edge.errors import InputError, SourceError
from progeo_train.config import PlacesConfig
from progeo_train.data.place_groups import PlaceGroups

logger = logging.getLogger(__name__)

FULL_CIRCLE_DEG = 360.0


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The cells that hold an image, in the order of region, east, north and heading.

    Attributes:
        class_of_row: (N,) int64, cell of each image; -1 where position or heading is unknown.
        region: (C,) int64.
        east: (C,) float64 whole numbers, floor of metres over M; a float holds any finite coordinate.
        north: (C,) float64, as east.
        heading: (C,) float64, floor of degrees over alpha.
        sizes: (C,) int64 images of each cell, at least 1.
    """

    class_of_row: NDArray[np.int64]
    region: NDArray[np.int64]
    east: NDArray[np.float64]
    north: NDArray[np.float64]
    heading: NDArray[np.float64]
    sizes: NDArray[np.int64]


def partition(
    east_m: ArrayLike, north_m: ArrayLike, heading_deg: ArrayLike, places: PlacesConfig, region: ArrayLike | None = None
) -> PlaceGroups:
    """Group images by where they were taken and where they look.

    Two images of different classes of one group are more than (N - 1) M metres apart eastwards or northwards, or their
    headings differ by more than (L - 1) alpha degrees - counted without the wrap at north: where alpha L does not
    divide 360, the last heading class of a group and its first are nearer to each other than that.

    Args:
        east_m: (N,) metres; NaN leaves an image out.
        north_m: (N,) metres; NaN leaves an image out.
        heading_deg: (N,) degrees, taken modulo 360; NaN leaves an image out, unless one class takes all headings
            (places.heading_deg = 360).
        places: Cell sizes, strides, number of groups and the smallest class.
        region: (N,) integers; images of different regions never share a class. None: one region.

    Returns:
        The first `places.groups` groups that hold a class, in the order of their (east, north, heading) remainders.

    Raises:
        InputError: columns of different lengths.
        SourceError: no class has `places.min_images_per_class` images.
    """
    cells = find_cells(east_m, north_m, heading_deg, places, region)
    large = cells.sizes >= places.min_images_per_class
    if not large.any():
        raise SourceError(_no_class(cells.sizes, places))
    _warn_of_wrap(places)
    remainders = np.stack(
        [
            np.mod(cells.east, places.cell_stride),
            np.mod(cells.north, places.cell_stride),
            np.mod(cells.heading, places.heading_stride),
        ],
        axis=1,
    )
    group_of_class = np.full(len(large), -1, np.int64)
    found, group_of_class[large] = _number_rows(remainders[large])
    group_of_class[group_of_class >= places.groups] = -1
    if found < places.groups:
        logger.info("the images fill %d groups of places; places.groups asks for %d", found, places.groups)
    return PlaceGroups.from_labels(cells.class_of_row, group_of_class, _names(cells, places))


def find_cells(
    east_m: ArrayLike, north_m: ArrayLike, heading_deg: ArrayLike, places: PlacesConfig, region: ArrayLike | None = None
) -> Cells:
    """Sort images into cells; arguments as for `partition`."""
    columns = [np.asarray(column, np.float64) for column in (east_m, north_m, heading_deg)]
    columns.insert(0, np.zeros(len(columns[0])) if region is None else np.asarray(region, np.float64))
    if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
        raise InputError(f"columns have the shapes {[column.shape for column in columns]}; expected one length for all")
    regions, east, north, heading = columns
    if places.heading_deg >= FULL_CIRCLE_DEG:
        heading = np.zeros_like(heading)
    rows = np.flatnonzero(np.isfinite(east) & np.isfinite(north) & np.isfinite(heading))
    indices = np.stack(
        [
            regions[rows],
            np.floor_divide(east[rows], places.cell_m),
            np.floor_divide(north[rows], places.cell_m),
            np.floor_divide(wrap_heading_deg(heading[rows]), places.heading_deg),
        ],
        axis=1,
    )
    count, cell_of_row = _number_rows(indices)
    first = np.zeros(count, np.int64)
    first[cell_of_row[::-1]] = np.arange(len(rows))[::-1]
    cells = indices[first]
    class_of_row = np.full(len(east), -1, np.int64)
    class_of_row[rows] = cell_of_row
    sizes = np.bincount(cell_of_row, minlength=count).astype(np.int64)
    return Cells(class_of_row, cells[:, 0].astype(np.int64), cells[:, 1], cells[:, 2], cells[:, 3], sizes)


def wrap_heading_deg(heading_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Headings in [0, 360); NaN stays."""
    wrapped: NDArray[np.float64] = np.mod(heading_deg, FULL_CIRCLE_DEG)
    wrapped[wrapped >= FULL_CIRCLE_DEG] = 0.0  # the remainder of a tiny negative angle rounds to 360 itself
    return wrapped


def _number_rows(rows: NDArray[np.float64]) -> tuple[int, NDArray[np.int64]]:
    """Number of distinct rows, and for each row its place among them in lexicographic order.

    As numpy.unique(axis=0, return_inverse=True), but in a fraction of its time.
    """
    order = np.lexsort(rows.T[::-1])
    ordered = rows[order]
    is_new = np.ones(len(rows), np.bool_)
    is_new[1:] = np.any(ordered[1:] != ordered[:-1], axis=1)
    numbers = np.empty(len(rows), np.int64)
    numbers[order] = np.cumsum(is_new) - 1
    return int(is_new.sum()), numbers


def _names(cells: Cells, places: PlacesConfig) -> list[str]:
    """What to call each class: the south-west corner of its cell, and where its headings begin."""
    corners = zip(
        (cells.east * places.cell_m).tolist(),
        (cells.north * places.cell_m).tolist(),
        (cells.heading * places.heading_deg).tolist(),
        strict=True,
    )
    return [f"{east:.10g} m E, {north:.10g} m N, {heading:g} deg" for east, north, heading in corners]


def _no_class(sizes: NDArray[np.int64], places: PlacesConfig) -> str:
    if not len(sizes):
        return (
            "no image has both a position and a heading; expected finite east, north and heading, or other labels of "
            "places in a CSV"
        )
    return (
        f"no place has places.min_images_per_class = {places.min_images_per_class} images: the largest of {len(sizes)} "
        f"cells of {places.cell_m:g} m and {places.heading_deg:g} deg has {sizes.max()}, half of them have at most "
        f"{int(np.median(sizes))}; lower places.min_images_per_class, or make places.cell_m larger"
    )


def _warn_of_wrap(places: PlacesConfig) -> None:
    stride_deg = places.heading_deg * places.heading_stride
    if places.heading_stride > 1 and places.heading_deg < FULL_CIRCLE_DEG and FULL_CIRCLE_DEG % stride_deg:
        logger.warning(
            "places.heading_deg %g times places.heading_stride %d does not divide 360: at north, classes of a group "
            "are nearer to each other than elsewhere",
            places.heading_deg,
            places.heading_stride,
        )
