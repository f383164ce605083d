"""The runtime's resizing as matrices, so that a graph can resize the frames of one camera by matrix products.

TensorRT has no antialiased resize, but every version has matrix products. Along one axis, all that
`progeo_edge.preprocess` does is linear: `resized = matrix @ pixels`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from progeo_edge.shrinking import plan

# Shares of a pixel below this are dropped, as OpenCV does.
_NEGLIGIBLE = 1e-3
# The free parameter of the cubic kernel (Keys 1981); OpenCV's value.
_KEYS_A = -0.75


def shrink_matrix(source: int, target: int) -> NDArray[np.float32]:
    """What `progeo_edge.shrinking` does along one axis: halve, mix neighbours, sample; or average exactly.

    Args:
        source: Pixels along the axis.
        target: Pixels wanted, fewer than `source`.

    Returns:
        (target, source), rows of sum 1.
    """
    found = plan(source, target)
    if found is None:
        return area_matrix(source, target)
    share = found.neighbour / 256.0
    mixing = (1.0 - 2.0 * share) * np.eye(found.length_px)
    for offset in (-1, 1):
        rows = np.arange(found.length_px)
        np.add.at(mixing, (rows, np.clip(rows + offset, 0, found.length_px - 1)), share)
    halved = np.repeat(np.eye(found.length_px), 2**found.halvings, axis=1) / 2**found.halvings
    return np.asarray(cubic_matrix(found.length_px, target) @ mixing @ halved, np.float32)


def area_matrix(source: int, target: int) -> NDArray[np.float32]:
    """Mean over the stretch of source pixels that a target pixel covers (INTER_AREA).

    Args:
        source: Pixels along the axis.
        target: Pixels wanted, at most `source`.

    Returns:
        (target, source), rows of sum 1.

    Raises:
        ValueError: `target` is larger than `source`; that is no averaging.
    """
    if not 1 <= target <= source:
        raise ValueError(f"area_matrix shrinks, {source} to {target} does not")
    matrix = np.zeros((target, source))
    scale = source / target
    for row in range(target):
        start, end = row * scale, min((row + 1) * scale, source)
        first, last = math.ceil(start - _NEGLIGIBLE), math.floor(end + _NEGLIGIBLE)
        matrix[row, first:last] = 1.0
        if first - start > _NEGLIGIBLE:
            matrix[row, first - 1] = first - start
        if end - last > _NEGLIGIBLE:
            matrix[row, last] = end - last
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True), np.float32)


def cubic_matrix(source: int, target: int) -> NDArray[np.float32]:
    """Cubic interpolation between four pixels, the border repeated (INTER_CUBIC); it may overshoot 0..255.

    Args:
        source: Pixels along the axis.
        target: Pixels wanted.

    Returns:
        (target, source), rows of sum 1.
    """
    matrix = np.zeros((target, source))
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    nearest = np.floor(centres).astype(int)
    for offset in (-1, 0, 1, 2):
        columns = np.clip(nearest + offset, 0, source - 1)
        np.add.at(matrix, (np.arange(target), columns), _keys(np.abs(centres - (nearest + offset))))
    return matrix.astype(np.float32)


def _keys(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel at distances of 0 to 2 pixels."""
    a = _KEYS_A
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, far)
