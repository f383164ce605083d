"""What a map holds, and how it is packed into rows; docs/map.md describes the tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from progeo_edge.camera_file import cameras_from_dict, cameras_to_dict
from progeo_edge.geometry import Cameras
from progeo_edge.map_blobs import pack_pixels, pack_transform, unpack_pixels, unpack_transform
from progeo_edge.map_schema import PARTS, SqlValue
from progeo_edge.types import (
    LoopClosure,
    PoseKind,
    ScaleSource,
    Status,
    Transform,
    Verification,
)

Row: TypeAlias = tuple[SqlValue, ...]


@dataclass(frozen=True, slots=True, eq=False)
class KeyframeInfo:
    """A keyframe without its arrays.

    Attributes:
        id: As in `Keyframe`.
        session: Id of the run that made it.
        stamp_ns: Time of the image.
        name: What the source calls it; "" without a name.
        camera: Name of the camera.
        T_odom_base: Pose of the base in the odometry frame of its session, or None.
        status: Why it led to no closure, or ACCEPTED.
    """

    id: int
    session: int
    stamp_ns: int
    name: str
    camera: str
    T_odom_base: Transform | None
    status: Status


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """One run that wrote into the map.

    Attributes:
        id: Counted up from 0.
        name: What the user calls it.
        started_ns: Wall-clock time of its beginning, nanoseconds since 1970.
        camera: Calibration; of a rig by the name of the camera; None without one.
        config_yaml: The effective config.
        num_keyframes: Keyframes of this session that the map holds.
    """

    id: int
    name: str
    started_ns: int
    camera: Cameras | None
    config_yaml: str
    num_keyframes: int


@dataclass(frozen=True, slots=True)
class KeyframeRecord:
    """A keyframe as its rows hold it, for copying between maps without repacking.

    Attributes:
        row: Row of the table keyframes.
        parts: Blob per table of `PARTS`; a part that the keyframe lacks is left out.
    """

    row: Row
    parts: Mapping[str, bytes]


def keyframe_row(info: KeyframeInfo, parts: Mapping[str, bytes]) -> Row:
    """Row of the table keyframes."""
    pose = None if info.T_odom_base is None else pack_transform(info.T_odom_base)
    return (info.id, info.session, info.stamp_ns, info.name, info.camera, info.status.value, pose, part_flags(parts))


def keyframe_info(row: Row) -> KeyframeInfo:
    """Inverse of `keyframe_row`."""
    id, session, stamp_ns, name, camera, status, pose, _ = cast(Any, row)
    T_odom_base = None if pose is None else unpack_transform(pose)
    return KeyframeInfo(id, session, stamp_ns, name, camera, T_odom_base, Status(status))


def part_flags(parts: Iterable[str]) -> int:
    """Column `parts`: the bit 1 << n for the n-th table of `PARTS`."""
    return sum(1 << PARTS.index(part) for part in parts)


def part_names(row: Row) -> list[str]:
    """Tables that hold a part of this keyframe."""
    flags = cast(int, row[7])
    return [part for bit, part in enumerate(PARTS) if flags >> bit & 1]


def closure_row(id: int, closure: LoopClosure) -> Row:
    """Row of the table closures; the columns of the verification are NULL without one, and NaN is NULL too."""
    head = (
        id,
        closure.query_id,
        closure.reference_id,
        float(closure.similarity),
        _nullable(closure.probability),
        _nullable(closure.odom_mahalanobis),
    )
    v = closure.verification
    if v is None:
        return (*head, *(None,) * 12)
    return (
        *head,
        v.status.value,
        v.pose_kind.value,
        v.scale_source.value,
        int(v.num_matches),
        int(v.num_inliers),
        _nullable(v.inlier_ratio),
        _nullable(v.coverage),
        _nullable(v.reprojection_rmse_px),
        None if v.T_reference_query is None else pack_transform(v.T_reference_query),
        None if v.covariance is None else np.asarray(v.covariance, dtype="<f8").tobytes(),
        None if v.query_px is None else pack_pixels(v.query_px),
        None if v.reference_px is None else pack_pixels(v.reference_px),
    )


def closure_from_row(row: Row) -> LoopClosure:
    """Inverse of `closure_row`."""
    _, query, reference, similarity, probability, mahalanobis, status, *rest = cast(Any, row)
    verification = None if status is None else _verification(status, *rest)
    return LoopClosure(query, reference, similarity, probability, verification, mahalanobis)


def _verification(
    status: str,
    pose_kind: str,
    scale_source: str,
    num_matches: int,
    num_inliers: int,
    inlier_ratio: float | None,
    coverage: float | None,
    rmse_px: float | None,
    pose: bytes | None,
    covariance: bytes | None,
    query_px: bytes | None,
    reference_px: bytes | None,
) -> Verification:
    nan = float("nan")
    return Verification(
        status=Status(status),
        T_reference_query=None if pose is None else unpack_transform(pose),
        covariance=None if covariance is None else np.frombuffer(covariance, dtype="<f8").reshape(6, 6).copy(),
        pose_kind=PoseKind(pose_kind),
        scale_source=ScaleSource(scale_source),
        num_matches=num_matches,
        num_inliers=num_inliers,
        inlier_ratio=nan if inlier_ratio is None else inlier_ratio,
        coverage=nan if coverage is None else coverage,
        reprojection_rmse_px=nan if rmse_px is None else rmse_px,
        query_px=None if query_px is None else unpack_pixels(query_px),
        reference_px=None if reference_px is None else unpack_pixels(reference_px),
    )


def _nullable(value: float | None) -> float | None:
    # SQLite keeps neither NaN nor the sign of zero; what is checksummed must be what comes back.
    return None if value is None or np.isnan(value) else float(value) + 0.0


def camera_to_json(cameras: Cameras | None) -> str | None:
    """Calibration as the table sessions holds it: the values of one camera, or those of a rig's by name.

    Raises:
        ConfigError: a value that no camera has, and that could not be read back.
    """
    if cameras is None:
        return None
    values = cameras_to_dict(cameras)
    cameras_from_dict(values)
    return json.dumps(values)


def camera_from_json(text: str | None) -> Cameras | None:
    """Inverse of `camera_to_json`."""
    return None if text is None else cameras_from_dict(json.loads(text))
