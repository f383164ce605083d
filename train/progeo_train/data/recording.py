"""A video, a folder of images, a data set or a bag as training images, with odometry where it has some."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import SourceError
from progeo_edge.sources import open_source
from progeo_train.config import PlacesConfig
from progeo_train.data.frame_files import FrameFiles, collect_frames, content_key
from progeo_train.data.image_table import ImageTable
from progeo_train.data.neighbour_places import NO_CLOSURES, joined_groups
from progeo_train.data.partition import wrap_heading_deg
from progeo_train.data.place_groups import PlaceGroups
from progeo_train.data.scan_cache import Progress

logger = logging.getLogger(__name__)

OPTIONS = (
    *("kind", "fps", "stamps", "poses"),
    *("image_topic", "odom_topic", "camera_info_topic", "depth_topic", "right_topic"),
)
"""What may follow a "?" behind a recording, as the options of progeo-run."""


def read_recording(
    spec: str, places: PlacesConfig, cache: Path, progress: Progress | None = None
) -> tuple[ImageTable, PlaceGroups]:
    """Read a recording; neighbours in odometry are a place where it has odometry, and neighbours in time otherwise.

    Frames are taken `places.frame_interval_s` apart. They are one sequence of no region: positions are those of
    `T_odom_base` (x as east_m, y as north_m), and heading_deg is the yaw of the base's x axis in the odometry frame,
    counter-clockwise from x as REP 103 has it.

    Args:
        spec: Path, and options of `open_source` where they are needed: "drive.bag?image_topic=/front&odom_topic=none".
        places: What a place is, and how often a frame is taken.
        cache: Folder for the frames of videos and bags, and for the lists of frames.
        progress: Called with 1 for every frame read the first time.

    Raises:
        SourceError: not understood, without usable frames, unknown option, or no place with enough images.
    """
    path, options = split_options(spec)
    rate_hz = 1.0 / places.frame_interval_s if places.frame_interval_s > 0 else None
    frames = read_frames(path, options, rate_hz, cache, progress=progress)
    yaw_deg = np.degrees(np.arctan2(frames.T_odom_base[:, 1, 0], frames.T_odom_base[:, 0, 0]))
    table = ImageTable.of(
        frames.root,
        frames.names,
        east_m=frames.T_odom_base[:, 0, 3],
        north_m=frames.T_odom_base[:, 1, 3],
        heading_deg=wrap_heading_deg(yaw_deg),
        time_s=seconds(frames.stamps_ns),
        sequence_names=(path.name,),
    )
    return table, joined_groups(table, NO_CLOSURES, places)


def read_frames(
    path: Path,
    options: dict[str, Any],
    rate_hz: float | None,
    cache: Path,
    *,
    wanted_stamps_ns: frozenset[int] | None = None,
    progress: Progress | None = None,
) -> FrameFiles:
    """Frames of a recording as files; read once, remembered in the cache.

    Raises:
        SourceError: not understood, or without usable frames.
    """
    source = open_source(path, rate_hz=rate_hz, **options)
    beside = [content_key(Path(options[name])) for name in ("stamps", "poses") if name in options]
    wanted = None if wanted_stamps_ns is None else sorted(wanted_stamps_ns)
    key = content_key(path, sorted(options.items()), beside, rate_hz, wanted)
    folder = cache / f"{path.stem}-{key}"
    frames = collect_frames(source, path, folder, wanted_stamps_ns=wanted_stamps_ns, progress=progress)
    if frames.num_skipped:
        logger.warning("%s: %d frames cannot be used; the first: %s", path, frames.num_skipped, frames.first_skipped)
    return frames


def split_options(spec: str) -> tuple[Path, dict[str, Any]]:
    """Path and options of "PATH?name=value&name=value"; a path that exists is never split.

    Raises:
        SourceError: an unknown option, or one without a value.
    """
    text, mark, tail = spec.partition("?")
    if not mark or Path(spec).exists():
        return Path(spec), {}
    options: dict[str, Any] = {}
    for part in tail.split("&"):
        name, _, value = part.partition("=")
        if name not in OPTIONS or not value:
            raise SourceError(f"{spec}: {part!r} is no option of a recording; expected {'=..., '.join(OPTIONS)}=...")
        options[name] = _typed(spec, name, value)
    return Path(text), options


def seconds(stamps_ns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Seconds since the first stamp; a time since 1970 in seconds would round to 0.2 us, and read badly."""
    since: NDArray[np.float64] = (stamps_ns - stamps_ns.min(initial=np.iinfo(np.int64).max)) / 1e9
    return since


def _typed(spec: str, name: str, value: str) -> Any:  # noqa: ANN401
    if name in ("stamps", "poses"):
        return Path(value)
    if name != "fps":
        return value
    try:
        return float(value)
    except ValueError:
        raise SourceError(f"{spec}: fps is {value!r}; expected a number of frames per second") from None
