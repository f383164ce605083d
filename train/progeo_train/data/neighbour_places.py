"""Places of images without a common metric frame: labels, neighbours in time or odometry, and loop closures.

A class is one place; a group holds classes that are told apart in one epoch. What may show the same place never shares
a group: neighbours, classes tied by a loop closure, and whatever two sequences saw of one region, since revisits
between them are not labelled. Regions are the opposite promise: other regions are true negatives. Sequences without a
region (-1) are taken to be of places of their own, like regions that nobody else visits.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError, SourceError
from progeo_train.config import PlacesConfig
from progeo_train.data.group_colouring import NO_GROUP, RegionClaims, colour_classes
from progeo_train.data.image_table import ImageTable
from progeo_train.data.loop_places import conflicts_through_closures, join_windows, window_links
from progeo_train.data.place_groups import PlaceGroups
from progeo_train.data.place_windows import PlaceWindows, has_odometry, odometry_cells, time_windows

logger = logging.getLogger(__name__)

NO_CLOSURES = np.zeros((0, 2), np.int64)


def time_window_groups(table: ImageTable, places: PlacesConfig) -> PlaceGroups:
    """Neighbours in time are a place: consecutive windows of `places.window_s` of every sequence.

    Windows of one sequence less than `places.min_gap_s` apart conflict; two sequences of one region conflict wholly.

    Raises:
        SourceError: no image has a time, or no window holds `places.min_images_per_class` images.
    """
    return _window_groups(table, time_windows(table, places), NO_CLOSURES, places)


def joined_groups(table: ImageTable, closures: NDArray[np.int64], places: PlacesConfig) -> PlaceGroups:
    """As the two above, where loop closures join windows of different times into one class (`join_windows`).

    Windows are cells where at least half of the images have odometry, and of time otherwise. Classes tied by a closure
    that did not join them conflict, and so do the neighbours of its two ends that are, around that corner, less than
    the minimum gap apart.

    Args:
        table: Images of recordings.
        closures: (K, 2) int64 rows of the table that were verified to show the same place.
        places: Sizes and gaps.

    Raises:
        SourceError: as the two above.
        InputError: a closure of a row that the table does not have.
    """
    if len(closures) and (closures.min() < 0 or closures.max() >= len(table)):
        raise InputError(f"closures name rows {closures.min()} to {closures.max()} of a table of {len(table)} images")
    windows = odometry_cells(table, places) if has_odometry(table) else time_windows(table, places)
    return _window_groups(table, windows, closures, places)


def place_label_groups(table: ImageTable, places: PlacesConfig) -> PlaceGroups:
    """One class per label. Labels of one region conflict, as two buildings on one photograph do; others never.

    A label with images of several regions conflicts in each of them.

    Raises:
        SourceError: no image has a label, or no label has `places.min_images_per_class` images.
    """
    labelled = table.place >= 0
    in_region = labelled & (table.region >= 0)
    label_of_region = np.unique(np.stack([table.place[in_region], table.region[in_region]], axis=1), axis=0)
    classes, regions = label_of_region.astype(np.int64).T
    return _coloured(
        table.place.astype(np.int64),
        table.place_names,
        NO_CLOSURES,
        RegionClaims(classes, _numbered(regions), classes),
        places,
        "labels",
    )


def _window_groups(
    table: ImageTable, windows: PlaceWindows, closures: NDArray[np.int64], places: PlacesConfig
) -> PlaceGroups:
    if not len(windows):
        raise SourceError(
            f"{table.root}: none of its {len(table)} images has a time or an odometry pose to find neighbours by; "
            f"expected a recording, or images with positions or place labels"
        )
    founder_of_class, class_of_window = join_windows(windows, closures)
    class_of_row = np.where(windows.of_row >= 0, class_of_window[windows.of_row], -1)
    links = window_links(windows, closures)
    conflicts = class_of_window[np.concatenate([windows.near, conflicts_through_closures(windows, links)])]
    # A class is at home where it was founded: counting the windows that joined it would set it against its own region.
    classes = np.flatnonzero(windows.region[founder_of_class] >= 0)
    founders = founder_of_class[classes]
    claims = RegionClaims(classes, _numbered(windows.region[founders]), windows.stretch[founders])
    names = [windows.names[founder] for founder in founder_of_class]
    return _coloured(class_of_row, names, conflicts, claims, places, "windows")


def _coloured(
    class_of_row: NDArray[np.int64],
    names: Sequence[str],
    conflicts: NDArray[np.int64],
    claims: RegionClaims,
    places: PlacesConfig,
    kind: str,
) -> PlaceGroups:
    """Leave small classes out, colour the others."""
    sizes = np.bincount(class_of_row[class_of_row >= 0], minlength=len(names))
    large = sizes >= places.min_images_per_class
    if not large.any():
        raise _all_too_small(sizes, places, kind)
    number = np.where(large, np.cumsum(large) - 1, -1)
    kept = conflicts[large[conflicts].all(axis=1)]
    claimed = large[claims.classes]
    kept_claims = RegionClaims(number[claims.classes[claimed]], claims.regions[claimed], claims.homes[claimed])
    group = colour_classes(int(large.sum()), number[kept], kept_claims, places.groups)
    _log_left_out(sizes, large, group, places, kind)
    group_of_class = np.full(len(names), NO_GROUP, np.int64)
    group_of_class[large] = group
    return PlaceGroups.from_labels(class_of_row, group_of_class, names)


def _all_too_small(sizes: NDArray[np.int64], places: PlacesConfig, kind: str) -> SourceError:
    wider = "" if kind == "labels" else ", or widen places.window_s (odometry: places.cell_m)"
    return SourceError(
        f"none of {len(sizes)} places ({kind}) holds the {places.min_images_per_class} images of "
        f"places.min_images_per_class, the largest {sizes.max(initial=0)}; lower it{wider}"
    )


def _log_left_out(
    sizes: NDArray[np.int64],
    large: NDArray[np.bool_],
    group: NDArray[np.int64],
    places: PlacesConfig,
    kind: str,
) -> None:
    num_small = int((~large).sum())
    if num_small:
        logger.info(
            "%d of %d places (%s) with %d images are left out: fewer than %d images each",
            *(num_small, len(sizes), kind, int(sizes[~large].sum()), places.min_images_per_class),
        )
    num_crowded = int((group == NO_GROUP).sum())
    if num_crowded:
        logger.warning(
            "%d of %d places (%s) are left out: so many lie close together that %d groups cannot keep them apart; "
            "raise places.groups or lower places.min_gap_s and places.min_gap_m",
            *(num_crowded, len(group), kind, places.groups),
        )


def _numbered(values: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)
