"""Descriptors in one byte per axis, with an upper bound on every cosine that is a proof and not an estimate.

A descriptor x is seen along h orthonormal axes, y = A x, and y is rounded to y' = s c, with int8 c and one scale s per
row. What that leaves out is known when the row is coded: r = |y - y'|, and t = |x - A' y|, the part off the axes. For a
query q, likewise rounded along the axes to p' with the error e = |p - p'| of p = A q, and with the part u off the axes,

    q.x = p.y + (q - A' p).(x - A' y)
        = p'.y' + (p - p').y' + p.(y - y') + (q - A' p).(x - A' y)
       <= p'.y' + e (|x| + r) + |p| r + u t                                (three times Cauchy and Schwarz)

p'.y' is an integer product, exact on every machine. So a row whose bound is below a cosine that k rows are known to
reach is not among the k nearest, and only the others are compared in full: filter and refine, after Seidl and Kriegel,
"Optimal multi-step k-nearest neighbor search" (SIGMOD 1998).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from progeo_edge.descriptor_rows import grow
from progeo_edge.index_input import NORM_TOLERANCE
from progeo_edge.int8_products import products, spare_rows

LEVELS = 127
"""Codes reach from -127 to 127."""
_LARGEST_NORM = 1.0 + NORM_TOLERANCE
# For the few float32 operations on values of about 1 that a bound is computed with.
_EVALUATION_SLACK = 4e-6


@dataclass(frozen=True, slots=True, eq=False)
class CodedQuery:
    """A query along the axes.

    Attributes:
        codes: (h,) int8.
        scale: Times the codes it is the rounded query.
        rounding: e, how far that is from the query along the axes.
        length: |p|, the query's length along the axes.
        off_axes: u, its length off them.
    """

    codes: NDArray[np.int8]
    scale: float
    rounding: float
    length: float
    off_axes: float


class CodedRows:
    """Codes of rows [0, len) of an array of descriptors. Not thread-safe.

    Args:
        dimension: Length D of the descriptors.
        axes: (h, D) float64, orthonormal rows; None for the D axes that the descriptors come in.
    """

    def __init__(self, dimension: int, axes: NDArray[np.float64] | None) -> None:
        self.axes = axes
        self.width = dimension if axes is None else len(axes)
        self._count = 0
        self._codes = np.zeros((0, self.width), dtype=np.int8)
        self._scales = np.zeros(0, dtype=np.float32)
        self._rounding = np.zeros(0, dtype=np.float32)
        self._off_axes = np.zeros(0, dtype=np.float32)

    def __len__(self) -> int:
        return self._count

    @property
    def bytes_per_row(self) -> int:
        """Memory of one row beside its descriptor."""
        return self.width + 12

    def append(self, vectors: NDArray[np.float32]) -> None:
        """Code (N, D) rows that follow those here."""
        end = self._count + len(vectors)
        for array in (self._codes, self._scales, self._rounding, self._off_axes):
            grow(array, end + spare_rows(self.width))
        self._write(slice(self._count, end), vectors)
        self._count = end

    def swap(self, a: int, b: int) -> None:
        """Exchange two rows."""
        for array in (self._codes, self._scales, self._rounding, self._off_axes):
            array[[a, b]] = array[[b, a]]

    def replace(self, row: int, vector: NDArray[np.float32]) -> None:
        """Another (D,) descriptor has come to stand in a row."""
        self._write(slice(row, row + 1), vector[None])

    def drop_last(self) -> None:
        """Forget the last row."""
        self._count -= 1

    def upper_bounds(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N,) float32, for every row at least its cosine with the (D,) query. Needs `int8_products.is_available`."""
        asked = self.code(query)
        bounds: NDArray[np.float32] = products(self._codes, len(self), asked.codes).astype(np.float32)
        used = slice(0, self._count)
        bounds *= self._scales[used]
        bounds *= np.float32(asked.scale)
        bounds += np.float32(asked.length + asked.rounding) * self._rounding[used]
        if self.axes is not None:
            bounds += np.float32(asked.off_axes) * self._off_axes[used]
        bounds += np.float32(_LARGEST_NORM * asked.rounding + _EVALUATION_SLACK)
        return bounds

    def code(self, query: NDArray[np.float32]) -> CodedQuery:
        """A (D,) query, treated as the rows are."""
        codes, scale, rounding, length, off_axes = coded(query[None].astype(np.float64), self.axes)
        return CodedQuery(codes[0], float(scale[0]), float(rounding[0]), float(length[0]), float(off_axes[0]))

    def _write(self, rows: slice, vectors: NDArray[np.float32]) -> None:
        codes, scales, rounding, _, off_axes = coded(vectors.astype(np.float64), self.axes)
        self._codes[rows], self._scales[rows] = codes, scales
        self._rounding[rows], self._off_axes[rows] = _rounded_up(rounding), _rounded_up(off_axes)


def coded(
    vectors: NDArray[np.float64], axes: NDArray[np.float64] | None
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Codes (N, h), scales, rounding errors, lengths along the axes and lengths off them, (N,) each, of (N, D) rows."""
    along = vectors if axes is None else vectors @ axes.T
    scales = (np.abs(along).max(axis=1) / LEVELS).astype(np.float32)
    scales[scales == 0] = 1.0  # a row off all axes
    exact_scales = scales.astype(np.float64)[:, None]
    codes = np.clip(np.rint(along / exact_scales), -LEVELS, LEVELS)
    rounding = np.linalg.norm(along - codes * exact_scales, axis=1)
    squares = np.einsum("ij,ij->i", along, along)
    if axes is None:
        off_axes = np.zeros(len(vectors))
    else:
        off_axes = np.sqrt(np.maximum(np.einsum("ij,ij->i", vectors, vectors) - squares, 0.0) + 1e-12)
    return codes.astype(np.int8), scales, rounding, np.sqrt(squares), off_axes


def _rounded_up(values: NDArray[np.float64]) -> NDArray[np.float32]:
    enlarged = (values * (1 + 1e-6)).astype(np.float32)
    return np.asarray(np.nextafter(enlarged, np.float32(np.inf)), dtype=np.float32)
