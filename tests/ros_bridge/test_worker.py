"""A queue of one: the newest is worked on, the rest is counted."""

from __future__ import annotations

import threading
import time

from progeo_ros.worker import LatestOnlyWorker

WAIT_S = 5.0


class Slow:
    """Work that goes on until it is let go."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)

    def __call__(self, item: int) -> None:
        self.begun.release()
        assert self.let_go.acquire(timeout=WAIT_S)
        self.done.append(item)

    def finish(self, count: int) -> None:
        for _ in range(count):
            self.let_go.release()


def no_error(error: Exception) -> None:
    raise AssertionError(error)


def test_only_the_newest_waiting_item_is_worked_on():
    work = Slow()
    dropped: list[int] = []
    worker = LatestOnlyWorker(work, no_error, on_drop=dropped.append)
    assert worker.submit(0)
    assert work.begun.acquire(timeout=WAIT_S)
    for item in range(1, 6):
        assert worker.submit(item)
    work.finish(2)
    assert work.begun.acquire(timeout=WAIT_S)
    assert worker.stop(WAIT_S)
    assert work.done == [0, 5]
    assert dropped == [1, 2, 3, 4]
    assert worker.drops == 4


def test_submitting_never_waits_for_the_work():
    work = Slow()
    worker = LatestOnlyWorker(work, no_error)
    worker.submit(0)
    assert work.begun.acquire(timeout=WAIT_S)
    start = time.monotonic()
    for item in range(1000):
        worker.submit(item)
    assert time.monotonic() - start < 1.0
    work.finish(2)
    assert worker.stop(WAIT_S)


def test_the_age_of_the_waiting_item():
    work = Slow()
    worker = LatestOnlyWorker(work, no_error)
    assert worker.queue_age_s == 0.0
    worker.submit(0)
    assert work.begun.acquire(timeout=WAIT_S)
    worker.submit(1)
    time.sleep(0.05)
    assert worker.queue_age_s >= 0.05
    work.finish(2)
    assert work.begun.acquire(timeout=WAIT_S)
    assert worker.queue_age_s == 0.0
    assert worker.stop(WAIT_S)


def test_an_error_is_told_and_the_next_item_is_worked_on():
    errors: list[Exception] = []
    done = threading.Event()

    def work(item: int) -> None:
        if item == 0:
            raise ValueError("broken image")
        done.set()

    worker = LatestOnlyWorker(work, errors.append)
    worker.submit(0)
    while not errors:
        time.sleep(0.01)
    worker.submit(1)
    assert done.wait(WAIT_S)
    assert [str(error) for error in errors] == ["broken image"]
    assert worker.stop(WAIT_S)


def test_stop_finishes_the_item_at_work_and_forgets_the_waiting_one():
    work = Slow()
    worker = LatestOnlyWorker(work, no_error)
    worker.submit(0)
    assert work.begun.acquire(timeout=WAIT_S)
    worker.submit(1)
    assert not worker.stop(0.05), "the item at work is not done yet"
    assert not worker.submit(2)
    work.finish(1)
    assert worker.stop(WAIT_S)
    assert work.done == [0]
