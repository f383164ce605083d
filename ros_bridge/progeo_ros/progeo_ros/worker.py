"""One thread with a queue of one: a robot needs the answer to the newest image, not to all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestOnlyWorker(Generic[T]):
    """Works on one item after the other, always on the newest: it drops rather than lags.

    Args:
        work: Called in the worker's thread with each item.
        on_error: Called there with what `work` raised; the thread goes on with the next item.
        on_drop: Called with every item that a newer one replaced, in the thread that submits.
        name: Of the thread, for debuggers.
    """

    def __init__(
        self,
        work: Callable[[T], None],
        on_error: Callable[[Exception], None],
        *,
        on_drop: Callable[[T], None] | None = None,
        name: str = "progeo-worker",
    ) -> None:
        self._work = work
        self._on_error = on_error
        self._on_drop = on_drop
        self._changed = threading.Condition()
        self._waiting: tuple[T, float] | None = None
        self._stopping = False
        self._drops = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: T) -> bool:
        """Hand over an item, which replaces one that still waits. Never blocks.

        Returns:
            Whether it was taken; False after `stop`.
        """
        with self._changed:
            if self._stopping:
                return False
            replaced = self._waiting
            self._waiting = (item, time.monotonic())
            self._drops += replaced is not None
            self._changed.notify()
        if replaced is not None and self._on_drop is not None:
            self._on_drop(replaced[0])
        return True

    @property
    def drops(self) -> int:
        """Items that a newer one replaced before their turn came."""
        with self._changed:
            return self._drops

    @property
    def queue_age_s(self) -> float:
        """How long the waiting item has waited, in seconds; 0 when none waits."""
        with self._changed:
            return 0.0 if self._waiting is None else time.monotonic() - self._waiting[1]

    def stop(self, timeout_s: float) -> bool:
        """Let the item at work finish, forget the one that waits, and end the thread. Twice is fine.

        Args:
            timeout_s: How long to wait for the item at work.

        Returns:
            Whether the thread has ended.
        """
        with self._changed:
            self._stopping = True
            self._waiting = None
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._next()) is not None:
            try:
                self._work(item[0])
            except Exception as error:  # the owner decides what an error means; one bad image must not end the node
                self._on_error(error)

    def _next(self) -> tuple[T, float] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._waiting is not None)
            item, self._waiting = self._waiting, None
            return None if self._stopping else item
