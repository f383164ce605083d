"""What the library logs, on the node's log: /rosout, and the console of ros2 launch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

LIBRARIES = ("progeo_edge", "progeo_ros")


class LogBridge(logging.Handler):
    """Hands records of the library's loggers to a logger of rclpy.

    Args:
        logger: Of the node.
    """

    def __init__(self, logger: Any) -> None:  # noqa: ANN401
        super().__init__(logging.INFO)
        # rclpy remembers the severity of every line that logs, so there must be a line for each.
        self._write: list[tuple[int, Callable[[str], object]]] = [
            (logging.ERROR, lambda text: logger.error(text)),
            (logging.WARNING, lambda text: logger.warning(text)),
            (logging.INFO, lambda text: logger.info(text)),
        ]

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        text = self.format(record)
        next(write for level, write in self._write if record.levelno >= level)(text)

    def install(self) -> None:
        """Receive what the library logs from now on."""
        for name in LIBRARIES:
            logger = logging.getLogger(name)
            logger.addHandler(self)
            logger.setLevel(logging.INFO)

    def remove(self) -> None:
        """Receive no more."""
        for name in LIBRARIES:
            logging.getLogger(name).removeHandler(self)
