"""How long does one search take? Exact search, before and now, and its peers, from 1000 to 1 000 000 keyframes.

    python -m tools.index_table OUT_FOLDER [--drives FILE_OR_FOLDER ...] [--queries FILE_OR_FOLDER ...] [--quick]

One thread, one process: in every round each contender answers the same query once, in turn. Writes index.json,
index.svg and prints a Markdown table. Data are independent random directions and, with --drives, described drives one
after the other (interpolated where they are too few, which the table says), asked by --queries or by turned rows.
Recall is the share of queries whose first answer is as similar as the best one in float64.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from progeo_edge.config import SearchConfig
from progeo_edge.index import PlaceIndex
from progeo_edge.similar_rows import by_product, ranked
from tools.descriptor_sets import Rows, of_size, random_rows, read_drives, turned
from tools.index_table_output import markdown, plot, write_results

SIZES = (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
QUICK_SIZES = (1000, 10_000, 100_000)
DIMENSION = 512
NUM_QUERIES = 200
ADDITIONS = 400

Search = Callable[[Rows, int], NDArray[np.int64]]
"""Rows of the k nearest of a query, best first."""


@dataclass(frozen=True)
class Contender:
    """Attributes: bytes_per_row: with the descriptors, as far as it can be told; build_s: to make it from all rows."""

    name: str
    search: Search
    bytes_per_row: float
    build_s: float
    index: PlaceIndex | None = None


def main() -> None:
    """Measure every size of every kind of data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder")
    parser.add_argument("--drives", type=Path, nargs="+", default=[])
    parser.add_argument("--queries", type=Path, nargs="+", default=[])
    parser.add_argument("--sizes", type=lambda text: tuple(map(int, text.split(","))), default=SIZES)
    parser.add_argument("--k", type=lambda text: tuple(map(int, text.split(","))), default=(1, 20, 100))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--hnsw-up-to", type=int, default=100_000, help="building a graph takes about 0.3 ms per row")
    parser.add_argument("--no-random", action="store_true")
    parser.add_argument("--quick", action="store_true", help="three sizes, no graph above 10 000 rows, fewer rounds")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.rounds, arguments.hnsw_up_to = QUICK_SIZES, 20, 10_000
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    with threadpool_limits(1):
        for title, rows, queries in _data(arguments):
            contenders = list(_contenders(rows, arguments))
            for k in arguments.k:
                results += [{"data": title} | result for result in _race(contenders, rows, queries, k, arguments)]
                write_results(arguments.out, results)
            for contender in contenders:
                results += [{"data": title} | result for result in _additions(contender, queries)]
    write_results(arguments.out, results)
    plot(arguments.out / "index.svg", [result for result in results if result.get("k") == arguments.k[-1]])
    print(markdown(results))


def _data(arguments: argparse.Namespace) -> Iterator[tuple[str, Rows, Rows]]:
    if not arguments.no_random:
        for size in arguments.sizes:
            yield "random", random_rows(size, DIMENSION, seed=size), random_rows(NUM_QUERIES, DIMENSION, seed=1)
    drives, asked = read_drives(arguments.drives), read_drives(arguments.queries)
    if not drives:
        return
    available = sum(map(len, drives))
    for size in arguments.sizes:
        rows = of_size(drives, size)
        queries = np.concatenate(asked) if asked else turned(rows[:: max(1, size // NUM_QUERIES)], seed=1)
        title = "drives" if size <= available else f"drives, interpolated {-(-size // available)} times"
        yield title, rows, queries[:: max(1, len(queries) // NUM_QUERIES)]


# -- the contenders --------------------------------------------------------------------------------------------------


def _contenders(rows: Rows, arguments: argparse.Namespace) -> Iterator[Contender]:
    dimension = rows.shape[1]
    yield Contender("NumPy", lambda query, k: _first_of(rows @ query, k), 4 * dimension, 0.0)
    ids = np.arange(len(rows))
    yield Contender(
        "PlaceIndex before",
        lambda query, k: ranked(by_product(rows, query, k), ids, rows, query, k)[0],
        4 * dimension,
        0.0,
    )
    yield _place_index("PlaceIndex now", rows, SearchConfig(hnsw_above=10**9))
    yield from _int8_without_proof(rows)
    yield from _faiss(rows)
    if len(rows) <= arguments.hnsw_up_to:
        yield _place_index("PlaceIndex HNSW", rows, SearchConfig(hnsw_above=0))


def _place_index(name: str, rows: Rows, config: SearchConfig) -> Contender:
    started = time.perf_counter()
    index = PlaceIndex(rows.shape[1], config)
    index.add(np.arange(len(rows)), rows)
    beside = 4 * rows.shape[1] + 8 * config.hnsw_m + 20 if index.kind == "hnsw" else index.code_bytes_per_row
    seconds = time.perf_counter() - started
    return Contender(name, lambda query, k: index.search(query, k)[0], 4 * rows.shape[1] + beside, seconds, index)


def _int8_without_proof(rows: Rows) -> Iterator[Contender]:
    """What the library offers by itself: round to int8 by one scale, take the best products."""
    numkong = _imported("numkong")
    if numkong is None:
        return
    scale = 127 / float(np.abs(rows).max())
    codes = np.rint(rows * scale).astype(np.int8)

    def search(query: Rows, k: int) -> NDArray[np.int64]:
        code = np.clip(np.rint(query * scale), -127, 127).astype(np.int8)[None]
        return _first_of(np.asarray(numkong.cdist(code, codes, "dot"))[0], k)

    yield Contender("int8 by numkong, unproven", search, rows.shape[1], 0.0)


def _faiss(rows: Rows) -> Iterator[Contender]:
    faiss = _imported("faiss")
    if faiss is None:
        return
    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(rows)

    def search(query: Rows, k: int) -> NDArray[np.int64]:
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        found = flat.search(query[None], k)[1][0]
        faiss.omp_set_num_threads(threads)
        return np.asarray(found, dtype=np.int64)

    yield Contender("faiss Flat", search, 4 * rows.shape[1], 0.0)


def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"{name} is not installed and left out")
        return None


def _first_of(similarities: NDArray[Any], k: int) -> NDArray[np.int64]:
    k = min(k, len(similarities))
    best = np.argpartition(similarities, len(similarities) - k)[len(similarities) - k :]
    return np.asarray(best[np.argsort(-similarities[best], kind="stable")], dtype=np.int64)


# -- the race --------------------------------------------------------------------------------------------------------


def _race(
    contenders: Sequence[Contender], rows: Rows, queries: Rows, k: int, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    # Slow contenders at large sizes would make this take hours; the fewer rounds, the longer each one.
    rounds = max(10, min(arguments.rounds, arguments.rounds * 200_000 // len(rows)))
    asked = queries[np.arange(rounds) % len(queries)]
    best = [float(np.max(_float64_products(rows, query))) for query in asked]
    times = np.zeros((len(contenders), rounds))
    hits = np.zeros((len(contenders), rounds), dtype=bool)
    for contender in contenders:
        contender.search(asked[0], k)
    for r, query in enumerate(asked):
        for c, contender in enumerate(contenders):
            started = time.perf_counter()
            found = contender.search(query, k)
            times[c, r] = 1e3 * (time.perf_counter() - started)
            first = float(np.sum(rows[found[0]].astype(np.float64) * query.astype(np.float64)))
            hits[c, r] = np.float32(first) >= np.float32(best[r])
    for c, contender in enumerate(contenders):
        ratios = times[0] / times[c]
        yield {
            "contender": contender.name,
            "rows": len(rows),
            "dimension": rows.shape[1],
            "k": k,
            "rounds": rounds,
            "min_ms": float(times[c].min()),
            "p50_ms": float(np.median(times[c])),
            "p90_ms": float(np.percentile(times[c], 90)),
            "ratio_of_minima": float(times[0].min() / times[c].min()),
            "ratio_p10_p50_p90": [float(v) for v in np.percentile(ratios, [10, 50, 90])],
            "recall_at_1": float(hits[c].mean()),
            "bytes_per_row": contender.bytes_per_row,
            "build_s": contender.build_s,
        }


def _float64_products(rows: Rows, query: Rows) -> NDArray[np.float64]:
    """By parts, so that no copy of all rows in float64 is made."""
    return np.concatenate([part.astype(np.float64) @ query.astype(np.float64) for part in _parts(rows)])


def _parts(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), 20_000):
        yield rows[start : start + 20_000]


def _additions(contender: Contender, like: Rows) -> Iterator[dict[str, Any]]:
    """What adding keyframes one by one takes."""
    index = contender.index
    if index is None:
        return
    size = len(index)
    new = turned(like[np.arange(ADDITIONS) % len(like)], seed=2)
    times = []
    for i, row in enumerate(new):
        started = time.perf_counter()
        index.add([size + i], row[None])
        times.append(1e3 * (time.perf_counter() - started))
    p50, p99 = np.percentile(times, [50, 99])
    yield {
        "contender": contender.name,
        "rows": size,
        "add_mean_ms": float(np.mean(times)),
        "add_p50_ms": float(p50),
        "add_p99_ms": float(p99),
        "add_max_ms": float(max(times)),
    }


if __name__ == "__main__":
    main()
