from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.errors import SourceError
from progeo_edge.sources.rate import RateSchedule


def kept(stamps_ns: list[int], rate_hz: float | None) -> list[int]:
    schedule = RateSchedule(rate_hz)
    result = []
    for stamp_ns in stamps_ns:
        if schedule.is_due(stamp_ns):
            schedule.keep(stamp_ns)
            result.append(stamp_ns)
    return result


def test_without_a_rate_everything_is_kept():
    assert kept([1, 2, 3], None) == [1, 2, 3]


def test_thirds_of_30_hz_survive_jitter_and_rounding():
    jitter_ns = [0, 900_000, -800_000, -1_500_000, 1_200_000]
    stamps_ns = [round(index * 1e9 / 30) + jitter_ns[index % 5] for index in range(3000)]
    assert kept(stamps_ns, 10.0) == stamps_ns[::3]


def test_no_drift_when_the_rates_do_not_divide():
    stamps_ns = [round(index * 1e9 / 30) for index in range(30 * 100)]
    assert abs(len(kept(stamps_ns, 7.0)) - 700) <= 1


def test_after_a_pause_frames_do_not_come_in_a_burst():
    stamps_ns = [*range(0, 10**9, 10**8), *range(10**10, 10**10 + 10**9, 10**8)]
    assert kept(stamps_ns, 1.0) == [0, 10**10]


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=200), st.floats(0.1, 100))
def test_never_more_than_the_rate(steps_ns, rate_hz):
    stamps_ns = [sum(steps_ns[: index + 1]) for index in range(len(steps_ns))]
    chosen = kept(stamps_ns, rate_hz)
    duration_s = (chosen[-1] - chosen[0]) / 1e9
    assert chosen[0] == stamps_ns[0]
    assert len(chosen) <= duration_s * rate_hz + 1.1


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_rates(rate_hz):
    with pytest.raises(SourceError, match="positive number of frames per second"):
        RateSchedule(rate_hz)
