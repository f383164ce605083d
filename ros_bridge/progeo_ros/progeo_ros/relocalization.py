"""Questions "where am I?" that wait until images have answered them."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from progeo_ros.events import Whereabouts

MAX_WAITING = 4
"""Every one of them holds a thread of the node."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What came of a question.

    Attributes:
        problem: Why there is no pose in metres, in one sentence; "" when there is one.
        found: What the images amounted to; None when there was none.
    """

    problem: str
    found: Whereabouts | None = None


class RelocalizationDesk:
    """Brings those who ask together with the thread that works on images. Its methods may be called from any thread.

    Who asks while somebody waits already takes part in that question.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting = 0
        self._closed = False
        self._is_new = True
        self._num_seen = 0
        self._last: Whereabouts | None = None
        # The newest answer with a match, and the newest with a pose in metres, each with its number.
        self._recognised: tuple[int, Whereabouts] | None = None
        self._located: tuple[int, Whereabouts] | None = None

    @property
    def is_asked(self) -> bool:
        """Whether the next image should be looked up in the map."""
        with self._changed:
            return self._waiting > 0

    @property
    def is_new(self) -> bool:
        """Whether no image has been looked up for this question yet: those before it do not count."""
        with self._changed:
            return self._is_new

    def ask(self, timeout_s: float) -> Answer:
        """Wait until the place is certain and known in metres, at most `timeout_s` by the clock of the machine."""
        with self._changed:
            if self._waiting >= MAX_WAITING:
                return Answer(f"{MAX_WAITING} others wait for a pose already; ask again when they have got it")
            self._is_new = self._is_new or self._waiting == 0
            self._waiting += 1
            start = self._num_seen
            try:
                self._changed.wait_for(lambda: self._closed or _since(self._located, start) is not None, timeout_s)
            finally:
                self._waiting -= 1
            located = _since(self._located, start)
            return self._why_not(start, timeout_s) if located is None else Answer("", located)

    def offer(self, found: Whereabouts) -> None:
        """An image was looked up."""
        with self._changed:
            self._is_new = False
            self._last = found
            if found.relocalisation.match is not None:
                self._recognised = (self._num_seen, found)
            if found.relocalisation.T_odom_base is not None:
                self._located = (self._num_seen, found)
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
            last = self._last.relocalisation
            return Answer(
                f"no match after {seen} images in {timeout_s:g} s: {last.status.value}, the best place has probability "
                f"{last.probability:.2f}",
                self._last,
            )
        return Answer(
            "the place is known, but not the pose in metres, which takes a calibrated camera with depth, stereo or "
            "odometry, and odometry when the map was made",
            recognised,
        )


def _since(numbered: tuple[int, Whereabouts] | None, start: int) -> Whereabouts | None:
    return numbered[1] if numbered is not None and numbered[0] >= start else None
