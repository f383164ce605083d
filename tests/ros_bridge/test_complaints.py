"""The log is not flooded, and says how much it held back."""

from __future__ import annotations

import pytest

from progeo_ros.complaints import EVERY_S, Complaints


@pytest.fixture
def now(monkeypatch):
    class Clock:
        s = 100.0

    monkeypatch.setattr("progeo_ros.complaints.time.monotonic", lambda: Clock.s)
    return Clock


def test_one_of_a_kind_is_let_through_every_30_s(now):
    log = Complaints()
    assert log.due("image", "image 1 is broken") == "image 1 is broken"
    assert [log.due("image", f"image {i} is broken") for i in (2, 3)] == [None, None]
    assert log.due("odometry", "NaN") == "NaN", "another kind is another matter"
    now.s += EVERY_S + 1
    assert log.due("image", "image 4 is broken") == "image 4 is broken (2 more like this)"
    now.s += EVERY_S + 1
    assert log.due("image", "image 5 is broken") == "image 5 is broken"
