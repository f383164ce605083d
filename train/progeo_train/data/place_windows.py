"""Pieces of a recording that show one place each: windows of time, and cells of the odometry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import SourceError
from progeo_train.config import PlacesConfig
from progeo_train.data.image_table import ImageTable

APART_DEG = 90.0
"""Headings of one spot that differ by this much share too little of the view to be confused."""

EARLY_SHARE = 0.05
"""Share of the frame interval by which a frame of a recording may come early (`progeo_edge.sources.rate`)."""

_LARGEST_KEY = 2**62


@dataclass(frozen=True, slots=True, eq=False)
class PlaceWindows:
    """Images of one stretch that were taken close together, and which of these windows are near each other.

    A stretch is what one sequence shows of one region: time and odometry say nothing beyond it.

    Attributes:
        of_row: (N,) int64 window of every image; -1 without what the windows are made of (a time, a position).
        names: (W,) what to call a window in messages.
        stretch: (W,) int64 number of its stretch.
        region: (W,) int64 region, -1 is unknown.
        start_s: (W,) float64 time of its first image; NaN without times.
        sequence: (W,) int64 sequence.
        near: (P, 2) int64 pairs of windows of one stretch, the first number smaller, that are too near each other to
            be told apart.
        near_gap: (P,) float64 smallest distance between images of such a pair (a lower bound of it for cells), in
            the unit of `reach`.
        reach: Distance below which two windows are near, in seconds or metres.
    """

    of_row: NDArray[np.int64]
    names: tuple[str, ...]
    stretch: NDArray[np.int64]
    region: NDArray[np.int64]
    start_s: NDArray[np.float64]
    sequence: NDArray[np.int64]
    near: NDArray[np.int64]
    near_gap: NDArray[np.float64]
    reach: float

    def __len__(self) -> int:
        return len(self.names)


def time_windows(table: ImageTable, places: PlacesConfig) -> PlaceWindows:
    """Cut every stretch into consecutive windows of `places.window_s`, counted from its first image.

    Two windows are near when the last image of one and the first of the other are less than `places.min_gap_s`
    apart. Images without a time are left out.
    """
    rows = np.flatnonzero(np.isfinite(table.time_s))
    stretch = _stretches(table, rows)
    time_s = table.time_s[rows]
    first_s = np.full(int(stretch.max(initial=-1)) + 1, np.inf)
    np.minimum.at(first_s, stretch, time_s)
    # The source may take a frame a little before it is due; that frame opens the next window, it does not crowd this.
    early_s = EARLY_SHARE * places.frame_interval_s
    number = np.floor((time_s - first_s[stretch] + early_s) / places.window_s).astype(np.int64)
    _, first_rows, window = np.unique(
        np.stack([stretch, number], axis=1), axis=0, return_index=True, return_inverse=True
    )
    window = window.reshape(-1)
    start_s, end_s = _spans(time_s, window, len(first_rows))
    near, gap_s = _near_in_time(stretch[first_rows], start_s, end_s, places.min_gap_s)
    sequence = table.sequence[rows[first_rows]].astype(np.int64)
    names = tuple(
        f"{table.sequence_names[k]} {start:.1f}-{end:.1f} s".strip()
        for k, start, end in zip(sequence, start_s, end_s, strict=True)
    )
    return PlaceWindows(
        of_row=_spread(rows, window, len(table)),
        names=names,
        stretch=stretch[first_rows],
        region=table.region[rows[first_rows]].astype(np.int64),
        start_s=start_s,
        sequence=sequence,
        near=near,
        near_gap=gap_s,
        reach=places.min_gap_s,
    )


def odometry_cells(table: ImageTable, places: PlacesConfig) -> PlaceWindows:
    """Cut every stretch into cells of `places.cell_m` and headings of `places.heading_deg` in its odometry frame.

    Two cells are near when their squares are less than `places.min_gap_m` apart, which is never more than the
    distance of their images, unless all their headings differ by `APART_DEG` or more. Images without position or
    heading are left out. Odometry is believed: where it has drifted, one spot lies in several cells.

    Raises:
        SourceError: positions that span too many cells to be counted.
    """
    known = np.isfinite(table.east_m) & np.isfinite(table.north_m) & np.isfinite(table.heading_deg)
    rows = np.flatnonzero(known)
    cell = np.stack(
        [
            _stretches(table, rows),
            np.floor(table.east_m[rows] / places.cell_m).astype(np.int64),
            np.floor(table.north_m[rows] / places.cell_m).astype(np.int64),
            np.floor(table.heading_deg[rows] % 360.0 / places.heading_deg).astype(np.int64),
        ],
        axis=1,
    )
    cells, first_rows, window = np.unique(cell, axis=0, return_index=True, return_inverse=True)
    window = window.reshape(-1)
    near, gap_m = _near_cells(cells, places)
    sequence = table.sequence[rows[first_rows]].astype(np.int64)
    names = tuple(
        f"{table.sequence_names[k]} x {x * places.cell_m:g} m y {y * places.cell_m:g} m "
        f"heading {h * places.heading_deg:g} deg".strip()
        for k, (_, x, y, h) in zip(sequence, cells.tolist(), strict=True)
    )
    return PlaceWindows(
        of_row=_spread(rows, window, len(table)),
        names=names,
        stretch=cells[:, 0],
        region=table.region[rows[first_rows]].astype(np.int64),
        start_s=_spans(table.time_s[rows], window, len(cells))[0],
        sequence=sequence,
        near=near,
        near_gap=gap_m,
        reach=places.min_gap_m,
    )


def has_odometry(table: ImageTable) -> bool:
    """Whether at least half of the images have position and heading; with fewer, time says more."""
    known = np.isfinite(table.east_m) & np.isfinite(table.north_m) & np.isfinite(table.heading_deg)
    return len(table) > 0 and 2 * int(known.sum()) >= len(table)


def expand_ranges(first: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All (k, j) with first[k] <= j < end[k], as two arrays; empty ranges give nothing."""
    sizes = np.maximum(end - first, 0)
    owner = np.repeat(np.arange(len(first)), sizes)
    offset = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return owner, first[owner] + offset


def _stretches(table: ImageTable, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    keys = np.stack([table.sequence[rows], table.region[rows]], axis=1)
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _spread(rows: NDArray[np.int64], window: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    of_row = np.full(count, -1, np.int64)
    of_row[rows] = window
    return of_row


def _spans(
    time_s: NDArray[np.float64], window: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    start_s, end_s = np.full(count, np.nan), np.full(count, np.nan)
    np.fmin.at(start_s, window, time_s)
    np.fmax.at(end_s, window, time_s)
    return start_s, end_s


def _near_in_time(
    stretch: NDArray[np.int64], start_s: NDArray[np.float64], end_s: NDArray[np.float64], min_gap_s: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Windows are sorted by stretch and time, so the gap grows with the difference of their numbers."""
    pairs, gaps_s = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    candidates = np.arange(len(stretch))
    for step in range(1, len(stretch)):
        candidates = candidates[candidates + step < len(stretch)]
        gap_s = start_s[candidates + step] - end_s[candidates]
        is_near = (stretch[candidates + step] == stretch[candidates]) & (gap_s < min_gap_s)
        candidates = candidates[is_near]
        if not len(candidates):
            break
        pairs.append(np.stack([candidates, candidates + step], axis=1))
        gaps_s.append(gap_s[is_near])
    return np.concatenate(pairs), np.concatenate(gaps_s)


def _near_cells(cells: NDArray[np.int64], places: PlacesConfig) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Cells are sorted by (stretch, x, y, heading), so those of one column within a span of y are a range."""
    if not len(cells):
        return np.zeros((0, 2), np.int64), np.zeros(0)
    reach = int(places.min_gap_m // places.cell_m) + 1
    low = cells.min(axis=0) - reach
    span = [int(size) for size in cells.max(axis=0) + reach + 1 - low]
    if span[0] * span[1] * span[2] * span[3] > _LARGEST_KEY:
        raise SourceError(
            f"the odometry spans {span[1] * places.cell_m:.3g} x {span[2] * places.cell_m:.3g} m, too much for cells "
            f"of {places.cell_m:g} m; correct its outliers or raise places.cell_m"
        )
    column = (cells[:, 0] - low[0]) * span[1] + cells[:, 1] - low[1]
    y = cells[:, 2] - low[2]
    keys = (column * span[2] + y) * span[3] + cells[:, 3] - low[3]
    pairs = []
    for step in range(reach + 1):
        corner = (column + step) * span[2] + y
        begin = np.searchsorted(keys, (corner - reach) * span[3])
        end = np.searchsorted(keys, (corner + reach + 1) * span[3])
        pairs.append(np.stack(expand_ranges(begin, end), axis=1))
    near = np.concatenate(pairs)
    near = near[near[:, 0] < near[:, 1]]
    between = np.maximum(np.abs(cells[near[:, 0], 1:3] - cells[near[:, 1], 1:3]) - 1, 0) * places.cell_m
    gap_m = np.hypot(between[:, 0], between[:, 1])
    angle = _heading_gaps_deg(places.heading_deg)[cells[near[:, 0], 3], cells[near[:, 1], 3]]
    kept = (gap_m < places.min_gap_m) & (angle < APART_DEG)
    return near[kept], gap_m[kept]


def _heading_gaps_deg(bin_deg: float) -> NDArray[np.float64]:
    """(B, B) smallest angle between headings of two bins; the last bin is narrower when the width does not fit."""
    start = np.arange(0.0, 360.0, bin_deg)
    end = np.minimum(start + bin_deg, 360.0)
    ahead = (start[None, :] - end[:, None]) % 360.0
    gaps: NDArray[np.float64] = np.minimum(ahead, ahead.T)
    np.fill_diagonal(gaps, 0.0)
    return gaps
