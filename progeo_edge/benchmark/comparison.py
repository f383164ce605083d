"""Two results of one kind: what changed by more than the noise of both?

The rounds of a result do the same work, so the spread of their medians is the noise. A series has changed when both
hold:

- the exact two-sided rank test of Mann and Whitney (Ann. Math. Statist. 18, 1947) over the rounds' medians gives
  p at most `SIGNIFICANCE`. With five rounds each it does when every round of one result is faster than every round of
  the other one;
- the medians differ by more than `NOISE_FACTOR` times the combined standard deviation of the rounds, and by more than
  `MIN_CHANGE`: two starts of one program differ by memory layout and clocks in a way that no round of it shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

import numpy as np

from progeo_edge.benchmark.result_file import BenchmarkResult
from progeo_edge.errors import InputError

SIGNIFICANCE = 0.01
NOISE_FACTOR = 2.0
MIN_CHANGE = 0.03
BUSY_LOAD_PER_CORE = 0.5

# What differs between two measurements on one unchanged machine.
_VOLATILE = ("load_average", "temperature_c", "clocks.current_mhz", "throttling", "gpu_state", "absent")


class Verdict(str, Enum):
    """What the rounds allow to say about one series."""

    LESS = "less"
    MORE = "more"
    WITHIN_NOISE = "within noise"
    TOO_FEW_ROUNDS = "too few rounds"


@dataclass(frozen=True)
class Change:
    """One series in both results; less is better.

    Attributes:
        name: Of the series.
        unit: Of `before` and `after`.
        before: Median of the rounds' medians.
        after: Likewise.
        ratio: after / before; None where `before` is not positive.
        noise: Relative change that the rounds' spread alone explains.
        p_value: Of the rank test.
        verdict: See the module.
    """

    name: str
    unit: str
    before: float
    after: float
    ratio: float | None
    noise: float
    p_value: float
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """All series that both results have, and what makes them hard to compare.

    Attributes:
        changes: In the order of the first result.
        only_before: Series that the second one lacks.
        only_after: Series that the first one lacks.
        warnings: One sentence each.
    """

    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    warnings: tuple[str, ...]


def compare_results(before: BenchmarkResult, after: BenchmarkResult) -> Comparison:
    """Compare series by series.

    Raises:
        InputError: results of different kinds, or without a common series.
    """
    if before.kind != after.kind:
        raise InputError(
            f"the first result is of kind {before.kind!r}, the second of {after.kind!r}; compare two of one kind"
        )
    first, second = _series_of(before), _series_of(after)
    names = [name for name in first if name in second]
    if not names:
        raise InputError(f"the two results of kind {before.kind!r} have no series in common; measure the same again")
    return Comparison(
        tuple(_compare_series(name, first[name], second[name]) for name in names),
        tuple(name for name in first if name not in second),
        tuple(name for name in second if name not in first),
        tuple(_warnings(before, after)),
    )


def worse_than(comparison: Comparison, limit: float) -> list[str]:
    """Series that got worse beyond the noise and by more than a relative limit, as 0.1."""
    return [
        change.name
        for change in comparison.changes
        if change.verdict is Verdict.MORE and change.ratio is not None and change.ratio > 1 + limit
    ]


def rank_test(a: Sequence[float], b: Sequence[float]) -> float:
    """Exact two-sided p-value of the Mann-Whitney test; a tie counts half to either side.

    Args:
        a: Values of one result, at least one.
        b: Those of the other.
    """
    above = sum((x > y) + 0.5 * (x == y) for x in a for y in b)
    extreme = math.floor(min(above, len(a) * len(b) - above) + 0.5)
    orders = math.comb(len(a) + len(b), len(a))
    return min(1.0, 2.0 * sum(_num_orders(len(a), len(b), u) for u in range(extreme + 1)) / orders)


@cache
def _num_orders(m: int, n: int, u: int) -> int:
    """In how many orders of m and n values exactly u pairs stand the wrong way round."""
    if u < 0:
        return 0
    if m == 0 or n == 0:
        return int(u == 0)
    return _num_orders(m - 1, n, u - n) + _num_orders(m, n - 1, u)


def _compare_series(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> Change:
    a, b = [float(x) for x in first["rounds"]], [float(x) for x in second["rounds"]]
    before, after = float(np.median(a)), float(np.median(b))
    noise = NOISE_FACTOR * math.hypot(_relative_spread(a, before), _relative_spread(b, after))
    ratio = after / before if before > 0 else None
    p_value = rank_test(a, b)
    verdict = _verdict(ratio, noise, p_value, 2.0 / math.comb(len(a) + len(b), len(a)))
    return Change(name, str(first["unit"]), before, after, ratio, noise, p_value, verdict)


def _verdict(ratio: float | None, noise: float, p_value: float, smallest_p: float) -> Verdict:
    if smallest_p > SIGNIFICANCE:
        return Verdict.TOO_FEW_ROUNDS
    if ratio is None or ratio <= 0 or p_value > SIGNIFICANCE:
        return Verdict.WITHIN_NOISE
    # As a factor, so that twice as fast and half as fast are equally far.
    if abs(math.log(ratio)) <= math.log1p(max(noise, MIN_CHANGE)):
        return Verdict.WITHIN_NOISE
    return Verdict.LESS if ratio < 1 else Verdict.MORE


def _relative_spread(rounds: Sequence[float], median: float) -> float:
    return float(np.std(rounds, ddof=1)) / abs(median) if len(rounds) > 1 and median != 0 else 0.0


def _series_of(result: BenchmarkResult) -> dict[str, Mapping[str, Any]]:
    """Series with at least one round.

    Raises:
        InputError: the figures hold none, or one that is damaged.
    """
    series = result.figures.get("series")
    if not isinstance(series, dict) or not series:
        raise InputError(f"the result of {result.date} holds no series; compare files that progeo-bench --json wrote")
    for name, values in series.items():
        rounds = values.get("rounds") if isinstance(values, dict) else None
        numbers = isinstance(rounds, list) and rounds and all(isinstance(x, int | float) for x in rounds)
        if not numbers or not isinstance(values.get("unit"), str):
            raise InputError(f"series {name!r} of the result of {result.date} is damaged; measure again")
    return series


def _warnings(before: BenchmarkResult, after: BenchmarkResult) -> list[str]:
    found = []
    for what, a, b in (
        ("machine", before.machine, after.machine),
        ("options", before.options, after.options),
        ("encoder", _part(before, "encoder"), _part(after, "encoder")),
        ("source", _part(before, "source"), _part(after, "source")),
        ("threads", _part(before, "threads"), _part(after, "threads")),
    ):
        different = differences(a, b)
        if different:
            found.append(f"different {what}: {'; '.join(different)}")
    found += _index_differences(before, after)
    if before.progeo_edge != after.progeo_edge:
        found.append(f"progeo-edge {before.progeo_edge} was compared with {after.progeo_edge}")
    for which, result in (("first", before), ("second", after)):
        found += [f"the {which} result {problem}" for problem in disturbances(result)]
    return found


def _index_differences(before: BenchmarkResult, after: BenchmarkResult) -> list[str]:
    """Faster is no gain where less is found."""
    first = {facts["size"]: facts for facts in before.figures.get("index", ())}
    second = {facts["size"]: facts for facts in after.figures.get("index", ())}
    found = []
    for size in sorted(first.keys() & second.keys()):
        same = ("kind", "recall_at_1", "recall_at_k")
        a, b = ({name: facts[size][name] for name in same} for facts in (first, second))
        if a != b:
            found.append(f"different index of {size:,} keyframes: {'; '.join(differences(a, b))}")
    return found


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One clause, as "cpu.cores 2 → 4", for everything that is not the same and not volatile by nature."""
    found = []
    for key in sorted({*a, *b}):
        name = f"{prefix}{key}"
        if name in _VOLATILE:
            continue
        x, y = a.get(key), b.get(key)
        if isinstance(x, dict) and isinstance(y, dict):
            found += differences(x, y, f"{name}.")
        elif x != y:
            found.append(f"{name} {_short(x)} → {_short(y)}")
    return found


def disturbances(result: BenchmarkResult) -> list[str]:
    """What speaks against a result by itself, as clauses that follow "the result"."""
    found = []
    load, cores = result.machine.get("load_average"), (result.machine.get("cpu") or {}).get("usable_cores")
    if load and cores and load[0] > BUSY_LOAD_PER_CORE * cores:
        found.append(f"began at a load of {load[0]:.1f} on {cores} cores; wait until the machine is quiet")
    before, after = result.machine.get("throttling") or {}, _part(result, "state_after").get("throttling") or {}
    for name in ("core_events", "package_events", "over_current_events"):
        if before.get(name) is not None and (after.get(name) or 0) > before[name]:
            found.append(f"was throttled while it ran ({name} {before[name]} → {after[name]}); cool the machine")
    return found


def _part(result: BenchmarkResult, name: str) -> Mapping[str, Any]:
    value = result.figures.get(name)
    return value if isinstance(value, dict) else {}


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
