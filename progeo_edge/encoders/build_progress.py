"""How far the build of an engine is: minutes in which a user must see that something moves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

_log = logging.getLogger(__name__)

_HEARTBEAT_S = 15.0


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """One report of a running build.

    Attributes:
        phase: What TensorRT calls its present phase; "building" where it does not tell (before version 10).
        step: Steps of the phase that are done.
        steps: Steps of the phase; 0 when unknown.
        elapsed_s: Seconds since the build began.
    """

    phase: str
    step: int
    steps: int
    elapsed_s: float


ProgressCallback = Callable[[BuildProgress], object]
"""Called from threads of TensorRT and of this module. An exception that it raises cancels the build."""


class _Reporter:
    def __init__(self, callback: ProgressCallback | None) -> None:
        self._callback = callback
        self._begin_s = time.monotonic()
        self._state = ("building", 0, 0)
        self.failure: BaseException | None = None

    def tell(self, phase: str, step: int, steps: int) -> bool:
        """False when the build should stop."""
        self._state = (phase, step, steps)
        if self._callback is not None and self.failure is None:
            try:
                self._callback(self._report())
            except BaseException as error:  # must not travel through TensorRT; `reporting` raises it afterwards
                # Its frames would keep the builder alive beyond the build.
                self.failure = error.with_traceback(None)
        return self.failure is None

    def beat(self, stop: threading.Event) -> None:
        while not stop.wait(_HEARTBEAT_S):
            report = self._report()
            steps = f", {report.phase} {report.step}/{report.steps}" if report.steps else ""
            _log.info("still building the TensorRT engine after %.0f s%s", report.elapsed_s, steps)
            self.tell(*self._state)

    def _report(self) -> BuildProgress:
        return BuildProgress(*self._state, elapsed_s=time.monotonic() - self._begin_s)


@contextmanager
def reporting(trt: ModuleType, config: Any, callback: ProgressCallback | None) -> Iterator[None]:  # noqa: ANN401
    """Report the build that runs in the body, to the log every 15 s and to `callback` at every step.

    Args:
        trt: The tensorrt module.
        config: IBuilderConfig of the build; gets a progress monitor where TensorRT has one.
        callback: Called with `BuildProgress`; None for none.

    Raises:
        Exception: whatever `callback` raised.
    """
    reporter = _Reporter(callback)
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = _monitor(trt, reporter)
    stop = threading.Event()
    heartbeat = threading.Thread(target=reporter.beat, args=(stop,), name="tensorrt-build-heartbeat", daemon=True)
    reporter.tell("building", 0, 0)
    heartbeat.start()
    try:
        yield
    finally:
        stop.set()
        heartbeat.join()
        if reporter.failure is not None:
            raise reporter.failure


def _monitor(trt: ModuleType, reporter: _Reporter) -> Any:  # noqa: ANN401 - a class of tensorrt
    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            reporter.tell(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return reporter.tell(phase_name, step + 1, self._steps.get(phase_name, 0))

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
