"""What a soak records while it runs, in arrays that are whole from the start: the recorder itself must not grow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from progeo_edge.benchmark.memory import own_mb, resident_mb

NUM_SAMPLES = 400
"""Samples of memory over a whole run."""


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Memory at one moment.

    Attributes:
        hours: On the robot's clock.
        own_mb: Resident memory that no file stands behind; NaN where the system does not say.
        resident_mb: With shared libraries and file pages.
        num_keyframes: In the map.
        map_mb: Size of the map's file and its log.
    """

    hours: float
    own_mb: float
    resident_mb: float
    num_keyframes: int
    map_mb: float


@dataclass
class Course:
    """Everything that was recorded.

    Attributes:
        capacity: Frames that can be recorded.
        count: Frames recorded.
        hours: (capacity,) robot's clock of each frame worked on; `count` are valid, as in all arrays.
        total_ms: Time in the detector.
        waited_ms: From arrival to its turn.
        depth: Frames in the node at its arrival.
        is_keyframe: Whether it went into the map.
        has_closure: Whether it closed a loop, so that it went the whole way.
        statuses: Frames per status.
        num_closures: Closures accepted.
        memory: Samples, in order.
    """

    capacity: int
    count: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    num_closures: int = 0
    memory: list[MemorySample] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Written, not only reserved, so that its pages are resident from now on.
        self.hours, self.total_ms, self.waited_ms = (np.full(self.capacity, np.nan, np.float32) for _ in range(3))
        self.depth = np.full(self.capacity, 255, np.uint8)
        self.is_keyframe, self.has_closure = np.ones(self.capacity, bool), np.ones(self.capacity, bool)

    def sample_memory(self, hours: float, num_keyframes: int, map_path: Path | None) -> None:
        """Look at this process and at the map."""
        nan = float("nan")
        own, resident = own_mb(), resident_mb()
        self.memory.append(
            MemorySample(
                hours,
                nan if own is None else own,
                nan if resident is None else resident,
                num_keyframes,
                0.0 if map_path is None else _file_mb(map_path) + _file_mb(map_path.with_name(f"{map_path.name}-wal")),
            )
        )


def _file_mb(path: Path) -> float:
    return path.stat().st_size / 1e6 if path.exists() else 0.0
