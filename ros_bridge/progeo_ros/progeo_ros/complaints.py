"""What goes wrong again and again is logged now and then, not thirty times a second."""

from __future__ import annotations

import logging
import threading
import time

from progeo_edge.errors import ProgeoError
from progeo_edge.sources.images import FrameError

log = logging.getLogger(__name__)

EVERY_S = 30.0


class Complaints:
    """Lets a sentence of one kind through at most every 30 s. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_s: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def due(self, kind: str, sentence: str) -> str | None:
        """The sentence to log now, with how many were held back since the last one; None to stay silent.

        Args:
            kind: What counts as the same complaint.
            sentence: The complaint.
        """
        now_s = time.monotonic()
        with self._lock:
            last_s = self._last_s.get(kind)
            if last_s is not None and now_s - last_s < EVERY_S:
                self._held_back[kind] = self._held_back.get(kind, 0) + 1
                return None
            self._last_s[kind] = now_s
            held_back = self._held_back.pop(kind, 0)
        return f"{sentence} ({held_back} more like this)" if held_back else sentence

    def log_failure(self, who: str, error: Exception) -> None:
        """Log an error when it is due. What we did not expect is a fault of ours and keeps its traceback."""
        due = self.due(f"{who} {type(error).__name__}", f"{who}: {error}")
        if due is None:
            return
        if isinstance(error, ProgeoError | FrameError):
            log.warning("%s", due)
        else:
            log.error("%s", due, exc_info=error)
