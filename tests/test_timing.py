"""Stages keep their order, add up, and are counted even when they fail."""

from __future__ import annotations

import pytest

from progeo_edge.timing import StageTimer


@pytest.fixture
def clock(monkeypatch):
    """A clock in nanoseconds that stands until it is moved."""
    now = [1000]
    monkeypatch.setattr("progeo_edge.timing.time.perf_counter_ns", lambda: now[0])
    return now


def test_stages_add_up_in_the_order_of_their_first_use(clock):
    timer = StageTimer()
    for name, elapsed_ms in (("search", 2), ("verify", 3), ("search", 5)):
        with timer.stage(name):
            clock[0] += elapsed_ms * 1_000_000
    clock[0] += 1_000_000
    assert timer.timings_ms() == pytest.approx({"search": 7.0, "verify": 3.0, "total": 11.0})
    assert list(timer.timings_ms()) == ["search", "verify", "total"]
    assert timer.elapsed_ms == pytest.approx(11.0)


def test_a_stage_that_raises_is_counted(clock):
    timer = StageTimer()
    with pytest.raises(KeyError), timer.stage("store"):
        clock[0] += 4_000_000
        raise KeyError("full")
    assert timer.timings_ms()["store"] == pytest.approx(4.0)
