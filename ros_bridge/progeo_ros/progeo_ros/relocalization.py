"""Questions "where am I?" that wait until an image answers them."""

from __future__ import annotations

import threading

from progeo_edge.types import LoopClosure
from progeo_ros.conversions.outgoing import relocalizing_closure
from progeo_ros.events import Outcome

MAX_WAITING = 4
"""Every one of them holds a thread of the node."""


class RelocalizationDesk:
    """Brings those who ask together with the thread that works on images. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting = 0
        self._seen = 0
        self._last: Outcome | None = None
        self._answer: Outcome | None = None
        self._answers = 0
        self._closed = False

    @property
    def is_asked(self) -> bool:
        """Whether the next image should be looked up in the map."""
        with self._changed:
            return self._waiting > 0

    def ask(self, timeout_s: float) -> tuple[Outcome, LoopClosure] | str:
        """Wait for an image whose place is known in metres.

        Args:
            timeout_s: At most this long, by the clock of the machine.

        Returns:
            What became of the image, and the closure that tells the pose; or one sentence why there is no answer.
        """
        with self._changed:
            if self._waiting >= MAX_WAITING:
                return f"{MAX_WAITING} others wait for a pose already; ask again when they have got it"
            self._waiting += 1
            answers, seen = self._answers, self._seen
            try:
                self._changed.wait_for(lambda: self._closed or self._answers > answers, timeout_s)
            finally:
                self._waiting -= 1
            if self._answers == answers or self._answer is None:
                return self._why_not(timeout_s, self._seen - seen)
            closure = relocalizing_closure(self._answer)
            assert closure is not None  # `offer` keeps no other
            return self._answer, closure

    def offer(self, outcome: Outcome) -> None:
        """An image was looked up."""
        with self._changed:
            self._seen += 1
            self._last = outcome
            if relocalizing_closure(outcome) is not None:
                self._answer = outcome
                self._answers += 1
                self._changed.notify_all()

    def close(self) -> None:
        """No image will come any more: those who wait get that as their answer, and so does everyone who asks later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _why_not(self, timeout_s: float, seen: int) -> str:
        if self._closed:
            return "the node does not take images; activate it, or end its pause"
        if seen == 0 or self._last is None:
            return f"no image was processed within {timeout_s:g} s; diagnostics say what is missing"
        if self._last.update.closures:
            return (
                f"{seen} images in {timeout_s:g} s, the place of the last one is known but not its pose in metres; "
                "camera calibration and depth, stereo or odometry give it"
            )
        return f"{seen} images in {timeout_s:g} s, none recognised; the last one ended with {self._last.update.status.value}"
