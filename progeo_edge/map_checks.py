"""What may be written into a map; anything else is refused before it is there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError
from progeo_edge.geometry import check_transform
from progeo_edge.map_rows import KeyframeInfo
from progeo_edge.types import LoopClosure, Verification

MAX_INT64 = 2**63 - 1
NORM_TOLERANCE = 1e-3


def check_descriptor(descriptor: NDArray[np.float32], dimension: int, name: str) -> NDArray[np.float32]:
    """Return a descriptor as (D,) float32.

    Raises:
        InputError: not one finite unit vector of the model's dimension.
    """
    array = np.asarray(descriptor)
    if array.shape != (dimension,) or array.dtype.kind != "f":
        raise InputError(
            f"{name}: descriptor is {array.dtype} {array.shape}; expected float32 ({dimension},), what the model makes"
        )
    norm = float(np.linalg.norm(array.astype(np.float64)))
    if not abs(norm - 1.0) <= NORM_TOLERANCE:
        raise InputError(f"{name}: descriptor has norm {norm:.6g}; expected 1, divide it by its norm")
    return array.astype(np.float32)


def check_info(info: KeyframeInfo) -> None:
    """Make sure that a keyframe's id, stamp and pose can be stored.

    Raises:
        InputError: naming the first value that cannot.
    """
    if not 0 <= info.id < MAX_INT64:
        raise InputError(f"keyframe id {info.id} is out of range; expected 0 or more, take next_keyframe_id()")
    if not -MAX_INT64 <= info.stamp_ns <= MAX_INT64:
        raise InputError(f"keyframe {info.id}: stamp_ns {info.stamp_ns} does not fit 64 bits; expected nanoseconds")
    if info.T_odom_base is not None:
        check_transform(info.T_odom_base, f"keyframe {info.id}: T_odom_base")


def check_closure(closure: LoopClosure) -> None:
    """Make sure that a closure can be stored.

    Raises:
        InputError: a similarity that is not finite, a pose that is not rigid, arrays of a wrong shape.
    """
    name = f"closure {closure.query_id} -> {closure.reference_id}"
    if not np.isfinite(closure.similarity):
        raise InputError(f"{name}: similarity is {closure.similarity}; expected a finite cosine")
    if closure.verification is not None:
        _check_verification(closure.verification, name)


def _check_verification(verification: Verification, name: str) -> None:
    if verification.T_reference_query is not None:
        check_transform(verification.T_reference_query, f"{name}: T_reference_query")
    covariance = verification.covariance
    if covariance is not None and (np.shape(covariance) != (6, 6) or not np.all(np.isfinite(covariance))):
        raise InputError(f"{name}: covariance has shape {np.shape(covariance)}; expected (6, 6), finite")
    for pixels in (verification.query_px, verification.reference_px):
        if pixels is not None and (np.ndim(pixels) != 2 or np.shape(pixels)[1] != 2):
            raise InputError(f"{name}: inlier pixels have shape {np.shape(pixels)}; expected (num_inliers, 2)")


def storable_text(text: str) -> str:
    """A text as UTF-8 can hold it; bytes of file names that are no UTF-8 become backslash escapes."""
    return text.encode("utf-8", errors="backslashreplace").decode()
