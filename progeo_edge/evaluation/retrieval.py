"""Recall@N of an encoder: describe, search exactly, optionally re-rank, count."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.encoders import Encoder
from progeo_edge.errors import InputError, SourceError
from progeo_edge.evaluation.bootstrap import RESAMPLES, Interval, bootstrap, intervals
from progeo_edge.evaluation.labels import GroundTruth
from progeo_edge.reranking import appearance_similarity, describe_appearance, rerank_scores
from progeo_edge.types import Image

RECALL_AT = (1, 5, 10, 20)
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
QUERY_ROWS, DATABASE_ROWS = 256, 16_384

Progress = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The nearest database rows of each query, best first.

    Attributes:
        rows: (Q, k) int64; -1 where fewer than k rows may be candidates.
        similarities: (Q, k) float32 cosines, or weighted sums after re-ranking; -inf where `rows` is -1.
    """

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RetrievalResult:
    """Recall@N with what it was counted over.

    Attributes:
        recall: N to the share of queries with at least one positive among the first N candidates.
        num_queries: Images that count as a query: those with at least one positive that is not left out.
        num_without_positive: Images left out for having none.
        num_database: Images searched in.
        missed: Rows (of all query images) whose first candidate is wrong.
    """

    recall: dict[int, Interval]
    num_queries: int
    num_without_positive: int
    num_database: int
    missed: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "recall": {str(n): interval.to_dict() for n, interval in self.recall.items()},
            "num_queries": self.num_queries,
            "num_without_positive": self.num_without_positive,
            "num_database": self.num_database,
        }


def list_images(folder: Path) -> list[str]:
    """Images at any depth, named by their path inside the folder, numbers in names compared as numbers.

    Raises:
        SourceError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder; give the folder that holds the images")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES]
    if not names:
        raise SourceError(f"{folder} holds no image; expected files such as .jpg or .png")
    return sorted(names, key=_natural_key)


def read_image(path: Path) -> Image:
    """Read one image as (H, W, 3) BGR uint8.

    Raises:
        SourceError: missing or undecodable. A result over fewer images would be another result, so none is skipped.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SourceError(f"image {path} is missing or cannot be decoded; replace it, or delete it and its labels")
    return np.asarray(image, np.uint8)


def extract_descriptors(
    paths: Sequence[Path],
    encoder: Encoder,
    *,
    progress: Progress | None = None,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Describe images one at a time, as a robot does.

    Args:
        paths: Image files.
        encoder: Any encoder.
        progress: Called after each image.
        out: (N, D) float32 array to fill, such as a memory map; None for a new one.

    Returns:
        Descriptors (N, D) float32 with unit rows, and the time of each `encode` call in milliseconds, (N,) float64.

    Raises:
        SourceError: an unreadable image.
        InputError: `out` of another shape, or a descriptor that is not finite.
    """
    shape = (len(paths), encoder.spec.dimension)
    descriptors = np.empty(shape, np.float32) if out is None else out
    if descriptors.shape != shape:
        raise InputError(f"array for descriptors has shape {descriptors.shape}; expected {shape}")
    encode_ms = np.zeros(len(paths))
    for row, path in enumerate(paths):
        image = read_image(path)
        start_s = time.perf_counter()
        descriptors[row] = encoder.encode([image])[0]
        encode_ms[row] = 1e3 * (time.perf_counter() - start_s)
        if not np.isfinite(descriptors[row]).all():
            raise InputError(
                f"encoder {encoder.spec.name} gives values that are not finite for {path}; check its export"
            )
        if progress is not None:
            progress()
    return descriptors, encode_ms


def search(
    queries: NDArray[np.float32],
    database: NDArray[np.float32],
    k: int,
    excluded: Sequence[NDArray[np.int64]] | None = None,
) -> Ranking:
    """Exact nearest rows by cosine, in blocks, so that `database` may be a memory map larger than the memory.

    Args:
        queries: (Q, D) unit rows.
        database: (N, D) unit rows of any float type.
        k: Candidates per query.
        excluded: Per query, the rows that are no candidates; None excludes nothing.

    Raises:
        InputError: shapes that do not fit.
    """
    if queries.ndim != 2 or database.ndim != 2 or queries.shape[1] != database.shape[1]:
        raise InputError(
            f"queries {queries.shape} and database {database.shape} must be two-dimensional of equal width"
        )
    if k < 1 or (excluded is not None and len(excluded) != len(queries)):
        raise InputError(f"k = {k} must be at least 1, and exclusions must be given for all {len(queries)} queries")
    rows = np.full((len(queries), k), -1, np.int64)
    similarities = np.full((len(queries), k), -np.inf, np.float32)
    for first in range(0, len(database), DATABASE_ROWS):
        block = np.ascontiguousarray(database[first : first + DATABASE_ROWS], np.float32)
        for start in range(0, len(queries), QUERY_ROWS):
            part = slice(start, start + QUERY_ROWS)
            found = queries[part] @ block.T
            if excluded is not None:
                _exclude(found, excluded[part], first)
            rows[part], similarities[part] = _merge(rows[part], similarities[part], found, first, k)
    return Ranking(rows, similarities)


def rerank(
    ranking: Ranking, query_paths: Sequence[Path], database_paths: Sequence[Path], weight: float, *, top_k: int
) -> Ranking:
    """Order the first `top_k` candidates by (1 - weight) * cosine + weight * similarity of the appearance grids.

    Only images that are candidates are read again. Candidates beyond `top_k` keep their order behind them.

    Args:
        ranking: Of `search`.
        query_paths: Image file of each query row.
        database_paths: Image file of each database row.
        weight: Of the appearance, 0 to 1.
        top_k: Candidates that are looked at again.
    """
    rows, scores = ranking.rows.copy(), ranking.similarities.copy()
    needed = np.unique(rows[:, :top_k])
    appearance = {int(row): describe_appearance(read_image(database_paths[row])) for row in needed[needed >= 0]}
    for query, path in enumerate(query_paths):
        candidates = rows[query, :top_k]
        candidates = candidates[candidates >= 0]
        if len(candidates) == 0:
            continue
        references = np.stack([appearance[int(row)] for row in candidates])
        looks = appearance_similarity(describe_appearance(read_image(path)), references)
        combined = rerank_scores(scores[query, : len(candidates)], looks, weight)
        order = np.argsort(-combined, kind="stable")
        rows[query, : len(candidates)] = candidates[order]
        scores[query, : len(candidates)] = combined[order]
    return Ranking(rows, scores)


def judge_retrieval(
    ranking: Ranking,
    truth: GroundTruth,
    *,
    recall_at: Sequence[int] = RECALL_AT,
    block_length: int = 1,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> RetrievalResult:
    """Count the queries with at least one positive among their first N candidates.

    Args:
        ranking: At least max(recall_at) wide unless the database is smaller.
        truth: Labels. Images without a positive are no queries; they are left out and counted.
        recall_at: The values of N.
        block_length: Neighbouring queries that are resampled together; 1 takes queries as independent.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        InputError: no query has a positive.
    """
    asked = np.array([row for row, positives in enumerate(truth.positives) if len(positives)], np.int64)
    if len(asked) == 0:
        raise InputError(
            f"none of the {len(truth.positives)} query images has a positive in the database; check labels"
        )
    hits = np.stack([np.isin(ranking.rows[row], truth.positives[row]) for row in asked])
    found = np.stack([hits[:, :n].any(axis=1) for n in recall_at], axis=1).astype(np.float64)
    samples = bootstrap(
        lambda indices: found[indices].mean(axis=0),
        len(found),
        block_length=block_length,
        resamples=resamples,
        seed=seed,
    )
    recall = dict(zip(recall_at, intervals(found.mean(axis=0), samples), strict=True))
    missed = tuple(int(row) for row in asked[~hits[:, 0]])
    return RetrievalResult(recall, len(asked), len(truth.positives) - len(asked), truth.num_database, missed)


def _exclude(found: NDArray[np.float32], excluded: Sequence[NDArray[np.int64]], first: int) -> None:
    for query, rows in enumerate(excluded):
        inside = rows[(rows >= first) & (rows < first + found.shape[1])]
        found[query, inside - first] = -np.inf


def _merge(
    rows: NDArray[np.int64], similarities: NDArray[np.float32], found: NDArray[np.float32], first: int, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best k of those known so far and of a new block; equal ones keep the order of the database."""
    nearest = np.argpartition(-found, min(k, found.shape[1]) - 1, axis=1)[:, :k]
    nearest.sort(axis=1)
    new = np.take_along_axis(found, nearest, axis=1)
    all_rows = np.concatenate([rows, np.where(np.isfinite(new), nearest + first, -1)], axis=1)
    all_similarities = np.concatenate([similarities, new], axis=1)
    order = np.argsort(-all_similarities, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(all_rows, order, axis=1), np.take_along_axis(all_similarities, order, axis=1)


def _natural_key(name: str) -> list[str | int]:
    parts: list[str | int] = list(re.split(r"(\d+)", name))
    parts[1::2] = [int(digits) for digits in parts[1::2]]
    return parts
