"""Images in a folder, or named by a list, with stamps and poses beside them where there are any."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from progeo_edge.errors import SourceError
from progeo_edge.geometry import Camera, Cameras
from progeo_edge.sources.base import Entry, LazySource, SkippedFrame, source_from_entries
from progeo_edge.sources.images import IMAGE_SUFFIXES, read_image
from progeo_edge.sources.listing import Listing, Row, read_listing
from progeo_edge.sources.rig import RigSource, calibration_of, single_calibration
from progeo_edge.types import Frame, Transform

logger = logging.getLogger(__name__)

STAMP_FILES = ("timestamps.csv", "timestamps.txt", "times.txt")
POSE_FILE = "poses.csv"


def open_folder(
    folder: Path,
    *,
    rate_hz: float | None = None,
    fps: float | None = None,
    stamps: Path | None = None,
    poses: Path | None = None,
    camera: Camera | None = None,
) -> LazySource:
    """Images of one folder in natural order (img2 before img10), or of its subfolder `images`.

    Args:
        folder: Not searched recursively.
        rate_hz: Keep at most this many frames per second.
        fps: Frames per second when there are no stamps; 1 when None.
        stamps: List of stamps (`read_listing`), one per image in order or by name; None looks for timestamps.csv,
            timestamps.txt and times.txt in the folder. A list with names also states the order and the choice.
        poses: List of poses by image name; None looks for poses.csv in the folder.
        camera: Intrinsics.

    Raises:
        SourceError: no images, or lists that do not fit them.
    """
    root = folder.resolve()
    files = find_images(root)
    if not files:
        raise SourceError(_explain_no_images(folder))
    stamps = stamps or next((folder / name for name in STAMP_FILES if (folder / name).is_file()), None)
    poses = poses or (folder / POSE_FILE if (folder / POSE_FILE).is_file() else None)
    rows = _numbered_rows(files, root) if stamps is None else _stamped_rows(files, root, stamps)
    locate = _Locator(files, root if stamps is None else stamps.parent)
    T_of_file = {} if poses is None else _read_poses(poses, files)
    entries = _entries(rows, locate, T_of_file, fps)
    return source_from_entries(str(folder), entries, camera=camera, rate_hz=rate_hz)


def open_rig_folder(
    folder: Path,
    *,
    cameras: Sequence[str],
    rate_hz: float | None = None,
    fps: float | None = None,
    camera: Cameras | None = None,
) -> RigSource:
    """The images of a rig, a subfolder per camera, each with stamps and poses beside its images as `open_folder` says.

    Args:
        folder: Holds the subfolders.
        cameras: Their names, which are those of the cameras.
        rate_hz: Keep at most this many frames per second and camera.
        fps: Moments per second when there are no stamps; 1 when None.
        camera: Calibration of the rig.

    Raises:
        SourceError: as `open_folder`, of any of them; or the calibration is not that of these cameras.
    """
    sources = {}
    for name in cameras:
        if not (folder / name).is_dir():
            raise SourceError(f"{folder} has no subfolder {name} for the camera of this name; check its spelling")
        calibration = calibration_of(camera, name, str(folder))
        sources[name] = open_folder(folder / name, rate_hz=rate_hz, fps=fps, camera=calibration)
    return RigSource(str(folder), sources, prefix=True)


def open_list(
    path: Path, *, rate_hz: float | None = None, fps: float | None = None, camera: Cameras | None = None
) -> LazySource | RigSource:
    """Images named by a list (`read_listing`), relative to the folder of the list; names stay as written.

    A list with a column `camera` that names several is a rig's; without stamps the images of each are counted apart.

    Raises:
        SourceError: the list cannot be read, names no images, or none of them exists.
    """
    listing = read_listing(path)
    if not listing.has_images:
        raise SourceError(f"{path} names no images; expected a column 'image'")
    if not any((path.parent / row.image).is_file() for row in listing.rows):
        raise SourceError(f"{path} names {len(listing.rows)} images, none of which exists under {path.parent}")
    _log_lost_poses(listing, path)
    locate = _Locator([], path.parent)
    names = list(dict.fromkeys(row.camera for row in listing.rows if row.camera is not None))
    if len(names) < 2:
        entries = _entries(listing.rows, locate, {}, fps)
        return source_from_entries(str(path), entries, camera=single_calibration(camera, str(path)), rate_hz=rate_hz)
    sources = {}
    for name in names:
        # A line that cannot be read has no camera; it is counted once, with those of the first.
        rows = [row for row in listing.rows if row.camera == name or (row.camera is None and name == names[0])]
        calibration = calibration_of(camera, name, str(path))
        sources[name] = source_from_entries(
            f"{path} {name}", _entries(rows, locate, {}, fps), camera=calibration, rate_hz=rate_hz
        )
    return RigSource(str(path), sources)


def find_images(folder: Path) -> list[Path]:
    """Image files of a folder in natural order; of its subfolder `images` when it has none itself."""
    for place in (folder, folder / "images"):
        if place.is_dir():
            files = [file for file in place.iterdir() if _is_image(file)]
            if files:
                return sorted(files, key=lambda file: natural_key(file.name))
    return []


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key under which img2 comes before img10; names that differ in capitals only keep one order too."""
    parts = re.split(r"(\d+)", name)
    key = [(int(part), len(part), "") if index % 2 else (0, 0, part.casefold()) for index, part in enumerate(parts)]
    return key, name


class _Locator:
    """Finds the file that a line of a list means: beside the list, or by its last name among known images."""

    def __init__(self, files: Iterable[Path], root: Path) -> None:
        self._root = root
        self._by_name = {file.name: file for file in files}

    def __call__(self, image: str) -> Path:
        place = self._root / image
        direct = place.parent.resolve() / place.name
        return direct if direct.is_file() else self._by_name.get(Path(image).name, direct)


def _entries(
    rows: Iterable[Row], locate: _Locator, T_of_file: dict[Path, Transform | None], fps: float | None
) -> list[Entry | SkippedFrame]:
    period_s = 1.0 / _checked_fps(fps)
    entries: list[Entry | SkippedFrame] = []
    for index, row in enumerate(rows):
        if row.problem:
            entries.append(SkippedFrame(row.image, row.problem))
            continue
        stamp_ns = round(index * period_s * 1e9) if row.stamp_ns is None else row.stamp_ns
        path = locate(row.image)
        T_odom_base = row.T_odom_base if row.T_odom_base is not None else T_of_file.get(path)
        entries.append(_entry(row.image, stamp_ns, path, T_odom_base, row.camera or "cam0"))
    return entries


def _entry(name: str, stamp_ns: int, path: Path, T_odom_base: Transform | None, camera: str) -> Entry:
    return Entry(stamp_ns, name, lambda: Frame(stamp_ns, read_image(path), name, T_odom_base, camera=camera))


def _numbered_rows(files: Iterable[Path], root: Path) -> list[Row]:
    return [Row(file.relative_to(root).as_posix(), None) for file in files]


def _stamped_rows(files: list[Path], root: Path, stamps: Path) -> list[Row]:
    listing = read_listing(stamps)
    if not listing.has_stamps:
        raise SourceError(f"{stamps} holds no stamps; expected a column 'time_s'")
    if listing.has_images:
        if len(listing.rows) < len(files):
            logger.info("%s names %d of the %d images; the others are left out", stamps, len(listing.rows), len(files))
        return listing.rows
    if len(listing.rows) != len(files):
        raise SourceError(
            f"{stamps} holds {len(listing.rows)} stamps for {len(files)} images; expected one per image, or a column "
            f"'image' that says which is whose"
        )
    names = [file.relative_to(root).as_posix() for file in files]
    return [Row(name, row.stamp_ns, row.problem) for name, row in zip(names, listing.rows, strict=True)]


def _read_poses(path: Path, files: list[Path]) -> dict[Path, Transform | None]:
    listing = read_listing(path)
    if not (listing.has_images and listing.has_poses):
        raise SourceError(f"{path} is no list of poses; expected the columns image,x_m,y_m,yaw_rad or image,x,...,qw")
    _log_lost_poses(listing, path)
    locate = _Locator(files, path.parent)
    T_of_file = {locate(row.image): row.T_odom_base for row in listing.rows}
    num_without = sum(file not in T_of_file for file in files)
    if num_without == len(files) or not listing.rows:
        raise SourceError(f"{path} names none of the {len(files)} images")
    if num_without:
        logger.warning("%s holds no pose for %d of %d images", path, num_without, len(files))
    return T_of_file


def _log_lost_poses(listing: Listing, path: Path) -> None:
    num_lost = sum(row.T_odom_base is None for row in listing.rows) if listing.has_poses else 0
    if num_lost:
        logger.warning("%s: %d of %d poses are not finite and rigid; left out", path, num_lost, len(listing.rows))


def _checked_fps(fps: float | None) -> float:
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise SourceError(f"fps {fps} is not possible; give a positive number of frames per second")
    return 1.0 if fps is None else fps


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()


def _explain_no_images(folder: Path) -> str:
    inner = sorted(child.name for child in folder.iterdir() if child.is_dir() and find_images(child))
    hint = f"; its subfolders {', '.join(inner[:5])} hold some: name one of them" if inner else ""
    return f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}){hint}"
