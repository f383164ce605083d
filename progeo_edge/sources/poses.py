"""Odometry beside images: parsing poses, and interpolating them to the stamp of an image."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progeo_edge.errors import SourceError
from progeo_edge.geometry import (
    Camera,
    invert,
    make_transform,
    rotation_exp,
    rotation_log,
    transform_from_quaternion,
)
from progeo_edge.types import Transform

logger = logging.getLogger(__name__)

MAX_GAP_NS = 500_000_000
"""Poses further apart are not interpolated between: the robot may have done anything meanwhile."""


class PoseTrack:
    """Stamped poses of one frame in another.

    Args:
        stamps_ns: (N,) in any order; of equal stamps the first is kept.
        poses: (N, 7) position in metres, then quaternion x y z w.
        what: For the log.
    """

    def __init__(self, stamps_ns: Sequence[int], poses: ArrayLike, what: str) -> None:
        values = np.asarray(poses, dtype=np.float64).reshape(-1, 7)
        self._stamps_ns, order = np.unique(np.asarray(stamps_ns, dtype=np.int64), return_index=True)
        self._poses = values[order]
        norms = np.linalg.norm(self._poses[:, 3:], axis=1)
        self._valid: NDArray[np.bool_] = np.isfinite(self._poses).all(axis=1) & (np.abs(norms - 1.0) < 0.1)
        num_bad = int((~self._valid).sum())
        if num_bad:
            logger.warning(
                "%s: %d of %d poses hold NaN or a quaternion without unit norm; images there get no pose",
                what,
                num_bad,
                len(self._poses),
            )

    def __len__(self) -> int:
        """Number of distinct stamps."""
        return len(self._stamps_ns)

    def at(self, stamp_ns: int) -> Transform | None:
        """Pose at a stamp: linear in position, shortest rotation (slerp) in orientation.

        None outside the track, in a gap of more than 0.5 s, and beside an invalid pose.
        """
        after = int(np.searchsorted(self._stamps_ns, stamp_ns))
        if after == len(self._stamps_ns):
            return None
        if self._stamps_ns[after] == stamp_ns:
            return self._pose(after)
        if after == 0:
            return None
        start_ns, end_ns = int(self._stamps_ns[after - 1]), int(self._stamps_ns[after])
        T_start, T_end = self._pose(after - 1), self._pose(after)
        if T_start is None or T_end is None or end_ns - start_ns > MAX_GAP_NS:
            return None
        return interpolate_pose(T_start, T_end, (stamp_ns - start_ns) / (end_ns - start_ns))

    def _pose(self, index: int) -> Transform | None:
        if not self._valid[index]:
            return None
        return transform_from_quaternion(self._poses[index, :3], self._poses[index, 3:])


def base_pose(T_odom_camera: Transform | None, camera: Camera | None) -> Transform | None:
    """T_odom_base of a data set that states the pose of its camera."""
    if T_odom_camera is None or camera is None:
        return T_odom_camera
    return T_odom_camera @ invert(camera.T_base_camera)


def planar_pose(x_m: float, y_m: float, yaw_rad: float) -> Transform | None:
    """Pose on the ground plane; None when a value is not finite."""
    if not np.all(np.isfinite([x_m, y_m, yaw_rad])):
        return None
    return make_transform(rotation_exp([0.0, 0.0, yaw_rad]), [x_m, y_m, 0.0])


def is_pose(values: Sequence[float]) -> bool:
    """Whether x y z qx qy qz qw are finite, with a quaternion near unit norm."""
    return all(map(math.isfinite, values)) and abs(math.hypot(*values[3:]) - 1.0) < 0.1


def spatial_pose(values: Sequence[float]) -> Transform | None:
    """Pose from x y z qx qy qz qw; None when it is not finite or the quaternion is far from unit norm."""
    return transform_from_quaternion(values[:3], values[3:]) if is_pose(values) else None


def read_numbers(path: Path, num_columns: int) -> NDArray[np.float64]:
    """Rows of numbers separated by spaces or commas, to (N, num_columns) float64; further columns are dropped.

    Raises:
        SourceError: unreadable, a row that is too short, or a word that is no number.
    """
    rows = []
    for number, fields in read_fields(path):
        try:
            row = [float(field) for field in fields[:num_columns]]
        except ValueError:
            row = []
        if len(row) < num_columns:
            raise SourceError(f"{path}, line {number}: {' '.join(fields)!r}; expected {num_columns} numbers")
        rows.append(row)
    return np.asarray(rows, dtype=np.float64).reshape(-1, num_columns)


def read_fields(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and fields (separated by commas, or else by white space) of a text file, without # comments.

    Raises:
        SourceError: when the file cannot be read as text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read as text: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text and not text.startswith("#"):
            fields = next(csv.reader([text])) if "," in text else text.split()
            rows.append((number, [field.strip() for field in fields]))
    return rows


def interpolate_pose(T_start: Transform, T_end: Transform, share: float) -> Transform:
    """Pose at a share (0 to 1) of the way: linear in position, shortest rotation (slerp) in orientation."""
    position = (1.0 - share) * T_start[:3, 3] + share * T_end[:3, 3]
    turn = rotation_log(T_start[:3, :3].T @ T_end[:3, :3])
    return make_transform(T_start[:3, :3] @ rotation_exp(share * turn), position)
