"""Which axes to code descriptors along: a few that hold most of them, where there are such, or all D as they come.

Descriptors of real images lie near a few axes (their principal ones, of the second moment about zero, since products
and not distances are wanted). The fewer axes, the fewer bytes are read per search, and the more rows the looser bound
lets through. Both prices are known from a sample, and the cheaper choice is taken; a wrong one costs time, never an
answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from progeo_edge.coded_rows import coded

Axes = NDArray[np.float64] | None
"""(h, D) orthonormal rows; None for the D axes that descriptors come in."""

SAMPLED_ROWS = 2048
"""Rows that axes are learned from and prices are taken on."""
ASKED_ROWS = 32
"""Of those, rows that serve as queries."""
NUM_AXES = (64, 128, 256, 384)
"""Choices beside all of them."""
USUAL_K = 100
"""Neighbours that a search is expected to ask for."""
FULL_COMPARISON = 6.0
"""Price of a byte of a full comparison, here and there in memory, in bytes read in a row: 2.5 to 9 were measured."""

WORTHWHILE = 0.85
"""Part of the price that other axes may have at most to replace those in use."""

_POWER_ITERATIONS = 3
_SEED = 7


def choose_axes(sample: NDArray[np.float32], num_rows: int) -> Axes:
    """The axes for an index of so many rows like these.

    Args:
        sample: (S, D) rows of the index.
        num_rows: Rows of the index.

    Returns:
        (h, D) float64 orthonormal rows, or None for all D.
    """
    dimension = sample.shape[1]
    numbers = [number for number in NUM_AXES if number < dimension]
    if not numbers:
        return None
    leading = principal_axes(sample, max(numbers))
    choices = [None, *(evenly_mixed(leading[:number]) for number in numbers)]
    return min(choices, key=lambda axes: price(sample, num_rows, axes))


def better_axes(sample: NDArray[np.float32], num_rows: int, current: Axes) -> Axes:
    """Those in use, unless others are so much cheaper that coding all rows anew is worth it."""
    others = choose_axes(sample, num_rows)
    gain = price(sample, num_rows, others) / price(sample, num_rows, current)
    return others if gain < WORTHWHILE else current


def principal_axes(rows: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """(count, D) orthonormal, the one with most of the rows first: subspace iteration on their second moment."""
    moment = (rows.T @ rows).astype(np.float64)
    axes = np.random.default_rng(_SEED).standard_normal((rows.shape[1], count))
    for _ in range(_POWER_ITERATIONS):
        axes, _ = np.linalg.qr(moment @ axes)
    _, turns = np.linalg.eigh(axes.T @ moment @ axes)
    turned: NDArray[np.float64] = np.linalg.qr(axes @ turns[:, ::-1])[0]
    return np.ascontiguousarray(turned.T)


def evenly_mixed(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same space by axes that each hold about as much, so that one scale per row suits them all."""
    turn, _ = np.linalg.qr(np.random.default_rng(_SEED).standard_normal((len(axes), len(axes))))
    mixed: NDArray[np.float64] = np.linalg.qr((turn @ axes).T)[0]
    return np.ascontiguousarray(mixed.T)


def price(sample: NDArray[np.float32], num_rows: int, axes: Axes) -> float:
    """Bytes per row that a search reads: the codes of all, and in full those that the bound lets through."""
    dimension = sample.shape[1]
    step = max(1, len(sample) // ASKED_ROWS)
    asked = np.arange(0, len(sample), step)[:ASKED_ROWS]
    similarities = sample[asked] @ sample.T
    bounds = _upper_bounds(sample, asked, axes)
    # A row is its own nearest neighbour, which says nothing.
    similarities[np.arange(len(asked)), asked] = bounds[np.arange(len(asked)), asked] = -np.inf
    rank = min(len(sample) - 1, round(USUAL_K * len(sample) / max(num_rows, len(sample))))
    reached = np.partition(similarities, len(sample) - 1 - rank, axis=1)[:, len(sample) - 1 - rank]
    share = float(np.mean(bounds >= reached[:, None]))
    codes = dimension if axes is None else len(axes)
    return float(codes + FULL_COMPARISON * 4 * dimension * share)


def _upper_bounds(sample: NDArray[np.float32], asked: NDArray[np.intp], axes: Axes) -> NDArray[np.float64]:
    codes, scales, rounding, lengths, off_axes = coded(sample.astype(np.float64), axes)
    along = (codes * scales[:, None]).astype(np.float32)
    bounds: NDArray[np.float64] = (along[asked] @ along.T).astype(np.float64)
    bounds += (lengths + rounding)[asked, None] * rounding
    bounds += off_axes[asked, None] * off_axes
    bounds += rounding[asked, None]
    return bounds
