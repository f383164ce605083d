from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from progeo_edge import recall_watch
from progeo_edge.descriptor_rows import DescriptorRows
from progeo_edge.recall_watch import RecallWatch


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> DescriptorRows:
    """100 rows, looked at 30 at a time: a check takes four searches."""
    monkeypatch.setattr(recall_watch, "ROWS_AT_A_TIME", 30)
    rows = DescriptorRows(100)
    rows.append(np.arange(100), np.eye(100, dtype=np.float32))
    return rows


def axis(number: int) -> NDArray[np.float32]:
    query: NDArray[np.float32] = np.eye(100, dtype=np.float32)[number]
    return query


def search(watch: RecallWatch, rows: DescriptorRows, number: int, best: float, times: int) -> None:
    for _ in range(times):
        watch.searched(axis(number), best, rows)


def alarmed(watch: RecallWatch) -> bool:
    return watch.is_alarmed


def test_a_right_answer_is_no_miss(rows: DescriptorRows) -> None:
    watch = RecallWatch(100)
    search(watch, rows, 95, 1.0, times=3)
    assert watch.num_checks == 0, "not all rows were looked at"
    search(watch, rows, 7, 0.0, times=1)
    assert (watch.num_checks, watch.num_misses) == (1, 0)


def test_a_better_row_anywhere_is_a_miss(rows: DescriptorRows) -> None:
    watch = RecallWatch(100)
    search(watch, rows, 95, 0.3, times=4)
    assert (watch.num_checks, watch.num_misses) == (1, 1)
    search(watch, rows, 2, 0.3, times=1)
    assert (watch.num_checks, watch.num_misses) == (2, 2), "found among the first rows"


def test_a_row_that_came_later_could_not_be_found(rows: DescriptorRows) -> None:
    watch = RecallWatch(100)
    search(watch, rows, 1, 1.0, times=1)
    watch.added(np.array([500]))
    rows.append(np.array([500]), axis(1)[None])
    rows.swap(100, 95)
    watch._found = 0.5  # what was found is gone from the rows to come, only the newcomer is better
    search(watch, rows, 0, 1.0, times=3)
    assert (watch.num_checks, watch.num_misses) == (1, 0)


def test_an_answer_that_may_be_gone_is_not_judged(rows: DescriptorRows) -> None:
    watch = RecallWatch(100)
    search(watch, rows, 95, 0.3, times=3)
    watch.removed()
    search(watch, rows, 4, 1.0, times=4)
    assert (watch.num_checks, watch.num_misses) == (1, 0)


def test_the_alarm_needs_several_misses_and_a_share(rows: DescriptorRows) -> None:
    watch = RecallWatch(100)
    search(watch, rows, 1, 0.3, times=2)
    assert not alarmed(watch)
    search(watch, rows, 1, 0.3, times=1)
    assert alarmed(watch)
    search(watch, rows, 1, 1.0, times=4 * 150)
    assert not alarmed(watch), "3 of 153 are within the tolerance"
    assert str(watch) == "HNSW missed the nearest keyframe in 3 of the last 153 checks"
