"""Whether two calibrations are one camera."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from progeo_edge.geometry import Camera, Cameras, invert, rotation_angle

TREMBLE_M = 0.01
TREMBLE_DEG = 0.5
"""A mounting from tf may differ by less than this and is the same."""


def is_same_camera(one: Cameras | None, other: Cameras | None) -> bool:
    """Whether intrinsics and mounting agree, perhaps at another image size; None is the same as None only.

    Rigs are the same when their cameras of one name are.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_same_camera(one[name], other[name]) for name in one)
    if not isinstance(one, Camera) or not isinstance(other, Camera):
        return one is other
    return (
        one.model == other.model and (one.baseline_m or 0.0) == (other.baseline_m or 0.0) and _same_lens(one, other)
    ) and _same_mounting(one, other)


def _same_lens(one: Camera, other: Camera) -> bool:
    if one.distortion.shape != other.distortion.shape:
        return False
    K = one.scaled_to(other.width_px, other.height_px).K
    return np.allclose(K, other.K, rtol=1e-3, atol=0.5) and np.allclose(one.distortion, other.distortion, atol=1e-6)


def _same_mounting(one: Camera, other: Camera) -> bool:
    T_one_other = invert(one.T_base_camera) @ other.T_base_camera
    distance_m = float(np.linalg.norm(T_one_other[:3, 3]))
    angle_deg = float(np.degrees(rotation_angle(T_one_other[:3, :3])))
    return distance_m < TREMBLE_M and angle_deg < TREMBLE_DEG
