from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.benchmark.comparison import Verdict, compare_results, differences, rank_test, worse_than
from progeo_edge.benchmark.result_file import BenchmarkResult, Kind
from progeo_edge.errors import InputError


def result(kind: Kind = "run", machine: dict[str, Any] | None = None, **series: Sequence[float]) -> BenchmarkResult:
    figures = {
        "series": {name.replace("__", "."): {"unit": "ms", "rounds": list(rounds)} for name, rounds in series.items()},
        "index": [],
    }
    return BenchmarkResult(kind, {"frames": 60}, machine or {}, figures, "2026-01-01T00:00:00Z", "0.1.0")


def verdict(before: Sequence[float], after: Sequence[float]) -> Verdict:
    (change,) = compare_results(result(x=before), result(x=after)).changes
    return change.verdict


QUIET = [10.0, 10.1, 9.9, 10.05, 9.95]


def test_clear_changes_are_told():
    assert verdict(QUIET, [1.3 * x for x in QUIET]) is Verdict.MORE
    assert verdict(QUIET, [0.7 * x for x in QUIET]) is Verdict.LESS
    assert verdict(QUIET, QUIET) is Verdict.WITHIN_NOISE


def test_a_steady_change_below_the_floor_is_noise():
    """Every round is slower, but two starts of one program differ as much."""
    assert verdict([10.0, 10.001, 10.002, 10.003, 10.004], [10.1, 10.101, 10.102, 10.103, 10.104]) is (
        Verdict.WITHIN_NOISE
    )


def test_a_large_change_within_the_spread_is_noise():
    assert verdict([30, 20, 5, 40, 8], [41, 42, 43, 44, 45]) is Verdict.WITHIN_NOISE


def test_a_change_that_some_rounds_contradict_is_noise():
    """The medians are 29 % apart, more than the spread explains; but one round stands against it."""
    assert verdict([10, 10.1, 10.2, 9.9, 12], [13, 13.1, 13.2, 12.9, 11.5]) is Verdict.WITHIN_NOISE
    assert verdict([10, 10.1, 10.2, 9.9, 12], [13, 13.1, 13.2, 12.9, 12.5]) is Verdict.MORE


def test_three_rounds_decide_nothing():
    assert verdict([10, 10, 10], [99, 99, 99]) is Verdict.TOO_FEW_ROUNDS


def test_false_alarms_are_rare():
    rng = np.random.default_rng(0)
    alarms = 0
    for spread in (0.005, 0.02, 0.1):
        for _ in range(300):
            a, b = np.exp(rng.normal(0, spread, (2, 5)))
            alarms += verdict(a.tolist(), b.tolist()) is not Verdict.WITHIN_NOISE
    assert alarms <= 5


def test_the_rank_test_counts_all_orders():
    """Against enumeration, for values without ties."""
    for m, n in ((1, 1), (3, 4), (5, 5)):
        counts = [
            sum(x > y for x in chosen for y in set(range(m + n)) - set(chosen))
            for chosen in combinations(range(m + n), m)
        ]
        for chosen in list(combinations(range(m + n), m))[::17]:
            u = sum(x > y for x in chosen for y in set(range(m + n)) - set(chosen))
            tail = sum(count <= min(u, m * n - u) for count in counts) / len(counts)
            assert rank_test(chosen, sorted(set(range(m + n)) - set(chosen))) == pytest.approx(min(1.0, 2 * tail))


rounds = st.lists(st.floats(0.1, 100), min_size=1, max_size=7)


@given(rounds, rounds)
def test_the_rank_test_is_symmetric(a: list[float], b: list[float]):
    assert rank_test(a, b) == rank_test(b, a)
    assert 0 < rank_test(a, b) <= 1


@given(st.lists(st.floats(0.1, 100), min_size=5, max_size=7), st.lists(st.floats(0.1, 100), min_size=5, max_size=7))
def test_swapping_the_results_swaps_the_verdict(a: list[float], b: list[float]):
    other = {Verdict.LESS: Verdict.MORE, Verdict.MORE: Verdict.LESS}
    found = verdict(a, b)
    assert verdict(b, a) is other.get(found, found)


def test_growth_that_is_not_positive_is_no_ratio():
    (change,) = compare_results(result(x=[-1.0] * 5), result(x=[5.0] * 5)).changes
    assert change.ratio is None and change.verdict is Verdict.WITHIN_NOISE


def test_series_of_one_result_only_are_named():
    comparison = compare_results(result(a=QUIET, b=QUIET), result(b=QUIET, c=QUIET))
    assert [change.name for change in comparison.changes] == ["b"]
    assert (comparison.only_before, comparison.only_after) == (("a",), ("c",))


def test_worse_than_a_limit():
    comparison = compare_results(result(a=QUIET, b=QUIET), result(a=[1.3 * x for x in QUIET], b=QUIET))
    assert worse_than(comparison, 0.1) == ["a"] and worse_than(comparison, 0.4) == []


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="kind 'run', the second of 'soak'"):
        compare_results(result(x=QUIET), result("soak", x=QUIET))
    with pytest.raises(InputError, match="no series in common"):
        compare_results(result(x=QUIET), result(y=QUIET))
    with pytest.raises(InputError, match="holds no series"):
        compare_results(result(), result(x=QUIET))


@pytest.mark.parametrize("damaged", [{"unit": "ms"}, {"unit": "ms", "rounds": ["x"]}, {"rounds": [1.0]}, 5])
def test_a_damaged_series_is_refused(damaged: object):
    broken = BenchmarkResult("run", {}, {}, {"series": {"x": damaged}}, "d", "0")
    with pytest.raises(InputError, match="series 'x' of the result of d is damaged"):
        compare_results(result(x=QUIET), broken)


def test_warnings_name_what_differs_and_not_what_always_does():
    a = {"cpu": {"model": "A", "usable_cores": 4}, "load_average": [0.1, 0, 0], "temperature_c": {"x": 40.0}}
    b = {"cpu": {"model": "B", "usable_cores": 4}, "load_average": [9.0, 0, 0], "temperature_c": {"x": 60.0}}
    warnings = compare_results(result(machine=a, x=QUIET), result(machine=b, x=QUIET)).warnings
    assert warnings == (
        "different machine: cpu.model A → B",
        "the second result began at a load of 9.0 on 4 cores; wait until the machine is quiet",
    )


def test_throttling_and_a_lower_recall_are_warned_of():
    first, second = result(machine={"throttling": {"core_events": 2}}, x=QUIET), result(x=QUIET)
    facts = {"size": 1000, "kind": "exact", "recall_at_1": 1.0, "recall_at_k": 1.0}
    first.figures["index"].append(facts)
    second.figures["index"].append(facts | {"kind": "hnsw", "recall_at_1": 0.5})
    assert isinstance(first.figures, dict)
    first.figures["state_after"] = {"throttling": {"core_events": 7}}
    warnings = compare_results(first, second).warnings
    assert "different index of 1,000 keyframes: kind exact → hnsw; recall_at_1 1.0 → 0.5" in warnings
    assert any("throttled while it ran (core_events 2 → 7)" in warning for warning in warnings)


def test_differences_are_dotted():
    assert differences({"a": {"b": 1}, "c": None}, {"a": {"b": 2}, "c": "x"}) == ["a.b 1 → 2", "c nothing → x"]
