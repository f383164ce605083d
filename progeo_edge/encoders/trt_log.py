"""What TensorRT says while it works: its calls only return False or None, and the reason is in its log."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from progeo_edge.errors import ModelError

_log = logging.getLogger(__name__)

_MAX_LINES = 200
_LINES_IN_A_MESSAGE = 6


class LogLines:
    """Lines of TensorRT's log from one stretch of work, of the whole process."""

    def __init__(self) -> None:
        self._lines: list[tuple[bool, str]] = []
        self._lock = threading.Lock()

    def add(self, text: str, *, is_error: bool) -> None:
        """Keep one line, at most the last 200."""
        with self._lock:
            self._lines.append((is_error, text))
            del self._lines[:-_MAX_LINES]

    def summary(self) -> str:
        """The error lines, or the warnings when there is no error; "it logged no reason" when there is neither."""
        with self._lock:
            errors = [text for is_error, text in self._lines if is_error]
            chosen = errors or [text for _, text in self._lines]
        return "TensorRT says: " + " | ".join(chosen[-_LINES_IN_A_MESSAGE:]) if chosen else "it logged no reason"

    def fail(self, what: str, remedy: str = "") -> ModelError:
        """The error to raise for a call that gave False or None."""
        return ModelError(f"{what}; {self.summary()}" + (f"; {remedy}" if remedy else ""))


_listeners: list[LogLines] = []
_listeners_lock = threading.Lock()


@contextmanager
def captured() -> Iterator[LogLines]:
    """Collect what TensorRT logs during the body, other threads included: it works in threads of its own."""
    lines = LogLines()
    with _listeners_lock:
        _listeners.append(lines)
    try:
        yield lines
    finally:
        with _listeners_lock:
            _listeners[:] = [item for item in _listeners if item is not lines]


@functools.cache
def logger_of(trt: ModuleType) -> Any:  # noqa: ANN401 - a class of tensorrt
    """The one logger of this process: TensorRT keeps the first that it is given."""

    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:  # noqa: ANN401
            _hear(msg, is_error=severity in errors, is_warning=severity == warning)

    errors = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)
    warning = trt.ILogger.Severity.WARNING
    return Logger()


def _hear(text: str, *, is_error: bool, is_warning: bool) -> None:
    """Pass a line on. Errors are warnings here: whoever made the failing call raises them."""
    _log.log(logging.WARNING if is_error else logging.INFO if is_warning else logging.DEBUG, "TensorRT: %s", text)
    if not (is_error or is_warning):
        return
    with _listeners_lock:
        listeners = list(_listeners)
    for lines in listeners:
        lines.add(" ".join(text.split()), is_error=is_error)
