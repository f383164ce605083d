"""Search in maps of several sizes, and what of the exact answer comes back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from progeo_edge.benchmark.memory import available_mb
from progeo_edge.benchmark.series import SeriesBook
from progeo_edge.benchmark.steps import Steps, silent
from progeo_edge.candidates import RANKED
from progeo_edge.config import SearchConfig
from progeo_edge.errors import InputError
from progeo_edge.index import PlaceIndex

MAX_SIZE = 10_000_000
_SUFFIXES = {"": 1, "k": 1_000, "m": 1_000_000}
_BATCH = 1024
HOW_GROWN = "then these again as other places: their mean kept, what differs from it shuffled and with random signs"
_COPIES = 3
"""Arrays of the map's size that exist while an index is filled and grows."""


@dataclass(frozen=True)
class IndexFacts:
    """One index that was measured.

    Attributes:
        size: Keyframes in it.
        kind: "exact", or the approximate structure that answers.
        fill_s: Seconds to fill it.
        recall_at_1: Share of queries whose first answer is as similar as the exact one.
        recall_at_k: Mean share of the exact top 10 that came back.
        num_queries: Queries of that check.
    """

    size: int
    kind: str
    fill_s: float
    recall_at_1: float
    recall_at_k: float
    num_queries: int


def parse_sizes(text: str) -> list[int]:
    """Numbers such as 1k,10k,1M, in ascending order; none of an empty text.

    Raises:
        InputError: not a positive whole number, an unknown suffix, or above `MAX_SIZE`.
    """
    return sorted({_parse_size(item.strip()) for item in text.split(",") if item.strip()})


def _parse_size(item: str) -> int:
    digits = item.rstrip("kKmM")
    factor = _SUFFIXES.get(item[len(digits) :].lower())
    if not digits.isascii() or not digits.isdigit() or factor is None:
        raise InputError(f"size {item!r} is not understood; expected a whole number such as 500, 10k or 1M")
    size = int(digits) * factor
    if not 1 <= size <= MAX_SIZE:
        raise InputError(f"size {item} is {size} keyframes; expected 1 to {MAX_SIZE:,}")
    return size


def grow_descriptors(own: NDArray[np.float32], size: int, seed: int = 0) -> NDArray[np.float32]:
    """As many descriptors as wanted: the map's own, and then those again and again, each time as other places.

    A repetition keeps the mean of all descriptors, as every place of one camera shares it, and shuffles the components
    of what differs from it, with random signs. So keyframes that follow each other stay as similar as they were, and
    different repetitions are as similar as different places are. Copies of the same places would be none: thousands
    of equally near neighbours, in which no approximate search finds the nearest.

    Args:
        own: (N, D) unit rows, N at least 1.
        size: Rows wanted; fewer than N takes the first ones.
        seed: Of the shuffling.

    Returns:
        (size, D) float32 unit rows.
    """
    rng = np.random.default_rng(seed)
    mean = own.mean(axis=0, dtype=np.float32)
    rest = own - mean
    grown = np.empty((size, own.shape[1]), dtype=np.float32)
    grown[: len(own)] = own[:size]
    for start in range(len(own), size, len(own)):
        count = min(len(own), size - start)
        signs = rng.choice(np.array([-1, 1], dtype=np.float32), size=own.shape[1])
        elsewhere = mean + rest[:count, rng.permutation(own.shape[1])] * signs
        grown[start : start + count] = elsewhere / np.linalg.norm(elsewhere, axis=1, keepdims=True)
    return grown


def check_memory(sizes: Sequence[int], dimension: int, free_mb: float | None = None) -> None:
    """Refuse maps that would not fit, before any work.

    Args:
        sizes: Keyframes of each map; all are in memory together.
        dimension: Of the descriptors.
        free_mb: Memory that can be had; None asks the system.

    Raises:
        InputError: more than that is needed.
    """
    free_mb = available_mb() if free_mb is None else free_mb
    needed_mb = (sum(sizes) + _COPIES * max(sizes, default=0)) * dimension * 4 / 1e6
    if free_mb is not None and needed_mb > free_mb:
        raise InputError(
            f"maps of {', '.join(f'{size:,}' for size in sizes)} keyframes need {needed_mb:,.0f} MB, and "
            f"{free_mb:,.0f} MB are free; name smaller --sizes"
        )


def measure_search(
    own: NDArray[np.float32],
    queries: NDArray[np.float32],
    sizes: Sequence[int],
    config: SearchConfig,
    book: SeriesBook,
    *,
    rounds: int,
    steps: Steps = silent,
) -> list[IndexFacts]:
    """Fill an index per size and ask all of them in turn; adds the series "search.SIZE".

    Args:
        own: (N, D) descriptors of the map.
        queries: (Q, D) descriptors that ask.
        sizes: Keyframes of each index.
        config: Of the search; as many answers are asked for as the pipeline does.
        book: Takes the series.
        rounds: Passes over the queries that count; one more goes before.
        steps: Told of every batch that is inserted, and of every round.
    """
    filled = {size: _fill(own, size, config, steps) for size in sizes}
    facts = [_facts(size, *filled[size]) for size in sizes]
    indices = {size: index for size, (index, _) in filled.items()}
    if indices:
        tick = steps("searching", rounds + 1)
        for number in range(rounds + 1):
            times = _ask_all(indices, queries, max(config.top_k, RANKED))
            if number:
                for size, values in times.items():
                    book.add_round(f"search.{size}", values)
            tick()
    return facts


def _fill(own: NDArray[np.float32], size: int, config: SearchConfig, steps: Steps) -> tuple[PlaceIndex, float]:
    descriptors = grow_descriptors(own, size)
    index = PlaceIndex(own.shape[1], config)
    tick = steps(f"filling a map of {size:,}", -(-size // _BATCH))
    started_s = time.perf_counter()
    for start in range(0, size, _BATCH):
        end = min(start + _BATCH, size)
        index.add(np.arange(start, end), descriptors[start:end])
        tick()
    return index, time.perf_counter() - started_s


def _facts(size: int, index: PlaceIndex, fill_s: float) -> IndexFacts:
    check = index.self_check()
    return IndexFacts(size, index.kind, fill_s, check.recall_at_1, check.recall_at_k, check.num_queries)


def _ask_all(indices: Mapping[int, PlaceIndex], queries: NDArray[np.float32], k: int) -> dict[int, list[float]]:
    times: dict[int, list[float]] = {size: [] for size in indices}
    for query in queries:
        for size, index in indices.items():
            before_ns = time.perf_counter_ns()
            index.search(query, k)
            times[size].append((time.perf_counter_ns() - before_ns) * 1e-6)
    return times
