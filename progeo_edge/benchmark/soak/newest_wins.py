"""A queue of one, as the ROS node has it: a newer frame replaces the one that waits, so that nothing lags."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from progeo_edge.benchmark.soak.schedule import Arrival


@dataclass(frozen=True, slots=True)
class Turn:
    """A frame whose turn has come.

    Attributes:
        arrival: The frame.
        waited_s: From its arrival until now.
        depth: Frames in the node at its arrival, itself not counted: the one at work, and one that it replaced.
    """

    arrival: Arrival
    waited_s: float
    depth: int


class NewestWins:
    """Plays the node's worker on the clock of the arrivals.

    The worker is busy for as long as the work on a frame has really taken. Without real time nobody waits for the next
    arrival: the clock jumps there.

    Attributes:
        lost: Frames that a newer one replaced before their turn came.
        num_arrived: Frames that arrived.
    """

    def __init__(self, *, real_time: bool, now_s: Callable[[], float] = time.monotonic) -> None:
        self.lost = 0
        self.num_arrived = 0
        self._real_time = real_time
        self._now_s = now_s
        self._started_s = now_s()

    def turns(self, arrivals: Iterator[Arrival]) -> Iterator[Turn]:
        """Yield each frame when its turn comes; the work on it is what the caller does until it asks for the next."""
        free_s = 0.0
        waiting: tuple[Arrival, int] | None = None
        for arrival in arrivals:
            self.num_arrived += 1
            if waiting is not None and max(free_s, waiting[0].time_s) <= arrival.time_s:
                free_s = yield from self._work(*waiting, free_s)
                waiting = None
            depth = int(free_s > arrival.time_s) + int(waiting is not None)
            self.lost += waiting is not None
            waiting = (arrival, depth)
        if waiting is not None:
            yield from self._work(*waiting, free_s)

    def _work(self, arrival: Arrival, depth: int, free_s: float) -> Generator[Turn, None, float]:
        """Give the caller the frame; returns when the worker is free again."""
        start_s = max(free_s, arrival.time_s)
        if self._real_time:
            time.sleep(max(0.0, start_s - (self._now_s() - self._started_s)))
        began_s = self._now_s()
        yield Turn(arrival, start_s - arrival.time_s, depth)
        return start_s + self._now_s() - began_s
