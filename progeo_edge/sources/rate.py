"""Sub-sampling by rate, without drift."""

from __future__ import annotations

import math

from progeo_edge.errors import SourceError

TOLERANCE = 0.05
"""Share of a period by which a frame may come early: at 30 Hz, every third frame is 10 Hz in spite of jitter."""


class RateSchedule:
    """Keeps at most `rate_hz` frames per second.

    Frames are due at the first kept stamp plus multiples of the period, not one period after the last kept frame:
    otherwise every late frame would delay all that follow, and the rate would fall short.

    Args:
        rate_hz: Frames per second; None keeps every frame.

    Raises:
        SourceError: when the rate is not a positive number.
    """

    def __init__(self, rate_hz: float | None) -> None:
        if rate_hz is not None and not (math.isfinite(rate_hz) and rate_hz > 0):
            raise SourceError(f"rate {rate_hz} Hz is not possible; give a positive number of frames per second")
        self._period_ns = None if rate_hz is None else 1e9 / rate_hz
        self._first_ns: int | None = None
        self._next_slot = 0

    def is_due(self, stamp_ns: int) -> bool:
        """Whether the frame should be decoded."""
        if self._period_ns is None or self._first_ns is None:
            return True
        return self._slot(stamp_ns) >= self._next_slot

    def keep(self, stamp_ns: int) -> None:
        """Note that the frame was used; one that turned out to be broken is made up for by the next."""
        if self._first_ns is None:
            self._first_ns = stamp_ns
        if self._period_ns is not None:
            self._next_slot = self._slot(stamp_ns) + 1

    def _slot(self, stamp_ns: int) -> int:
        assert self._period_ns is not None and self._first_ns is not None
        return math.floor((stamp_ns - self._first_ns) / self._period_ns + TOLERANCE)
