"""Search over growing numbers of descriptors, random ones and real ones, by one thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.benchmark.memory import available_mb
from progeo_edge.benchmark.peers.indexes import HNSW_EF, HNSW_EF_CONSTRUCTION, HNSW_M, SEARCH
from progeo_edge.benchmark.versus.comparison import Comparison
from progeo_edge.benchmark.versus.inputs import Vectors, random_vectors, real_vectors, save
from progeo_edge.benchmark.versus.interleaving import Contender, Field, Progress, answers_of, measure, opened
from progeo_edge.benchmark.versus.job import Job

K = 10
NUM_QUERIES = 100
BUILD_MEMORY = 1.3
"""An index of N vectors holds about this many times their bytes at its peak, a graph included."""

_PEERS = "progeo_edge.benchmark.peers.indexes"
_EXACT_TOLERANCE = 1e-6
_NOTE = (
    f"one thread, one query at a time, the {K} nearest; HNSW with M {HNSW_M}, ef_construction {HNSW_EF_CONSTRUCTION}, "
    f"ef {HNSW_EF}; recall against float64"
)


def contestants() -> list[Contender]:
    """Ours and what is commonly taken, without files."""
    wanted: dict[str, tuple[str, dict[str, Any]]] = {
        "ours": ("OurIndex", {}),
        "ours, exact": ("OurIndex", {"exact": True}),
        "NumPy": ("NumpyIndex", {}),
        "faiss Flat": ("FaissIndex", {"kind": "flat"}),
        "usearch exact": ("UsearchIndex", {"exact": True}),
        "faiss HNSW": ("FaissIndex", {"kind": "hnsw"}),
        "hnswlib": ("HnswlibIndex", {}),
        "usearch HNSW": ("UsearchIndex", {}),
    }
    return [
        Contender(name, f"{_PEERS}:{class_name}", settings, is_ours=name.startswith("ours"))
        for name, (class_name, settings) in wanted.items()
    ]


def compare_indexes(
    job: Job, real: tuple[str, NDArray[np.float32]] | None, progress: Progress, *, dimension: int = 512
) -> list[Comparison]:
    """Every size on random vectors, and on real ones where there are some.

    Args:
        job: Sizes, pace and limits.
        real: Name and (N, D) descriptors of images in their order; None for none.
        progress: Told what is being done.
        dimension: Of the random vectors.
    """
    makers: list[Callable[[int], Vectors]] = [lambda size: random_vectors(size, dimension, NUM_QUERIES)]
    if real is not None:
        makers.append(lambda size: real_vectors(*real, size, NUM_QUERIES))
    comparisons = []
    for make in makers:
        build_s: dict[str, tuple[int, float]] = {}
        for size in job.sizes:
            comparison = _compare_size(job, make(size), build_s, progress)
            comparisons.append(comparison)
            build_s |= {row.name: (size, float(row.facts["build_s"])) for row in comparison.rows}
    return comparisons


def _compare_size(
    job: Job, vectors: Vectors, build_s: Mapping[str, tuple[int, float]], progress: Progress
) -> Comparison:
    size, dimension = vectors.rows.shape
    absent, entrants = _who_fits(contestants(), vectors.rows.nbytes, size, build_s, job.build_limit_s)
    with TemporaryDirectory(prefix="progeo-bench-") as name:
        files = {
            "vectors": save(Path(name) / "vectors.npy", vectors.rows),
            "queries": save(Path(name) / "queries.npy", vectors.queries),
        }
        entrants = [
            replace(one, settings={**one.settings, **files, "k": K}, ready_timeout_s=3 * job.build_limit_s + 60)
            for one in entrants
        ]
        with opened(entrants, threads=1, absent=absent, progress=progress) as entered:
            rows = measure(entered, SEARCH, replace(job.pace, block=4 * job.pace.block), progress=progress)
            agreements = _recalls(entered, [row.name for row in rows], vectors)
            return Comparison(
                group="index",
                case=f"{vectors.name}, {size} x {dimension}",
                rows=tuple(replace(row, agreement=agreements.get(row.name, {})) for row in rows),
                absent=dict(entered.absent),
                notes=(_NOTE, vectors.note),
                size=size,
            )


def _who_fits(
    candidates: Sequence[Contender],
    num_bytes: int,
    size: int,
    build_s: Mapping[str, tuple[int, float]],
    build_limit_s: float,
) -> tuple[dict[str, str], list[Contender]]:
    """Leave out what would take too long to build, and, from the last on, what does not fit into memory."""
    absent: dict[str, str] = {}
    kept = []
    for one in candidates:
        earlier_size, seconds = build_s.get(one.name, (size, 0.0))
        expected_s = seconds * (size / earlier_size) * np.log2(max(2, size)) / np.log2(max(2, earlier_size))
        if expected_s > build_limit_s:
            absent[one.name] = (
                f"building {size} would take about {expected_s:.0f} s, the limit is {build_limit_s:g} (--build-limit-s)"
            )
        else:
            kept.append(one)
    free_mb, each_mb = available_mb(), BUILD_MEMORY * num_bytes / 1e6
    room = len(kept) if free_mb is None else int(0.9 * free_mb // each_mb)
    for one in kept[room:]:
        absent[one.name] = f"{each_mb:.0f} MB each do not fit into the {free_mb or 0:.0f} MB that are free for all"
    return absent, kept[:room]


def _recalls(entered: Field, names: Sequence[str], vectors: Vectors) -> dict[str, dict[str, float]]:
    items = range(len(vectors.queries))
    best = exact_similarities(vectors.rows, vectors.queries, K)
    recalls = {}
    for name in names:
        found = answers_of(entered, name, SEARCH, items)
        if found is not None:
            recalls[name] = recall(vectors, best, found)
    return recalls


def exact_similarities(rows: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    """(Q, k) similarities of the nearest rows in float64, best first; k at most N."""
    best = np.zeros((len(queries), 0))
    exact = queries.astype(np.float64)
    for first in range(0, len(rows), 20_000):
        chunk = exact @ rows[first : first + 20_000].astype(np.float64).T
        best = -np.sort(-np.concatenate([best, chunk], axis=1), axis=1)[:, :k]
    return best


def recall(vectors: Vectors, best: NDArray[np.float64], found: Sequence[NDArray[np.int64]]) -> dict[str, float]:
    """recall@1 and recall@K: by similarity, so that any of several equal rows is a right answer.

    Args:
        vectors: What was searched.
        best: (Q, K) of `exact_similarities`.
        found: Ids given for each query; unknown places are negative.
    """
    firsts, shares = [], []
    for query, exact, ids in zip(vectors.queries.astype(np.float64), best, found, strict=True):
        known = np.unique(ids[ids >= 0])
        similarities = vectors.rows[known].astype(np.float64) @ query
        first = vectors.rows[ids[0]].astype(np.float64) @ query if len(ids) and ids[0] >= 0 else -1.0
        firsts.append(first >= exact[0] - _EXACT_TOLERANCE)
        shares.append(min(1.0, np.count_nonzero(similarities >= exact[-1] - _EXACT_TOLERANCE) / len(exact)))
    return {"recall@1": float(np.mean(firsts)), f"recall@{K}": float(np.mean(shares))}
