"""What every source of frames shares: lazy decoding, counted skips, monotonic stamps, sub-sampling by rate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from progeo_edge.errors import SourceError
from progeo_edge.geometry import Camera, Cameras
from progeo_edge.sources.images import FrameError
from progeo_edge.sources.rate import RateSchedule
from progeo_edge.types import Frame

logger = logging.getLogger(__name__)

MAX_LOGGED_SKIPS = 5


@dataclass(frozen=True)
class SkippedFrame:
    """A frame that could not be used, and why.

    Attributes:
        name: As the frame would have been called.
        reason: One clause for people.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Entry:
    """A frame that is known but not decoded yet.

    Attributes:
        stamp_ns: Time of the image.
        name: As in `Frame`.
        load: Decodes it; raises FrameError when it cannot.
    """

    stamp_ns: int
    name: str
    load: Callable[[], Frame]


class Source(Protocol):
    """Frames in the order of their stamps; can be iterated again, one iteration at a time.

    Attributes:
        name: Shown in reports.
        camera: Intrinsics when the data or the user states them; of a rig by the name that `Frame.camera` gives.
        num_frames: Number of frames where known, before skipping.
        skipped: Frames left out so far, because they were broken or their stamps did not increase; not those left
            out by the rate. Filled while iterating, emptied when an iteration starts.
    """

    name: str
    num_frames: int | None

    @property
    def camera(self) -> Cameras | None: ...  # noqa: D102

    @property
    def skipped(self) -> list[SkippedFrame]: ...  # noqa: D102

    def __iter__(self) -> Iterator[Frame]: ...


class LazySource:
    """The one implementation of `Source`: every kind of data hands it undecoded entries.

    Args:
        name: Shown in reports.
        read: Starts one pass over the data; yields entries and what is already known to be broken.
        camera: Intrinsics, or None.
        num_frames: Number of frames where known.
        rate_hz: Keep at most this many frames per second; None keeps all.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], Iterable[Entry | SkippedFrame]],
        *,
        camera: Camera | None = None,
        num_frames: int | None = None,
        rate_hz: float | None = None,
    ) -> None:
        self.name = name
        self.camera = camera
        self.num_frames = num_frames
        self.skipped: list[SkippedFrame] = []
        self._read = read
        self._rate_hz = rate_hz

    def __iter__(self) -> Iterator[Frame]:
        """Decode frame by frame.

        Raises:
            SourceError: when the data ends without one usable frame, or when the stamps of most frames did not
                increase.
        """
        self.skipped = []
        schedule = RateSchedule(self._rate_hz)
        last_ns: int | None = None
        num_seen = num_used = num_late = 0
        for entry in self._read():
            num_seen += 1
            if isinstance(entry, SkippedFrame):
                self._skip(entry.name, entry.reason)
                continue
            late = _stamp_problem(entry.stamp_ns, last_ns)
            if late:
                num_late += 1
                self._skip(entry.name, late)
                continue
            last_ns = entry.stamp_ns
            if not schedule.is_due(entry.stamp_ns):
                continue
            try:
                frame = entry.load()
                _check_aspect(frame, self.camera)
            except FrameError as error:
                self._skip(entry.name, str(error))
                continue
            schedule.keep(entry.stamp_ns)
            num_used += 1
            yield frame
        self._conclude(num_seen, num_used, num_late)

    def _skip(self, name: str, reason: str) -> None:
        self.skipped.append(SkippedFrame(name, reason))
        if len(self.skipped) <= MAX_LOGGED_SKIPS:
            logger.warning("%s: frame %s skipped: %s", self.name, name, reason)

    def _conclude(self, num_seen: int, num_used: int, num_late: int) -> None:
        if not num_used:
            raise _nothing_usable(self.name, num_seen, self.skipped)
        if 2 * num_late > num_seen:
            raise SourceError(
                f"{self.name}: the stamps of {num_late} of {num_seen} frames repeat or go back, and these frames were "
                f"skipped; expected increasing stamps: sort the recording or correct its clock"
            )
        if len(self.skipped) > MAX_LOGGED_SKIPS:
            logger.warning("%s: %d of %d frames skipped in all", self.name, len(self.skipped), num_seen)


def source_from_entries(
    name: str, entries: Sequence[Entry | SkippedFrame], *, camera: Camera | None, rate_hz: float | None
) -> LazySource:
    """A source whose stamps are all known beforehand, so that a bad order is refused before any work is done.

    Raises:
        SourceError: no entries, or the stamps of most of them do not increase.
    """
    stamps_ns = [entry.stamp_ns for entry in entries if isinstance(entry, Entry)]
    if not stamps_ns:
        raise _nothing_usable(name, len(entries), [entry for entry in entries if isinstance(entry, SkippedFrame)])
    num_late = _count_late(stamps_ns)
    if 2 * num_late > len(stamps_ns):
        raise SourceError(
            f"{name}: the stamps of {num_late} of {len(stamps_ns)} frames repeat or go back; expected increasing "
            f"stamps: sort the list by time, or leave the stamps out"
        )
    return LazySource(name, lambda: entries, camera=camera, num_frames=len(entries), rate_hz=rate_hz)


def _nothing_usable(name: str, num_seen: int, skipped: Sequence[SkippedFrame]) -> SourceError:
    if not num_seen:
        return SourceError(f"{name}: it holds no frame; expected at least one")
    first = f"; the first: frame {skipped[0].name}: {skipped[0].reason}" if skipped else ""
    return SourceError(f"{name}: none of its {num_seen} frames can be used{first}")


def _stamp_problem(stamp_ns: int, last_ns: int | None) -> str:
    if last_ns is None or stamp_ns > last_ns:
        return ""
    if stamp_ns == last_ns:
        return f"its stamp {stamp_ns / 1e9:.6f} s repeats the one before"
    return f"its stamp goes back by {(last_ns - stamp_ns) / 1e9:.6f} s"


def _count_late(stamps_ns: Sequence[int]) -> int:
    num_late, last_ns = 0, None
    for stamp_ns in stamps_ns:
        if last_ns is not None and stamp_ns <= last_ns:
            num_late += 1
        else:
            last_ns = stamp_ns
    return num_late


def _check_aspect(frame: Frame, camera: Camera | None) -> None:
    """Intrinsics scale with the image size, but not with its shape."""
    if camera is None:
        return
    height_px, width_px = frame.image.shape[:2]
    if abs(height_px - width_px * camera.height_px / camera.width_px) > 1.0:
        raise FrameError(
            f"it is {width_px}x{height_px}, but the camera is calibrated for "
            f"{camera.width_px}x{camera.height_px}, which has another aspect ratio"
        )
