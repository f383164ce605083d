"""The two ways to ask for recall@N: queries against another folder, or the images of one folder against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from progeo_edge.encoders import Encoder
from progeo_edge.errors import SourceError
from progeo_edge.evaluation.labels import (
    GroundTruth,
    leave_out_near_in_time,
    match_names,
    read_matches,
    read_places,
    read_times,
    truth_from_matches,
    truth_from_places,
    truth_from_utm,
)
from progeo_edge.evaluation.retrieval import (
    RECALL_AT,
    Progress,
    Ranking,
    extract_descriptors,
    list_images,
    rerank,
    search,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """Images and labels.

    Attributes:
        queries: Image files that ask.
        database: Image files that answer; the same tuple as `queries` for one set of images.
        truth: Labels by row.
    """

    queries: tuple[Path, ...]
    database: tuple[Path, ...]
    truth: GroundTruth

    @property
    def one_set(self) -> bool:
        """The images ask each other."""
        return self.queries is self.database

    @property
    def num_images(self) -> int:
        """Images to describe."""
        return len(self.queries) + (0 if self.one_set else len(self.database))


@dataclass(frozen=True, slots=True)
class DescribedSet:
    """Descriptors of a set: (Q, D) and (N, D) float32, and the time of each `encode` call, (images,) float64."""

    queries: NDArray[np.float32]
    database: NDArray[np.float32]
    encode_ms: NDArray[np.float64]


def set_from_matches(queries: Path, database: Path, matches: Path) -> RetrievalSet:
    """Two folders and a table of pairs."""
    query_names, database_names = list_images(queries), list_images(database)
    truth = truth_from_matches(read_matches(matches), query_names, database_names)
    return RetrievalSet(_paths(queries, query_names), _paths(database, database_names), truth)


def set_from_utm(queries: Path, database: Path, radius_m: float) -> RetrievalSet:
    """Two folders whose file names hold UTM coordinates."""
    query_names, database_names = list_images(queries), list_images(database)
    truth = truth_from_utm(query_names, database_names, radius_m)
    return RetrievalSet(_paths(queries, query_names), _paths(database, database_names), truth)


def set_from_places(images: Path, places: Path) -> RetrievalSet:
    """One folder and a table of places: leave-one-out over the images that the table lists."""
    place_of = _by_file(read_places(places), images, places)
    names = list(place_of)
    paths = _paths(images, names)
    return RetrievalSet(paths, paths, truth_from_places(place_of, names))


def set_from_sequence(images: Path, matches: Path, times: Path | None, exclude_within_s: float) -> RetrievalSet:
    """One folder and a table of pairs that hold in both directions.

    Args:
        images: The folder.
        matches: Table of pairs.
        times: Table of image and time_s that says which images of the folder take part; None takes all.
        exclude_within_s: Pairs closer in time are left out; needs `times` when above 0.
    """
    if times is None:
        if exclude_within_s > 0:
            raise SourceError(f"leaving out pairs within {exclude_within_s:g} s needs the times; add --times CSV")
        names = list_images(images)
        paths = _paths(images, names)
        return RetrievalSet(paths, paths, truth_from_matches(read_matches(matches), names, names, one_set=True))
    time_of = _by_file(read_times(times), images, times)
    names = list(time_of)
    truth = truth_from_matches(read_matches(matches), names, names, one_set=True)
    paths = _paths(images, names)
    times_s = np.array(list(time_of.values()), np.float64)
    return RetrievalSet(paths, paths, leave_out_near_in_time(truth, times_s, exclude_within_s))


def describe_set(images: RetrievalSet, encoder: Encoder, progress: Progress | None = None) -> DescribedSet:
    """Describe every image once."""
    queries, query_ms = extract_descriptors(images.queries, encoder, progress=progress)
    if images.one_set:
        return DescribedSet(queries, queries, query_ms)
    database, database_ms = extract_descriptors(images.database, encoder, progress=progress)
    return DescribedSet(queries, database, np.concatenate([query_ms, database_ms]))


def rank_set(
    images: RetrievalSet,
    described: DescribedSet,
    *,
    rerank_weight: float | None = None,
    rerank_top_k: int = max(RECALL_AT),
) -> Ranking:
    """Search, and re-rank when a weight of the appearance is given."""
    k = max(*RECALL_AT, rerank_top_k)
    ranking = search(described.queries, described.database, k, images.truth.ignored)
    if rerank_weight is None:
        return ranking
    return rerank(ranking, images.queries, images.database, rerank_weight, top_k=rerank_top_k)


def _paths(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    return tuple(folder / name for name in names)


def _by_file(table: Mapping[str, T], folder: Path, path: Path) -> dict[str, T]:
    file_of = match_names(table, list_images(folder))
    missing = [name for name in table if name not in file_of]
    if missing:
        raise SourceError(
            f"{path} lists {len(missing)} images that are not in {folder}, such as {missing[0]}; "
            "point --images to the folder they are in"
        )
    return {file_of[name]: value for name, value in table.items()}
