"""The recent past, kept out of the index until it is old enough to be a revisit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from progeo_edge.config import ExclusionConfig
from progeo_edge.errors import InputError
from progeo_edge.types import Descriptor

_NS_PER_S = 1_000_000_000
CLOCK_JITTER_NS = _NS_PER_S
"""A stamp that lies back by no more than this came out of order; one that lies back further is of a clock set anew."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    id: int
    descriptor: Descriptor
    elapsed_ns: float
    travelled_m: float | None
    moment: int


class RecentKeyframes:
    """A queue that keyframes leave in the order they came, once they are outside the exclusion window.

    With odometry a keyframe leaves when it is both `time_s` old and `distance_m` back along the path, so that a robot
    that stands still does not close loops with itself. Without, when it is `time_s` old and `keyframes` others came
    after it. The images of one moment of a rig count as one keyframe, and are never each other's past. Time and path
    are counted in forward steps: when a clock or an odometry starts anew, counting goes on from there, and neither lets
    everything out nor waits for the old value to come back.
    """

    def __init__(self, config: ExclusionConfig) -> None:
        self._config = config
        self._waiting: deque[_Waiting] = deque()
        self._num_moments = 0
        self._clock_ns = _ForwardCounter(jitter=CLOCK_JITTER_NS)
        self._path_m = _ForwardCounter(jitter=config.distance_m)

    def __len__(self) -> int:
        """Keyframes that wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[tuple[int, Descriptor]]:
        """Id and descriptor of those that wait, oldest first."""
        return iter([(item.id, item.descriptor) for item in self._waiting])

    def push(
        self, keyframe_id: int, descriptor: Descriptor, stamp_ns: int, path_m: float | None, *, joins: bool = False
    ) -> None:
        """Let the newest keyframe wait.

        Args:
            keyframe_id: Its id.
            descriptor: (D,) descriptor, handed back by `release`.
            stamp_ns: Time of its image.
            path_m: Metres driven until it, along the odometry; None without odometry.
            joins: It is another image of the moment of the keyframe before.

        Raises:
            InputError: the path length is not finite or negative.
        """
        self._advance(stamp_ns, path_m)
        travelled_m = None if path_m is None else self._path_m.total
        self._num_moments += not joins
        moment = self._num_moments - 1
        self._waiting.append(_Waiting(keyframe_id, descriptor, self._clock_ns.total, travelled_m, moment))

    def release(self, stamp_ns: int, path_m: float | None, *, joins: bool = False) -> list[tuple[int, Descriptor]]:
        """Take out what lies outside the window of a query at this time and place, oldest first.

        Args:
            stamp_ns: Time of the query.
            path_m: Metres driven until it; None without odometry.
            joins: The query is another image of the moment of the last keyframe.

        Raises:
            InputError: the path length is not finite or negative.
        """
        self._advance(stamp_ns, path_m)
        moment = self._num_moments - joins
        released = []
        while self._waiting and self._is_past(self._waiting[0], moment, with_odometry=path_m is not None):
            item = self._waiting.popleft()
            released.append((item.id, item.descriptor))
        return released

    def drain(self) -> list[tuple[int, Descriptor]]:
        """Take out all that wait, oldest first: the session is over."""
        drained = list(self)
        self._waiting.clear()
        return drained

    def _is_past(self, item: _Waiting, moment: int, *, with_odometry: bool) -> bool:
        if item.moment == moment or self._clock_ns.total - item.elapsed_ns < self._config.time_s * _NS_PER_S:
            return False
        if with_odometry and item.travelled_m is not None:
            return self._path_m.total - item.travelled_m >= self._config.distance_m
        return moment - 1 - item.moment >= self._config.keyframes

    def _advance(self, stamp_ns: int, path_m: float | None) -> None:
        if path_m is not None:
            if not np.isfinite(path_m) or path_m < 0:
                raise InputError(f"path length is {path_m} m; expected metres driven so far, or None without odometry")
            self._path_m.advance(path_m)
        self._clock_ns.advance(stamp_ns)


class _ForwardCounter:
    """Sums the forward steps of a reading that may jitter, or start anew at any value."""

    def __init__(self, jitter: float) -> None:
        self.total: float = 0
        self._jitter = jitter
        self._last: float | None = None

    def advance(self, reading: float) -> None:
        step = 0 if self._last is None else reading - self._last
        if -self._jitter <= step < 0:
            return
        self.total += max(step, 0)
        self._last = reading
