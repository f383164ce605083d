"""Frames of a recording as image files: used where they lie, or written once, so that they can be read in any order."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge import atomic
from progeo_edge.errors import SourceError
from progeo_edge.sources import SkippedFrame, Source
from progeo_edge.types import Frame, Image
from progeo_train.data.image_table import ImageNames
from progeo_train.data.scan_cache import Progress

logger = logging.getLogger(__name__)

JPEG_QUALITY = 95
MARKER = "frames.npz"

_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class FrameFiles:
    """Frames of one recording, in the order of their stamps.

    Attributes:
        root: Folder that the names are relative to.
        names: (N,) image files.
        stamps_ns: (N,) int64 rising.
        T_odom_base: (N, 4, 4) float64 pose of the base in the odometry frame; NaN without one.
        num_skipped: Frames that could not be used.
        first_skipped: The first of them, and why; "" when there is none.
    """

    root: Path
    names: ImageNames
    stamps_ns: NDArray[np.int64]
    T_odom_base: NDArray[np.float64]
    num_skipped: int
    first_skipped: str

    def __len__(self) -> int:
        return len(self.names)


def collect_frames(
    source: Source,
    path: Path,
    folder: Path,
    *,
    wanted_stamps_ns: Collection[int] | None = None,
    progress: Progress | None = None,
) -> FrameFiles:
    """Read a recording once and remember its frames.

    Frames of an image folder (or of a list, or a TUM folder) stay where they are. Others are written to `folder` as
    JPEG of quality 95. The list of frames is written last: a folder without it was left by a run that was killed, and
    is started again. One process at a time may do this; the others wait until it has returned.

    Args:
        source: The recording.
        path: The file or folder that `source` reads.
        folder: Where frames and their list are kept; its name must change with everything that the frames depend on.
        wanted_stamps_ns: Stamps of the frames to keep; None keeps all.
        progress: Called with 1 for every frame read; not called when the list is there already.

    Raises:
        SourceError: no usable frame, or no room to write.
    """
    home = path if path.is_dir() else path.parent
    known = _read_marker(folder, home)
    if known is not None:
        return known
    # The frames of a video or a bag have names too, but a file of such a name beside it would be another image.
    may_hold_files = path.is_dir() or path.suffix.lower() in (".csv", ".txt")
    with emptied(folder):
        frames = _Collected(folder, home if may_hold_files else None)
        for frame in source:
            if progress is not None:
                progress(1)
            if wanted_stamps_ns is None or frame.stamp_ns in wanted_stamps_ns:
                frames.add(frame)
        atomic.write_bytes(folder / MARKER, frames.pack(source.skipped))
    collected = _read_marker(folder, home)
    if collected is None:
        raise SourceError(f"the list of frames {folder / MARKER} cannot be read back; check the disk")
    return collected


@contextmanager
def emptied(folder: Path) -> Iterator[None]:
    """Start a folder again, as if a killed run had left nothing there.

    Raises:
        SourceError: it cannot be written, here or in the body.
    """
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise SourceError(
            f"images cannot be written to {folder}: {error.strerror or error}; make room, or name another cache"
        ) from error


def write_jpeg(path: Path, image: Image) -> None:
    """Write (H, W, 3) BGR or (H, W) grey uint8 as JPEG of quality 95.

    Raises:
        OSError: it cannot be written.
    """
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise OSError(f"{path.name} of shape {image.shape} cannot be written as JPEG")
    path.write_bytes(data.tobytes())


def content_key(path: Path, *settings: object) -> str:
    """Name for what is made of a file or folder: changes with the files below it, their sizes and times, and settings.

    The content is not read: a recording may be larger than what is made of it by far.
    """
    digest = hashlib.sha256(repr((_VERSION, str(path.resolve()), settings)).encode("utf-8", "surrogateescape"))
    files = [path] if path.is_file() else sorted(Path(top) / name for top, _, names in os.walk(path) for name in names)
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue
        entry = f"{file.relative_to(path)}\n{status.st_size} {status.st_mtime_ns}\n"
        digest.update(entry.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:20]


class _Collected:
    """Frames so far; the first one says whether they are files already."""

    def __init__(self, folder: Path, home: Path | None) -> None:
        self._folder, self._home = folder, home
        self._in_place = False
        self._names: list[str] = []
        self._stamps_ns: list[int] = []
        self._poses: list[NDArray[np.float64]] = []
        self._elsewhere: list[SkippedFrame] = []

    def add(self, frame: Frame) -> None:
        is_file = self._home is not None and (self._home / frame.name).is_file()
        if not self._names:
            self._in_place = is_file
        name = frame.name if self._in_place else f"{len(self._names):06d}.jpg"
        if not self._in_place:
            write_jpeg(self._folder / name, frame.image)
        elif not is_file:
            self._elsewhere.append(SkippedFrame(name, f"there is no such file in {self._home}"))
            return
        self._names.append(name)
        self._stamps_ns.append(frame.stamp_ns)
        self._poses.append(np.full((4, 4), np.nan) if frame.T_odom_base is None else frame.T_odom_base)

    def pack(self, skipped: Sequence[SkippedFrame]) -> bytes:
        names = ImageNames.from_names(self._names)
        unused = [*skipped, *self._elsewhere]
        first = f"{unused[0].name}: {unused[0].reason}" if unused else ""
        arrays: dict[str, Any] = {
            "in_place": np.bool_(self._in_place),
            "blob": np.frombuffer(names.blob, np.uint8),
            "offsets": names.offsets,
            "stamps_ns": np.array(self._stamps_ns, np.int64),
            "T_odom_base": np.array(self._poses, np.float64).reshape(-1, 4, 4),
            "num_skipped": np.int64(len(unused)),
            "first_skipped": np.frombuffer(first.encode("utf-8", "surrogateescape"), np.uint8),
        }
        data = io.BytesIO()
        np.savez(data, **arrays)
        return data.getvalue()


def _read_marker(folder: Path, home: Path) -> FrameFiles | None:
    path = folder / MARKER
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return FrameFiles(
                home if arrays["in_place"] else folder,
                ImageNames(arrays["blob"].tobytes(), arrays["offsets"]),
                arrays["stamps_ns"],
                arrays["T_odom_base"],
                int(arrays["num_skipped"]),
                arrays["first_skipped"].tobytes().decode("utf-8", "surrogateescape"),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("the list of frames %s is damaged (%s); reading the recording again", path, error)
        return None
