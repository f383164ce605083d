"""The runtime's resizing as matrices, so that a graph can resize the frames of one camera by matrix products.

TensorRT has no antialiased resize, but every version has matrix products: `resized = matrix @ pixels` along one axis.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Shares of a pixel below this are dropped, as OpenCV does.
_NEGLIGIBLE = 1e-3
# The free parameter of the cubic kernel (Keys 1981); OpenCV's value.
_KEYS_A = -0.75


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
