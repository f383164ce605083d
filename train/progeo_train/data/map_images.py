"""Maps that the runtime has written as training images; their verified loop closures are positives across time."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from progeo_edge.atomic import write_bytes
from progeo_edge.errors import SourceError
from progeo_edge.map_store import KeyframeInfo, MapStore, Session
from progeo_train.config import PlacesConfig
from progeo_train.data.frame_files import emptied
from progeo_train.data.image_table import UNKNOWN, ImageTable
from progeo_train.data.neighbour_places import joined_groups
from progeo_train.data.partition import wrap_heading_deg
from progeo_train.data.place_groups import PlaceGroups
from progeo_train.data.recording import read_frames, seconds, split_options
from progeo_train.data.scan_cache import Progress

logger = logging.getLogger(__name__)

THUMBNAIL_MARKER = "thumbnails.done"


def read_map(
    path: Path, places: PlacesConfig, cache: Path, source: str | None = None, progress: Progress | None = None
) -> tuple[ImageTable, PlaceGroups]:
    """Read the keyframes of a map; images that its verified closures tie are one place (`joined_groups`).

    Sessions are sequences. Several sessions of a map are one region: between them a place may have come back unseen.
    Positions and headings are those of `T_odom_base` in the odometry frame of each session, as in `read_recording`.

    Args:
        path: The map.
        places: What a place is; `frame_interval_s` does not apply, keyframes are all taken.
        cache: Folder for the images.
        source: The recording that a session was made from, with options as in `read_recording`: its frames are used,
            at their full size, instead of the thumbnails of the map. With several sessions, those of its name.
        progress: Called with 1 for every image read the first time.

    Raises:
        SourceError: a map without images and without a source, a source of another recording, or no place with
            enough images.
        MapError: no map, or damaged.
    """
    with MapStore.open(path, read_only=True) as store:
        infos = store.infos()
        if not infos:
            raise SourceError(f"map {path} holds no keyframe; expected the map of a finished run")
        root, names = (
            _thumbnails(store, infos, path, cache, progress)
            if source is None
            else _original_frames(infos, store.sessions(), path, source, cache, progress)
        )
        kept = [info for info in infos if info.id in names]
        sessions = store.sessions()
        closures = [(closure.query_id, closure.reference_id) for closure in store.closures()]
    table = _to_table(root, names, kept, sessions)
    row_of_id = {info.id: row for row, info in enumerate(kept)}
    rows = [(row_of_id[a], row_of_id[b]) for a, b in closures if a in row_of_id and b in row_of_id]
    return table, joined_groups(table, np.array(rows, np.int64).reshape(-1, 2), places)


def _to_table(
    root: Path, names: dict[int, str], kept: Sequence[KeyframeInfo], sessions: Sequence[Session]
) -> ImageTable:
    number_of_session = {session.id: number for number, session in enumerate(sessions)}
    sequence = np.array([number_of_session[info.session] for info in kept], np.int32)
    unknown = np.full((4, 4), np.nan)
    poses = np.array([unknown if info.T_odom_base is None else info.T_odom_base for info in kept])
    region = 0 if len(sessions) > 1 else UNKNOWN
    return ImageTable.of(
        root,
        [names[info.id] for info in kept],
        east_m=poses[:, 0, 3],
        north_m=poses[:, 1, 3],
        heading_deg=wrap_heading_deg(np.degrees(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]))),
        time_s=_session_seconds(np.array([info.stamp_ns for info in kept], np.int64), sequence),
        sequence=sequence,
        sequence_names=[f"session {session.id} {Path(session.name).name}" for session in sessions],
        region=np.full(len(kept), region, np.int32),
    )


def _session_seconds(stamps_ns: NDArray[np.int64], sequence: NDArray[np.int32]) -> NDArray[np.float64]:
    """Sessions have clocks of their own."""
    time_s = np.zeros(len(stamps_ns))
    for number in np.unique(sequence):
        time_s[sequence == number] = seconds(stamps_ns[sequence == number])
    return time_s


def _thumbnails(
    store: MapStore, infos: Sequence[KeyframeInfo], path: Path, cache: Path, progress: Progress | None
) -> tuple[Path, dict[int, str]]:
    """Write the stored JPEG data as files, once; keyframes of a map may come and go, but do not change."""
    ids = ",".join(str(info.id) for info in infos)
    folder = cache / f"{path.stem}-{hashlib.sha256(f'{store.map_id} {ids}'.encode()).hexdigest()[:20]}"
    if not (folder / THUMBNAIL_MARKER).is_file():
        with emptied(folder):
            for info in infos:
                data = store.thumbnail_jpeg(info.id)
                if data is not None:
                    (folder / _file_name(info.id)).write_bytes(data)
                if progress is not None:
                    progress(1)
            write_bytes(folder / THUMBNAIL_MARKER, b"")
    names = {info.id: _file_name(info.id) for info in infos if (folder / _file_name(info.id)).is_file()}
    if not names:
        raise SourceError(
            f"map {path} was made without images (store.thumbnails=false); name its recording too, as {path}@RECORDING"
        )
    if len(names) < len(infos):
        logger.warning("%s: %d of %d keyframes have no image", path, len(infos) - len(names), len(infos))
    return folder, names


def _file_name(keyframe_id: int) -> str:
    return f"{keyframe_id:06d}.jpg"


def _original_frames(
    infos: Sequence[KeyframeInfo],
    sessions: Sequence[Session],
    path: Path,
    source: str,
    cache: Path,
    progress: Progress | None,
) -> tuple[Path, dict[int, str]]:
    """Find the frames of the keyframes by their stamps, which the runtime keeps to the nanosecond."""
    source_path, options = split_options(source)
    chosen = _sessions_of(sessions, source_path, path)
    id_of_stamp = {info.stamp_ns: info.id for info in infos if info.session in chosen}
    frames = read_frames(source_path, options, None, cache, wanted_stamps_ns=frozenset(id_of_stamp), progress=progress)
    names = {id_of_stamp[stamp_ns]: frames.names[row] for row, stamp_ns in enumerate(frames.stamps_ns.tolist())}
    if 2 * len(names) < len(id_of_stamp):
        raise SourceError(
            f"{source}: it has frames at the times of {len(names)} of the {len(id_of_stamp)} keyframes of map {path}; "
            f"expected the recording that the map was made from, with the same options"
        )
    if len(names) < len(infos):
        logger.warning("%s: %d of %d keyframes are not in %s", path, len(infos) - len(names), len(infos), source)
    return frames.root, names


def _sessions_of(sessions: Sequence[Session], source: Path, path: Path) -> set[int]:
    if len(sessions) == 1:
        return {sessions[0].id}
    # A recording that was driven into the map twice gave two sessions of the same keyframes; the last one is enough.
    named = [session.id for session in sessions if Path(session.name).name == source.name]
    if not named:
        known = ", ".join(session.name for session in sessions)
        raise SourceError(f"map {path} has no session of {source}; its sessions are {known}: name one of these")
    return {named[-1]}
