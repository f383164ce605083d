"""What a soak says: did the time of a keyframe, the memory or the losses change over the hours?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.benchmark.soak.course import Course, MemorySample
from progeo_edge.benchmark.soak.run import Soaked
from progeo_edge.benchmark.statistics import ratio_over_rounds, round_medians, summarise

BLOCKS = 5
"""Parts of a tenth of the run whose medians show how far chance alone moves the figure."""

RECORDS_KIB = 8.0
"""Memory per keyframe that is no descriptor: its record, pose, appearance grid and place in the graph."""

_CURVE_POINTS = 200
_SETTLED = 1 / 3
"""Share of a run after which caches and pools are full, so that what still grows is growth."""


def figures_of(soaked: Soaked, dimension: int) -> dict[str, Any]:
    """All figures as plain JSON; None where there was too little to say.

    Args:
        soaked: What happened.
        dimension: Of the descriptors, which explain most of the memory that a map takes.
    """
    course = soaked.course
    return {
        "hours_equivalent": _hours(course),
        "stopped_early": soaked.stopped_early,
        "frames": _frames(soaked),
        "queue": _queue(course),
        "keyframe_ms": _latency(course),
        "memory": memory_drift(course.memory, dimension),
        "map": _map(course.memory),
        "statuses": dict(course.statuses.most_common()),
        "num_closures": course.num_closures,
        "course": _curves(course),
    }


def _latency(course: Course) -> dict[str, Any] | None:
    """Of keyframes with a closure where there are enough: early ones have nothing to verify, and so less to do."""
    total_ms = _keyframes(course, course.total_ms)
    if not len(total_ms):
        return None
    closing = total_ms[_keyframes(course, course.has_closure).astype(bool)]
    drift = latency_drift(closing)
    compared = "all keyframes" if drift is None else "keyframes with a closure"
    return {"whole": asdict(summarise(total_ms)), "compared": compared, "drift": drift or latency_drift(total_ms)}


def latency_drift(total_ms: NDArray[np.float32]) -> dict[str, Any] | None:
    """First tenth of a series against the last one.

    Args:
        total_ms: (N,) time of each, in order.

    Returns:
        Summaries of both, and how many times as long the last ones took: the median over pairs of blocks, with the
        smallest and the largest. None with fewer than 2 per block.
    """
    tenth = len(total_ms) // 10
    if tenth < 2 * BLOCKS:
        return None
    first, last = total_ms[:tenth], total_ms[-tenth:]
    ratio = ratio_over_rounds(round_medians(np.array_split(last, BLOCKS)), round_medians(np.array_split(first, BLOCKS)))
    return {
        "first_tenth": asdict(summarise(first)),
        "last_tenth": asdict(summarise(last)),
        "last_over_first": asdict(ratio),
    }


def memory_drift(samples: Sequence[MemorySample], dimension: int) -> dict[str, Any] | None:
    """Growth once the run has settled, and whether the keyframes of the map explain it.

    The slope is the median of the slopes between all pairs of samples (Theil 1950, Sen 1968), so that a pool that is
    given back for a moment does not move it. A map may take its descriptors twice, as arrays grow by doubling, and
    `RECORDS_KIB` per keyframe.

    Returns:
        None with fewer than 10 samples after the first third, or where the system does not tell the memory.
    """
    settled = samples[int(len(samples) * _SETTLED) :]
    own = np.array([one.own_mb for one in settled])
    if len(settled) < 10 or not np.isfinite(own).all():
        return None
    hours = np.array([one.hours for one in settled])
    keyframes = np.array([one.num_keyframes for one in settled], dtype=np.float64)
    per_hour_mb, per_keyframe_mb = _slope(hours, own), _slope(keyframes, own)
    noise_mb = float(np.percentile(np.abs(own - np.median(own) - (hours - np.median(hours)) * per_hour_mb), 90))
    added = keyframes[-1] - keyframes[0]
    explained_kib = 2 * 4 * dimension / 1024 + RECORDS_KIB
    grown_mb, explained_mb = per_hour_mb * (hours[-1] - hours[0]), added * explained_kib * 1024 / 1e6
    return {
        "first_own_mb": samples[0].own_mb,
        "last_own_mb": samples[-1].own_mb,
        "peak_own_mb": max(one.own_mb for one in samples),
        "per_hour_mb": per_hour_mb,
        "per_keyframe_kib": per_keyframe_mb * 1e6 / 1024 if added else None,
        "noise_mb": noise_mb,
        "explained_per_keyframe_kib": explained_kib,
        "grown_mb": grown_mb,
        "explained_mb": explained_mb,
        "is_explained": bool(grown_mb <= explained_mb + 2 * noise_mb),
    }


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    first, second = np.triu_indices(len(x), 1)
    run = x[second] - x[first]
    usable = run != 0
    return float(np.median((y[second] - y[first])[usable] / run[usable])) if usable.any() else 0.0


def _hours(course: Course) -> float:
    return float(course.hours[course.count - 1]) if course.count else 0.0


def _frames(soaked: Soaked) -> dict[str, Any]:
    arrived = max(1, soaked.num_arrived)
    return {
        "of_the_camera": soaked.num_arrived + soaked.losses.dropped + soaked.losses.paused,
        "dropped_on_the_way": soaked.losses.dropped,
        "in_pauses": soaked.losses.paused,
        "arrived": soaked.num_arrived,
        "replaced_by_newer": soaked.num_replaced,
        "replaced_share": soaked.num_replaced / arrived,
        "worked_on": soaked.course.count,
    }


def _queue(course: Course) -> dict[str, Any] | None:
    if not course.count:
        return None
    waited = course.waited_ms[: course.count].astype(np.float64)
    depth = course.depth[: course.count]
    return {
        "waited_ms": {name: float(np.percentile(waited, q)) for name, q in _PERCENTILES.items()},
        "depth": {name: float(np.percentile(depth, q)) for name, q in _PERCENTILES.items()},
    }


_PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "max": 100}


def _map(samples: Sequence[MemorySample]) -> dict[str, Any] | None:
    if not samples:
        return None
    last = samples[-1]
    return {
        "num_keyframes": last.num_keyframes,
        "file_mb": last.map_mb,
        "per_keyframe_kib": last.map_mb * 1e6 / 1024 / max(1, last.num_keyframes),
    }


def _keyframes(course: Course, values: NDArray[Any]) -> NDArray[Any]:
    return values[: course.count][course.is_keyframe[: course.count]]


def _curves(course: Course) -> dict[str, list[float]]:
    """What the plot shows: medians and 90th percentiles of keyframes over time, and the samples of memory."""
    hours, total = _keyframes(course, course.hours), _keyframes(course, course.total_ms)
    parts = max(1, min(_CURVE_POINTS, len(total) // 5))
    split = [(h, t) for h, t in zip(np.array_split(hours, parts), np.array_split(total, parts), strict=True) if len(t)]
    return {
        "hours": [float(np.mean(h)) for h, _ in split],
        "p50_ms": [float(np.median(t)) for _, t in split],
        "p90_ms": [float(np.percentile(t, 90)) for _, t in split],
        "memory_hours": [one.hours for one in course.memory],
        "own_mb": [one.own_mb for one in course.memory if np.isfinite(one.own_mb)],
        "num_keyframes": [float(one.num_keyframes) for one in course.memory],
    }
