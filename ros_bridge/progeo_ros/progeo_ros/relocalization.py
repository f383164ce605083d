"""Questions "where am I?" that wait until an image answers them."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from progeo_edge.types import LoopClosure
from progeo_ros.conversions.outgoing import num_inliers, relocalizing_closure
from progeo_ros.events import Outcome

MAX_WAITING = 4
"""Every one of them holds a thread of the node."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What came of a question.

    Attributes:
        problem: Why there is no pose in metres, in one sentence; "" when there is one.
        outcome: Of the image that answered, or of the last one with a closure; None without any.
        closure: Its closure.
    """

    problem: str
    outcome: Outcome | None = None
    closure: LoopClosure | None = None


class RelocalizationDesk:
    """Brings those who ask together with the thread that works on images. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting = 0
        self._closed = False
        self._num_seen = 0
        self._last: Outcome | None = None
        # The newest image with a closure, and the newest with a pose in metres, each with its number.
        self._recognised: tuple[int, Outcome] | None = None
        self._located: tuple[int, Outcome] | None = None

    @property
    def is_asked(self) -> bool:
        """Whether the next image should be looked up in the map."""
        with self._changed:
            return self._waiting > 0

    def ask(self, timeout_s: float) -> Answer:
        """Wait for an image whose place is known in metres, at most `timeout_s` by the clock of the machine."""
        with self._changed:
            if self._waiting >= MAX_WAITING:
                return Answer(f"{MAX_WAITING} others wait for a pose already; ask again when they have got it")
            self._waiting += 1
            start = self._num_seen
            try:
                self._changed.wait_for(lambda: self._closed or _since(self._located, start) is not None, timeout_s)
            finally:
                self._waiting -= 1
            located = _since(self._located, start)
            if located is not None:
                return Answer("", located, relocalizing_closure(located))
            return self._why_not(start, timeout_s)

    def offer(self, outcome: Outcome) -> None:
        """An image was looked up."""
        with self._changed:
            self._last = outcome
            if outcome.update.closures:
                self._recognised = (self._num_seen, outcome)
            if relocalizing_closure(outcome) is not None:
                self._located = (self._num_seen, outcome)
            self._num_seen += 1
            self._changed.notify_all()

    def close(self) -> None:
        """No image will come any more: those who wait get that as their answer, and so does everyone who asks later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _why_not(self, start: int, timeout_s: float) -> Answer:
        seen = self._num_seen - start
        if self._closed:
            return Answer("the node takes no images; activate it")
        if seen == 0 or self._last is None:
            return Answer(f"no image was processed within {timeout_s:g} s; diagnostics say what is missing")
        recognised = _since(self._recognised, start)
        if recognised is None:
            status = self._last.update.status.value
            return Answer(f"none of {seen} images in {timeout_s:g} s was recognised; the last ended with {status}")
        return Answer(
            "the place is known, but not the pose in metres, which takes a calibrated camera with depth, stereo or "
            "odometry, and odometry when the map was made",
            recognised,
            max(recognised.update.closures, key=num_inliers),
        )


def _since(numbered: tuple[int, Outcome] | None, start: int) -> Outcome | None:
    return numbered[1] if numbered is not None and numbered[0] >= start else None
