"""What HNSW misses on long drives, by the order of insertion and its parameters.

    python -m tools.hnsw_table OUT.json [--drives FILE_OR_FOLDER ...] [--sizes 20000,100000] [--quick]

Drives are inserted one after the other into a graph: in order, as PlaceIndex does (a random batch out of the newest
ones), and shuffled. Every 50th row is held out and asked for, which is a revisit of the place around it; with
--queries other drives are asked instead. A query is missed when the best answer is less similar than the exact best
one, and its place is missed when none of the top 20 lies within 5 rows of the exact best one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from numpy.typing import NDArray

from progeo_edge.atomic import write_text
from progeo_edge.index import MOVE_BATCH, TAIL_LIMIT
from tools.descriptor_sets import Rows, of_size, random_walk, read_drives

TOP = 20
SAME_PLACE_ROWS = 5
HOLD_OUT_EVERY = 50
MAX_QUERIES = 2000


def in_order(count: int) -> NDArray[np.int64]:
    """As driven."""
    return np.arange(count)


def from_the_tail(count: int) -> NDArray[np.int64]:
    """As PlaceIndex inserts when keyframes come one by one: batches drawn at random from the newest rows."""
    rng = np.random.default_rng(0)
    tail = list(range(TAIL_LIMIT))
    order: list[int] = []
    for newest in range(TAIL_LIMIT, count):
        tail.append(newest)
        if len(tail) >= TAIL_LIMIT + MOVE_BATCH:
            for place in sorted(rng.choice(len(tail), MOVE_BATCH, replace=False).tolist(), reverse=True):
                order.append(tail.pop(place))
    rng.shuffle(tail)
    return np.array(order + tail)


def shuffled(count: int) -> NDArray[np.int64]:
    """All rows known in advance, as when a map is opened without a cache."""
    return np.random.default_rng(0).permutation(count)


ORDERS = {"in order": in_order, "from the tail": from_the_tail, "shuffled": shuffled}


def main() -> None:
    """Build every graph, ask, print one Markdown row each and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--drives", type=Path, nargs="+", default=[], help="none: only the random walk")
    parser.add_argument("--queries", type=Path, nargs="+", default=[], help="other drives through the same places")
    parser.add_argument("--sizes", default="20000,100000")
    parser.add_argument("--m", default="16")
    parser.add_argument("--ef-construction", type=int, default=200)
    parser.add_argument("--ef", default="80,200,1000")
    parser.add_argument("--no-walk", action="store_true")
    parser.add_argument("--quick", action="store_true", help="20 000 rows and M 16 only")
    arguments = parser.parse_args()
    sizes = [20_000] if arguments.quick else _numbers(arguments.sizes)
    degrees = [16] if arguments.quick else _numbers(arguments.m)
    print("| data | rows | insertion | M | build s | ef | best missed % | place missed % | ms per query |")
    print("|---|---|---|---|---|---|---|---|---|")
    results = []
    for title, rows, queries in _cases(arguments, sizes):
        exact = np.argmax(queries @ rows.T, axis=1) if len(queries) * len(rows) < 3e8 else _best_rows(queries, rows)
        for name, order in ORDERS.items():
            for m in degrees:
                for result in _judge(rows, queries, exact, order(len(rows)), m, arguments):
                    results.append({"data": title, "rows": len(rows), "insertion": name, "m": m} | result)
                    _print(results[-1])
        write_text(arguments.out, json.dumps(results, indent=1))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _cases(arguments: argparse.Namespace, sizes: list[int]) -> Iterator[tuple[str, Rows, Rows]]:
    drives = read_drives(arguments.drives)
    asked = read_drives(arguments.queries)
    for size in sizes:
        if drives:
            made_up = " (interpolated)" if size > sum(map(len, drives)) else ""
            rows = of_size(drives, size)
            if asked:
                yield f"drives{made_up}, asked by other drives", rows, _some(np.concatenate(asked))
            yield f"drives{made_up}, held out", *_held_out(rows)
        if not arguments.no_walk:
            yield "random walk, held out", *_held_out(random_walk(size, 512, seed=size))


def _held_out(rows: Rows) -> tuple[Rows, Rows]:
    is_asked = np.arange(len(rows)) % HOLD_OUT_EVERY == HOLD_OUT_EVERY // 2
    return rows[~is_asked], _some(rows[is_asked])


def _some(rows: Rows) -> Rows:
    return rows[:: -(-len(rows) // MAX_QUERIES)]


def _best_rows(queries: Rows, rows: Rows) -> NDArray[np.int64]:
    return np.concatenate([np.argmax(part @ rows.T, axis=1) for part in np.array_split(queries, 20)])


def _judge(
    rows: Rows,
    queries: Rows,
    exact: NDArray[np.int64],
    order: NDArray[np.int64],
    m: int,
    arguments: argparse.Namespace,
) -> Iterator[dict[str, float]]:
    graph = hnswlib.Index(space="ip", dim=rows.shape[1])
    graph.init_index(max_elements=len(rows), M=m, ef_construction=arguments.ef_construction, random_seed=100)
    started = time.perf_counter()
    graph.add_items(rows[order], order, num_threads=1)
    build_s = time.perf_counter() - started
    best = np.sum(queries * rows[exact], axis=1)
    for ef in _numbers(arguments.ef):
        graph.set_ef(ef)
        started = time.perf_counter()
        found = np.concatenate([graph.knn_query(query[None], k=TOP, num_threads=1)[0] for query in queries])
        query_ms = 1e3 * (time.perf_counter() - started) / len(queries)
        found = found.astype(np.int64)
        first = np.sum(queries * rows[found[:, 0]], axis=1)
        is_near = np.any(np.abs(found - exact[:, None]) <= SAME_PLACE_ROWS, axis=1)
        yield {
            "build_s": build_s,
            "ef": ef,
            "queries": len(queries),
            "best_missed": float(np.mean(first < best - 1e-5)),
            "place_missed": float(np.mean(~is_near)),
            "query_ms": query_ms,
        }


def _print(result: dict[str, Any]) -> None:
    print(
        "| {data} | {rows} | {insertion} | {m} | {build_s:.0f} | {ef} | {b:.2f} | {p:.2f} | {query_ms:.2f} |".format(
            **result, b=100 * result["best_missed"], p=100 * result["place_missed"]
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
