"""Names of all images in a folder, remembered: a folder of a million files is walked once, not at every start.

The cache is one file per folder. It is used as long as every folder below still has the times of change that were seen
during the walk; adding, removing or renaming a file changes them. A cache that is damaged is made anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge import atomic
from progeo_edge.errors import SourceError
from progeo_edge.sources.images import IMAGE_SUFFIXES
from progeo_train.data.image_table import ImageNames

logger = logging.getLogger(__name__)

Progress = Callable[[int], None]
"""Called now and then with the number of images found since the last call."""

UNSETTLED_NS = 2_000_000_000
"""A folder that changed this shortly before it was listed could change again within one tick of its clock."""

_MAGIC = b"progeo image scan 1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True, eq=False)
class _Scan:
    """What a walk found.

    Attributes:
        names: Images, relative to the folder, sorted.
        folders: The folder itself ("") and all below, as walked.
        stamps_ns: (F, 2) int64, times of change of each folder's list (mtime) and of its inode (ctime: copying tools
            reset the other); -1 where it had not settled.
    """

    names: ImageNames
    folders: ImageNames
    stamps_ns: NDArray[np.int64]


def scan_images(folder: Path, cache_folder: Path | None, progress: Progress | None = None) -> ImageNames:
    """Images at any depth, by suffix, named by their path inside the folder, in the order of their characters.

    Hidden files and folders (".name") are left out; links to folders are followed once. A folder that changed within
    the last two seconds is listed again the next time.

    Args:
        folder: Where to look.
        cache_folder: Where the list is kept; made when missing. None keeps none.
        progress: Called while the folder is walked; not called when the cache is used.

    Raises:
        SourceError: no such folder, one that cannot be listed, or no image in it.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder; give the folder that holds the images")
    resolved = folder.resolve()
    cache = None if cache_folder is None else _cache_path(resolved, cache_folder)
    scan = None if cache is None else _read_cache(cache, resolved)
    if scan is None:
        scan = _walk(resolved, progress)
        if cache is not None and len(scan.names):
            _write_cache(cache, resolved, scan)
    if not len(scan.names):
        raise SourceError(f"{folder} holds no image; expected files such as .jpg or .png, at any depth")
    return scan.names


def _walk(folder: Path, progress: Progress | None) -> _Scan:
    names: list[str] = []
    folders: list[str] = []
    stamps: list[tuple[int, int]] = []
    seen: set[tuple[int, int]] = set()
    pending = [""]
    while pending:
        inside = pending.pop()
        status = _status(folder / inside)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.append(inside)
        stamps.append(_stamps(status, time.time_ns()))
        before = len(names)
        for name, is_folder in _entries(folder / inside):
            (pending if is_folder else names).append(f"{inside}/{name}" if inside else name)
        if progress is not None and len(names) > before:
            progress(len(names) - before)
    names.sort()
    return _Scan(ImageNames.from_names(names), ImageNames.from_names(folders), np.array(stamps, np.int64))


def _entries(folder: Path) -> Iterator[tuple[str, bool]]:
    """Images and folders (True) of one folder, in the order of their names."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted((entry for entry in listing if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(
            f"folder {folder} cannot be listed: {error.strerror}; make it readable, or move it"
        ) from error
    for entry in entries:
        if entry.is_dir():
            yield entry.name, True
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - a Path costs ten times more
            yield entry.name, False


def _status(folder: Path) -> os.stat_result:
    try:
        return folder.stat()
    except OSError as error:
        raise SourceError(f"folder {folder} cannot be read: {error.strerror}; was it removed meanwhile?") from error


def _stamps(status: os.stat_result, now_ns: int) -> tuple[int, int]:
    changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
    return (-1, -1) if changed_ns > now_ns - UNSETTLED_NS else (status.st_mtime_ns, status.st_ctime_ns)


def _cache_path(folder: Path, cache_folder: Path) -> Path:
    key = hashlib.sha256(os.fsencode(folder)).hexdigest()[:20]
    return cache_folder / f"images-{key}.scan"


def _read_cache(cache: Path, folder: Path) -> _Scan | None:
    """The cached scan, or None when there is none that holds for the folder as it is now."""
    try:
        content = cache.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("the list of images %s cannot be read (%s); listing %s again", cache, error.strerror, folder)
        return None
    body = memoryview(content)[len(_MAGIC) + _DIGEST_BYTES :]
    if content[: len(_MAGIC)] != _MAGIC or content[len(_MAGIC) :][:_DIGEST_BYTES] != hashlib.sha256(body).digest():
        logger.warning("the list of images %s is damaged or of another version; listing %s again", cache, folder)
        return None
    scan = _unpack(body, _identity(folder))
    if scan is None or not _is_unchanged(scan, folder):
        logger.info("%s has changed since it was listed; listing it again", folder)
        return None
    return scan


def _is_unchanged(scan: _Scan, folder: Path) -> bool:
    for inside, (mtime_ns, ctime_ns) in zip(scan.folders, scan.stamps_ns.tolist(), strict=True):
        try:
            status = os.stat(os.path.join(folder, inside))  # noqa: PTH116, PTH118 - once per folder, maybe a million
        except OSError:
            return False
        if (status.st_mtime_ns, status.st_ctime_ns) != (mtime_ns, ctime_ns):
            return False
    return True


def _write_cache(cache: Path, folder: Path, scan: _Scan) -> None:
    body = _pack(scan, _identity(folder))
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(cache, _MAGIC + hashlib.sha256(body).digest() + body)
    except OSError as error:
        logger.warning("the list of images cannot be kept in %s: %s; the next start lists again", cache, error.strerror)


def _identity(folder: Path) -> dict[str, Any]:
    """What the list depends on besides the files."""
    return {"folder": os.fsencode(folder).hex(), "suffixes": sorted(IMAGE_SUFFIXES)}


def _pack(scan: _Scan, identity: dict[str, Any]) -> bytes:
    """A line of JSON, then the arrays it measures, little-endian."""
    arrays = [
        np.ascontiguousarray(scan.names.offsets, "<i8").tobytes(),
        scan.names.blob,
        np.ascontiguousarray(scan.folders.offsets, "<i8").tobytes(),
        scan.folders.blob,
        np.ascontiguousarray(scan.stamps_ns, "<i8").tobytes(),
    ]
    header = {**identity, "bytes": [len(array) for array in arrays]}
    return b"".join([json.dumps(header).encode() + b"\n", *arrays])


def _unpack(body: memoryview, identity: dict[str, Any]) -> _Scan | None:
    """The inverse of `_pack`, of a body whose checksum was right; None when it is of another folder."""
    line, _, _ = bytes(body[: 1 << 16]).partition(b"\n")
    header = json.loads(line)
    lengths = header.pop("bytes")
    if header != identity:
        return None
    ends = len(line) + 1 + np.cumsum(lengths)
    pieces = [body[end - length : end] for end, length in zip(ends.tolist(), lengths, strict=True)]
    numbers = [np.frombuffer(pieces[index], "<i8").astype(np.int64) for index in (0, 2, 4)]
    return _Scan(
        ImageNames(bytes(pieces[1]), numbers[0]), ImageNames(bytes(pieces[3]), numbers[1]), numbers[2].reshape(-1, 2)
    )
