"""Video files through OpenCV."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import cv2

from progeo_edge.errors import SourceError
from progeo_edge.geometry import Camera
from progeo_edge.sources.base import Entry, LazySource, SkippedFrame
from progeo_edge.sources.images import FrameError, to_image
from progeo_edge.types import Frame, Image

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset((".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".mjpeg"))

DEFAULT_FPS = 30.0
MAX_BROKEN_IN_A_ROW = 100
"""After so many failures one after the other the rest of the file is given up."""


def open_video(
    path: Path, *, rate_hz: float | None = None, fps: float | None = None, camera: Camera | None = None
) -> LazySource:
    """Frames of a video file, with the stamps of the container, starting near 0.

    Args:
        path: Anything that the installed OpenCV can open.
        rate_hz: Keep at most this many frames per second; the others are not converted.
        fps: States the frame rate instead of the container's stamps, when these are wrong.
        camera: Intrinsics.

    Raises:
        SourceError: missing, or not readable as video.
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise SourceError(f"fps {fps} is not possible; give a positive number of frames per second")
    capture = _open(path)
    stated = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    capture.release()
    num_frames = int(stated) if 0 < stated < 1e9 else None
    return LazySource(
        str(path), lambda: _read(path, fps, num_frames), camera=camera, num_frames=num_frames, rate_hz=rate_hz
    )


def _open(path: Path) -> cv2.VideoCapture:
    if not path.is_file():
        raise SourceError(f"video {path} does not exist; check the path")
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise SourceError(
            f"video {path} ({path.stat().st_size} bytes) cannot be opened: it is damaged, or this OpenCV lacks its "
            f"codec; convert it, for example to H.264 in an .mp4"
        )
    return capture


def _read(path: Path, fps: float | None, num_frames: int | None) -> Iterator[Entry | SkippedFrame]:
    capture = _open(path)
    try:
        clock = _Clock(capture, fps)
        index, num_broken = 0, 0
        while num_broken <= MAX_BROKEN_IN_A_ROW:
            if capture.grab():
                yield from (SkippedFrame(_name(index + lost), "it cannot be decoded") for lost in range(num_broken))
                index += num_broken
                yield _entry(capture, clock.stamp_ns(index), _name(index))
                index, num_broken = index + 1, 0
                continue
            num_broken += 1
            if num_frames is None or index + num_broken > num_frames:
                break
        yield from _missing_end(index, num_frames)
    finally:
        capture.release()


def _missing_end(num_read: int, num_frames: int | None) -> Iterator[SkippedFrame]:
    """Some containers state their length only roughly; more than one in a hundred is a loss."""
    if num_frames is not None and num_frames - num_read > 1 + num_frames // 100:
        yield SkippedFrame(_name(num_read), f"the video ends after {num_read} of the {num_frames} frames it states")


def _entry(capture: cv2.VideoCapture, stamp_ns: int, name: str) -> Entry:
    return Entry(stamp_ns, name, lambda: Frame(stamp_ns, _retrieve(capture), name))


def _retrieve(capture: cv2.VideoCapture) -> Image:
    done, pixels = capture.retrieve()
    if not done or pixels is None:
        raise FrameError("it cannot be decoded")
    return to_image(pixels)


def _name(index: int) -> str:
    return f"{index:06d}"


class _Clock:
    """Stamps of the container, or frame numbers where it has none that increase."""

    def __init__(self, capture: cv2.VideoCapture, fps: float | None) -> None:
        self._capture = capture
        self._fixed = fps is not None
        stated = capture.get(cv2.CAP_PROP_FPS)
        self._period_ns = 1e9 / (fps or (stated if 0 < stated < 1000 else DEFAULT_FPS))
        self._last_ns: int | None = None

    def stamp_ns(self, index: int) -> int:
        """Stamp of the frame that was grabbed last."""
        if self._fixed:
            return round(index * self._period_ns)
        stamp_ns = round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
        if self._last_ns is not None and stamp_ns <= self._last_ns:
            stamp_ns = round(self._last_ns + self._period_ns)
        self._last_ns = stamp_ns
        return stamp_ns
