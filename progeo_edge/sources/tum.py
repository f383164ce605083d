"""TUM RGB-D sequences.

Format: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import SourceError
from progeo_edge.geometry import Camera
from progeo_edge.sources.base import Entry, LazySource, SkippedFrame, source_from_entries
from progeo_edge.sources.images import FrameError, read_depth_m, read_image
from progeo_edge.sources.listing import parse_stamp_ns
from progeo_edge.sources.poses import PoseTrack, base_pose, read_fields
from progeo_edge.types import Frame

logger = logging.getLogger(__name__)

DEPTH_UNITS_PER_M = 5000.0
MAX_DEPTH_OFFSET_NS = 20_000_000

_INTRINSICS = {
    "1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "3": ((535.4, 539.2, 320.1, 247.6), ()),
}
"""fx fy cx cy and distortion of the colour cameras, table "Intrinsic Camera Calibration of the Kinect" of the page
above; the images of freiburg3 are undistorted already."""


def open_tum(folder: Path, *, rate_hz: float | None = None, camera: Camera | None = None) -> LazySource:
    """Colour images of rgb.txt, with depth of depth.txt (within 20 ms) and poses of groundtruth.txt where present.

    The ground truth is taken as odometry: `T_odom_base` is the motion-capture pose, so there is no drift to correct.
    It states the pose of the colour camera's optical frame, which is the base unless `camera` has a `T_base_camera`.

    Args:
        folder: Holds rgb.txt.
        rate_hz: Keep at most this many frames per second.
        camera: Intrinsics; None takes those of the data set when "freiburg1", 2 or 3 is in the folder's name.

    Raises:
        SourceError: rgb.txt cannot be read or names nothing.
    """
    camera = camera or _default_camera(folder)
    images, broken = _read_stamped_paths(folder / "rgb.txt")
    depths, broken_depths = _read_stamped_paths(folder / "depth.txt") if (folder / "depth.txt").is_file() else ([], [])
    if broken_depths:
        logger.warning("%s: %d lines of depth.txt are no stamp and path; left out", folder, len(broken_depths))
    track = _read_track(folder / "groundtruth.txt")
    depth_stamps_ns = [stamp_ns for stamp_ns, _ in depths]
    entries: list[Entry | SkippedFrame] = list(broken)
    for stamp_ns, image in images:
        nearest = _nearest(depth_stamps_ns, stamp_ns)
        depth = None if nearest is None else folder / depths[nearest][1]
        entries.append(_entry(folder, stamp_ns, image, depth, track, camera))
    return source_from_entries(str(folder), entries, camera=camera, rate_hz=rate_hz)


def _entry(
    folder: Path, stamp_ns: int, image: str, depth: Path | None, track: PoseTrack | None, camera: Camera | None
) -> Entry:
    def load() -> Frame:
        pixels = read_image(folder / image)
        T_odom_base = None if track is None else base_pose(track.at(stamp_ns), camera)
        return Frame(stamp_ns, pixels, image, T_odom_base, _load_depth_m(depth, pixels.shape[:2]))

    return Entry(stamp_ns, image, load)


def _load_depth_m(path: Path | None, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """A frame without its depth is still a frame."""
    if path is None:
        return None
    try:
        depth_m = read_depth_m(path, DEPTH_UNITS_PER_M)
    except FrameError as error:
        logger.warning("%s: depth left out: %s", path, error)
        return None
    if depth_m.shape != shape:
        logger.warning("%s: depth left out: its shape %s is not that of the image, %s", path, depth_m.shape, shape)
        return None
    return depth_m


def _read_stamped_paths(path: Path) -> tuple[list[tuple[int, str]], list[SkippedFrame]]:
    """Lines of stamp and path in the order of the stamps, and the lines that are something else."""
    pairs, broken = [], []
    for number, fields in read_fields(path):
        try:
            stamp, name = fields
            pairs.append((parse_stamp_ns(stamp, 10**9), name))
        except ValueError:
            broken.append(SkippedFrame(f"line {number}", f"{' '.join(fields)!r} is no stamp and path"))
    return sorted(pairs), broken


def _read_track(path: Path) -> PoseTrack | None:
    if not path.is_file():
        return None
    stamps_ns, poses = [], []
    for number, fields in read_fields(path):
        try:
            stamps_ns.append(parse_stamp_ns(fields[0], 10**9))
            poses.append([float(field) for field in fields[1:8]])
            if len(poses[-1]) != 7:
                raise ValueError(f"{len(fields)} numbers instead of 8")
        except ValueError as error:
            raise SourceError(f"{path}, line {number}: expected a stamp and seven numbers of a pose: {error}") from None
    return PoseTrack(stamps_ns, poses, str(path)) if poses else None


def _nearest(stamps_ns: Sequence[int], stamp_ns: int) -> int | None:
    """Index of the nearest stamp within the tolerance."""
    after = bisect_left(stamps_ns, stamp_ns)
    around = [index for index in (after - 1, after) if 0 <= index < len(stamps_ns)]
    best = min(around, key=lambda index: abs(stamps_ns[index] - stamp_ns), default=None)
    return best if best is not None and abs(stamps_ns[best] - stamp_ns) <= MAX_DEPTH_OFFSET_NS else None


def _default_camera(folder: Path) -> Camera | None:
    match = re.search(r"(?:freiburg|fr)([123])(?!\d)", folder.resolve().name)
    if match is None:
        logger.warning(
            "%s: 'freiburg1', 2 or 3 is not in its name, so its intrinsics are unknown; give a camera", folder
        )
        return None
    (fx, fy, cx, cy), distortion = _INTRINSICS[match.group(1)]
    K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    return Camera("pinhole", 640, 480, K, np.array(distortion, dtype=np.float64))
