"""Verified loop closures as positives across time: which windows of a recording show the same place."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from progeo_train.data.group_colouring import distinct_pairs
from progeo_train.data.place_windows import PlaceWindows, expand_ranges

ENOUGH_IMAGES = 2
"""So many images of a window, or a third of them, must point to a class before the window joins it."""

_PAIRS_AT_ONCE = 4_000_000


def join_windows(windows: PlaceWindows, closures: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Walk the windows in time; each joins the class that most of its images are closed with, or founds one.

    It joins when at least two of its images, or a third of them, point to the class.

    Closures are not followed without end. A robot that creeps along, or whose laps are staggered, closes every window
    with the next, and the transitive closure of "same place" would make one class of the whole path. So an image of a
    window that has joined attracts others only where it is itself closed with an image of the founding window: nothing
    in a class is more than two closures away from the window that founded it.

    Args:
        windows: W windows.
        closures: (K, 2) int64 rows of images that show the same place, in any order.

    Returns:
        The founding window of every class (C,), and the class of every window (W,), both int64.
    """
    partners = _partners(windows, closures)
    rows_of_window = _rows_by_window(windows)
    order = np.lexsort((np.arange(len(windows)), windows.start_s, windows.sequence))
    class_of_window = np.full(len(windows), -1, np.int64)
    anchor: dict[int, int] = {}
    founders: list[int] = []
    for window in order.tolist():
        rows = rows_of_window[window]
        votes = Counter(
            target for row in rows for target in {anchor[other] for other in partners.get(row, ()) if other in anchor}
        )
        target, count = max(votes.items(), key=lambda item: (item[1], -item[0]), default=(-1, 0))
        if count and (count >= ENOUGH_IMAGES or 3 * count >= len(rows)):
            class_of_window[window] = target
            founder = founders[target]
            near_founder = (
                row for row in rows if any(windows.of_row[other] == founder for other in partners.get(row, ()))
            )
            anchor.update((row, target) for row in near_founder)
        else:
            class_of_window[window] = len(founders)
            anchor.update((row, len(founders)) for row in rows if row in partners)
            founders.append(window)
    return np.array(founders, np.int64), class_of_window


def window_links(windows: PlaceWindows, closures: NDArray[np.int64]) -> NDArray[np.int64]:
    """(L, 2) int64 pairs of different windows tied by a closure, each once, the smaller number first."""
    ends = np.sort(windows.of_row[closures], axis=1)
    return distinct_pairs(ends[(ends[:, 0] >= 0) & (ends[:, 0] != ends[:, 1])], len(windows))


def conflicts_through_closures(windows: PlaceWindows, links: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of windows whose way through one closure is shorter than the reach: the revisits that nobody labelled.

    Where two windows are tied, the windows before and after them show one stretch of the path twice as well, whether
    or not they were closed too.

    Args:
        windows: W windows.
        links: (L, 2) int64 pairs of `window_links`.

    Returns:
        (E, 2) int64 pairs of windows, the links among them.
    """
    start, other, gap = _near_lists(windows)
    sizes = np.diff(start)
    pairs = [links]
    for part in _parts(links, sizes):
        link, left = expand_ranges(start[part[:, 0]], start[part[:, 0] + 1])
        both, right = expand_ranges(start[part[link, 1]], start[part[link, 1] + 1])
        short = gap[left[both]] + gap[right] < windows.reach
        ends = np.stack([other[left[both[short]]], other[right[short]]], axis=1)
        pairs.append(distinct_pairs(ends, len(windows)))
    return np.concatenate(pairs)


def _parts(links: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Cut the links so that the neighbours of one part's ends, each with each, fit into memory."""
    number = np.cumsum(sizes[links[:, 0]] * sizes[links[:, 1]]) // _PAIRS_AT_ONCE
    return np.split(links, np.flatnonzero(np.diff(number)) + 1) if len(links) else []


def _near_lists(windows: PlaceWindows) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Windows near each window, itself included at 0: where its list starts (W + 1,), the lists, the gaps."""
    every = np.arange(len(windows))
    first = np.concatenate([every, windows.near[:, 0], windows.near[:, 1]])
    second = np.concatenate([every, windows.near[:, 1], windows.near[:, 0]])
    gap = np.concatenate([np.zeros(len(every)), windows.near_gap, windows.near_gap])
    order = np.argsort(first, kind="stable")
    start = np.searchsorted(first[order], np.arange(len(windows) + 1))
    return start.astype(np.int64), second[order], gap[order]


def _partners(windows: PlaceWindows, closures: NDArray[np.int64]) -> dict[int, set[int]]:
    partners: dict[int, set[int]] = {}
    for a, b in closures.tolist():
        if windows.of_row[a] >= 0 and windows.of_row[b] >= 0:
            partners.setdefault(a, set()).add(b)
            partners.setdefault(b, set()).add(a)
    return partners


def _rows_by_window(windows: PlaceWindows) -> list[list[int]]:
    order = np.argsort(windows.of_row, kind="stable")
    start = np.searchsorted(windows.of_row[order], np.arange(len(windows) + 1))
    rows = order.tolist()
    return [rows[start[k] : start[k + 1]] for k in range(len(windows))]
