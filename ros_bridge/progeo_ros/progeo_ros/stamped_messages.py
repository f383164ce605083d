"""Messages kept until the image they belong to is there: depth, right images, keyframe triggers."""

from __future__ import annotations

from collections import deque
from typing import Any, Generic, Protocol, TypeVar

from progeo_ros.conversions.incoming import header_stamp_ns
from progeo_ros.message_types import stamp_ns_of
from progeo_ros.transforms import RESTART_NS

MAX_KEPT = 16
MAX_UNASKED = 30
"""Images kept undecoded until their trigger comes: one second at 30 Hz."""
SAME_NS = 1_000_000
"""Stamps that went through a double in some SLAM come back a few hundred nanoseconds off."""


class StampedMessages:
    """The last messages of a topic, looked up by the stamp of an image.

    Args:
        max_offset_ms: Largest difference of stamps.
        max_kept: Messages that are kept.
    """

    def __init__(self, max_offset_ms: float, max_kept: int = MAX_KEPT) -> None:
        self._max_offset_ns = max_offset_ms * 1e6
        self._messages: deque[tuple[int, Any]] = deque(maxlen=max_kept)

    @property
    def has_come(self) -> bool:
        """Whether there is any."""
        return bool(self._messages)

    def add(self, message: Any) -> None:  # noqa: ANN401
        """Keep a message."""
        stamp_ns = header_stamp_ns(message)
        if self._messages and stamp_ns < self._messages[-1][0] - RESTART_NS:
            self._messages.clear()
        self._messages.append((stamp_ns, message))

    def forget_after(self, stamp_ns: int) -> None:
        """Time was set back to a stamp."""
        kept = [item for item in self._messages if item[0] < stamp_ns + RESTART_NS]
        self._messages = deque(kept, maxlen=self._messages.maxlen)

    def reaches(self, stamp_ns: int) -> bool:
        """Whether a later message cannot be nearer to a stamp than one that is here."""
        return any(stamp >= stamp_ns for stamp, _ in self._messages)

    def nearest(self, stamp_ns: int) -> Any | None:  # noqa: ANN401
        """The message nearest to a stamp; None when it is further away than allowed."""
        offsets = [(abs(stamp - stamp_ns), message) for stamp, message in self._messages]
        best = min(offsets, key=lambda pair: pair[0], default=None)
        return best[1] if best is not None and best[0] <= self._max_offset_ns else None


class Stamped(Protocol):
    """An image that waits."""

    @property
    def stamp_ns(self) -> int: ...  # noqa: D102


S = TypeVar("S", bound=Stamped)


class KeyframeTriggers(Generic[S]):
    """Brings images and the triggers that name them together, whichever comes first.

    Attributes:
        num_unmatched: Triggers to which no image came.
    """

    def __init__(self) -> None:
        self.num_unmatched = 0
        self._images: deque[S] = deque()
        self._stamps_ns: list[int] = []

    def on_trigger(self, header: Any) -> S | None:  # noqa: ANN401
        """The image that a std_msgs/Header names, when it has come already."""
        stamp_ns = stamp_ns_of(header.stamp)
        for image in self._images:
            if abs(image.stamp_ns - stamp_ns) <= SAME_NS:
                self._images.remove(image)
                return image
        self._stamps_ns.append(stamp_ns)
        return None

    def on_image(self, image: S, stamp_ns: int) -> tuple[bool, int]:
        """Whether a trigger named this image, and how many earlier ones are given up."""
        match = next((stamp for stamp in self._stamps_ns if abs(stamp - stamp_ns) <= SAME_NS), None)
        if match is not None:
            self._stamps_ns.remove(match)
        else:
            self._images.append(image)
        self._give_up_before(stamp_ns - RESTART_NS)
        passed = max(0, len(self._images) - MAX_UNASKED)
        for _ in range(passed):
            self._images.popleft()
        return match is not None, passed

    def forget_after(self, stamp_ns: int) -> None:
        """Time was set back to a stamp: what came before is of the former time."""
        self._images.clear()
        self._stamps_ns = [stamp for stamp in self._stamps_ns if stamp < stamp_ns + RESTART_NS]

    def _give_up_before(self, stamp_ns: int) -> None:
        kept = [stamp for stamp in self._stamps_ns if stamp >= stamp_ns]
        self.num_unmatched += len(self._stamps_ns) - len(kept)
        self._stamps_ns = kept
