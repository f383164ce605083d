"""Text files that list images with their stamps and poses: CSV with or without header, or separated by spaces."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from progeo_edge.errors import SourceError
from progeo_edge.sources.poses import planar_pose, read_fields, spatial_pose
from progeo_edge.types import Transform

NS_PER = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}

_IMAGE_COLUMNS = ("image", "name", "file", "filename", "path")
_CAMERA_COLUMN = "camera"
_STAMP_COLUMN = re.compile(r"(?:time|stamp|timestamp|t)(?:_(s|ms|us|ns))?")
_PLANAR_COLUMNS = ("x_m", "y_m", "yaw_rad")
_SPATIAL_COLUMNS = ("x", "y", "z", "qx", "qy", "qz", "qw")


@dataclass(frozen=True, eq=False)
class Row:
    """One line of a list.

    Attributes:
        image: Path as written; "" in a list of stamps alone.
        stamp_ns: None in a list without stamps.
        problem: Why the line cannot be used; "" when it can.
        T_odom_base: None in a list without poses, and where the pose is no finite rigid one.
        camera: Name of the camera; None in a list without such a column.
    """

    image: str
    stamp_ns: int | None
    problem: str = ""
    T_odom_base: Transform | None = None
    camera: str | None = None


@dataclass(frozen=True)
class _Columns:
    image: int | None
    stamp: int | None
    ns_per_unit: int | None
    pose: tuple[int, ...]
    num_fields: int
    camera: int | None = None


@dataclass(frozen=True, eq=False)
class Listing:
    """A list as read: its rows, and which columns it has."""

    rows: list[Row]
    has_images: bool
    has_stamps: bool
    has_poses: bool


def read_listing(path: Path) -> Listing:
    """Read a list of images.

    With a header: a column `image`, optionally `time_s` (or stamp, timestamp; _s _ms _us _ns), optionally
    `x_m y_m yaw_rad` or `x y z qx qy qz qw`, optionally `camera` for the images of a rig; other columns are ignored.
    Without: an image, a stamp, an image and a stamp in either order, or an image and three or seven numbers of a pose.
    A stamp whose unit is not named is in seconds, unless its size is that of milli-, micro- or nanoseconds since 1970.

    Raises:
        SourceError: unreadable, empty, or columns of which no sense can be made.
    """
    lines = read_fields(path)
    if not lines:
        raise SourceError(f"{path} is empty; expected lines such as 'image,time_s'")
    columns = _columns_of_header(lines[0][1], path)
    if columns is None:
        columns = _columns_of_row(lines[0][1], path)
    else:
        lines = lines[1:]
    rows = [_read_row(fields, columns, number) for number, fields in lines]
    return Listing(rows, columns.image is not None, columns.stamp is not None, bool(columns.pose))


def parse_stamp_ns(text: str, ns_per_unit: int | None) -> int:
    """Decimal text to nanoseconds, exactly; a float would lose 100 ns of a time since 1970.

    Raises:
        ValueError: not a finite number.
    """
    try:
        value = Decimal(text)
        if not value.is_finite():
            raise InvalidOperation
    except InvalidOperation:
        raise ValueError(f"stamp {text!r} is not a finite number") from None
    return int((value * (ns_per_unit or _guess_ns_per_unit(value))).to_integral_value())


def _guess_ns_per_unit(value: Decimal) -> int:
    size = abs(value)
    if size >= 10**17:
        return NS_PER["ns"]
    if size >= 10**14:
        return NS_PER["us"]
    return NS_PER["ms"] if size >= 10**11 else NS_PER["s"]


def _columns_of_header(fields: Sequence[str], path: Path) -> _Columns | None:
    names = [field.casefold() for field in fields]
    stamps = [(index, match) for index, name in enumerate(names) if (match := _STAMP_COLUMN.fullmatch(name))]
    images = [names.index(name) for name in _IMAGE_COLUMNS if name in names]
    if not images and not stamps:
        return None
    if len(stamps) > 1:
        raise SourceError(f"{path} has several columns of stamps: {', '.join(names[i] for i, _ in stamps)}; keep one")
    unit = stamps[0][1].group(1) if stamps else None
    return _Columns(
        image=images[0] if images else None,
        stamp=stamps[0][0] if stamps else None,
        ns_per_unit=NS_PER[unit] if unit else None,
        pose=_pose_columns(names),
        num_fields=len(names),
        camera=names.index(_CAMERA_COLUMN) if _CAMERA_COLUMN in names else None,
    )


def _pose_columns(names: Sequence[str]) -> tuple[int, ...]:
    for wanted in (_SPATIAL_COLUMNS, _PLANAR_COLUMNS):
        if all(name in names for name in wanted):
            return tuple(names.index(name) for name in wanted)
    metric = [name.removesuffix("_m") for name in names]
    if all(name in metric for name in _SPATIAL_COLUMNS):
        return tuple(metric.index(name) for name in _SPATIAL_COLUMNS)
    return ()


def _columns_of_row(fields: Sequence[str], path: Path) -> _Columns:
    numeric = [_is_number(field) for field in fields]
    count = len(fields)
    if count == 1:
        return _Columns(None, 0, None, (), 1) if numeric[0] else _Columns(0, None, None, (), 1)
    if count == 2 and numeric[0] and not numeric[1]:
        return _Columns(1, 0, None, (), 2)
    if count == 2 and numeric[1]:
        return _Columns(0, 1, None, (), 2)
    if count in (4, 8) and all(numeric[1:]):
        return _Columns(0, None, None, tuple(range(1, count)), count)
    raise SourceError(
        f"{path}: the first line {','.join(fields)!r} is not understood; expected a header with a column 'image', or "
        f"lines of image and time, of time alone, or of image and pose (x,y,yaw or x,y,z,qx,qy,qz,qw)"
    )


def _read_row(fields: Sequence[str], columns: _Columns, number: int) -> Row:
    if len(fields) < columns.num_fields:
        name = fields[columns.image] if columns.image is not None and columns.image < len(fields) else f"line {number}"
        return Row(name, None, f"line {number} has {len(fields)} fields instead of {columns.num_fields}")
    image = "" if columns.image is None else fields[columns.image]
    stamp_ns = None
    if columns.stamp is not None:
        try:
            stamp_ns = parse_stamp_ns(fields[columns.stamp], columns.ns_per_unit)
        except ValueError as error:
            return Row(image or f"line {number}", None, f"line {number}: {error}")
    camera = None if columns.camera is None else fields[columns.camera]
    if camera == "":
        return Row(image or f"line {number}", None, f"line {number} names no camera")
    return Row(image, stamp_ns, "", _read_pose([fields[index] for index in columns.pose]), camera)


def _read_pose(fields: Sequence[str]) -> Transform | None:
    try:
        values = [float(field) for field in fields]
    except ValueError:
        return None
    if len(values) == len(_PLANAR_COLUMNS):
        return planar_pose(*values)
    return spatial_pose(values) if values else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
