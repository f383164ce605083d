"""Milliseconds per stage of one query."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageTimer:
    """Collects the wall time of named stages; a stage entered twice adds up."""

    def __init__(self) -> None:
        self._started_ns = time.perf_counter_ns()
        self._stages_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body under `name`, also when it returns or raises."""
        started_ns = time.perf_counter_ns()
        try:
            yield
        finally:
            elapsed_ms = (time.perf_counter_ns() - started_ns) * 1e-6
            self._stages_ms[name] = self._stages_ms.get(name, 0.0) + elapsed_ms

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since construction."""
        return (time.perf_counter_ns() - self._started_ns) * 1e-6

    def timings_ms(self) -> dict[str, float]:
        """Stages in order of execution, and "total" since construction."""
        return {**self._stages_ms, "total": self.elapsed_ms}
