"""Every array is checked here before hnswlib, which checks almost nothing, can see it."""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progeo_edge.errors import InputError

NORM_TOLERANCE = 1e-3


def check_ids(ids: ArrayLike) -> NDArray[np.int64]:
    """(N,) distinct integers from 0 on, as int64.

    Raises:
        InputError: wrong shape, type or value.
    """
    array = _as_array(ids, "ids")
    if array.ndim != 1:
        raise InputError(f"ids have shape {array.shape}; expected (N,)")
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise InputError(f"ids are of type {array.dtype}; expected integers")
    if int(array.min()) < 0 or int(array.max()) > np.iinfo(np.int64).max:
        raise InputError(f"ids reach from {array.min()} to {array.max()}; expected keyframe ids, which count from 0")
    values, counts = np.unique(array, return_counts=True)
    if counts.max() > 1:
        raise InputError(f"id {values[counts.argmax()]} is given {counts.max()} times; give every id once")
    return array.astype(np.int64)


def check_descriptors(descriptors: ArrayLike, dimension: int, *, what: str = "descriptors") -> NDArray[np.float32]:
    """(N, dimension) finite rows of unit norm, as contiguous float32.

    Raises:
        InputError: wrong shape, type or value.
    """
    array = _as_array(descriptors, what)
    if array.size == 0 and array.shape in ((0,), (0, dimension)):
        return np.zeros((0, dimension), dtype=np.float32)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{what} are of type {array.dtype}; expected real numbers, as float32")
    if array.ndim != 2 or array.shape[1] != dimension:
        raise InputError(
            f"{what} have shape {array.shape}; expected (N, {dimension}): use the encoder that the index was made for"
        )
    # float64, so that the sum of squares of anything finite in float32 is finite too.
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", array, array, dtype=np.float64, casting="same_kind"))
    wrong = np.flatnonzero(~(np.abs(norms - 1.0) <= NORM_TOLERANCE))
    if wrong.size:
        row = int(wrong[0])
        if not np.all(np.isfinite(array[row])):
            raise InputError(
                f"row {row} of {what} contains NaN or infinity; expected finite numbers: leave the image out"
            )
        raise InputError(
            f"row {row} of {what} has norm {norms[row]:.4g}; expected 1 within {NORM_TOLERANCE:g}: divide by the norm"
        )
    return np.ascontiguousarray(array, dtype=np.float32)


def check_query(query: ArrayLike, dimension: int) -> NDArray[np.float32]:
    """(dimension,) finite vector of unit norm, as float32.

    Raises:
        InputError: wrong shape, type or value.
    """
    array = _as_array(query, "query")
    if array.shape != (dimension,):
        raise InputError(
            f"query has shape {array.shape}; expected ({dimension},): use the encoder that the index was made for"
        )
    vector: NDArray[np.float32] = check_descriptors(array[None], dimension, what="query")[0]
    return vector


def check_at_least_one(value: object, what: str) -> int:
    """A positive integer.

    Raises:
        InputError: anything else, a bool included.
    """
    if not _is_int(value) or value < 1:
        raise InputError(f"{what} is {value!r}; expected an integer of at least 1")
    return int(value)


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _as_array(values: ArrayLike, what: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} cannot be read as an array ({error}); expected rows of equal length") from None
