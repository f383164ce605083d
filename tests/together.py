"""Several threads at work at once, none of whose failures is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable


def run_together(*works: Callable[[], None], timeout_s: float = 120.0) -> None:
    """Run each in a thread of its own, and raise what the first that failed has raised."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=timeout_s)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), f"a thread still runs after {timeout_s:g} s"
