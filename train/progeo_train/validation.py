"""Recall@N of an encoder while it is trained, with the labels and the counting of `progeo-eval`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray

from progeo_edge.errors import ConfigError, SourceError
from progeo_edge.evaluation.labels import GroundTruth, truth_from_utm
from progeo_edge.evaluation.protocols import (
    DescribedSet,
    RetrievalSet,
    set_from_matches,
    set_from_places,
    set_from_sequence,
    set_from_utm,
)
from progeo_edge.evaluation.retrieval import RECALL_AT, Ranking, judge_retrieval
from progeo_train.config import ValidationConfig
from progeo_train.describing import Model, PathList
from progeo_train.extraction import describe, read_names
from progeo_train.feature_file import FeatureFile
from progeo_train.models.place_encoder import EncoderSpec
from progeo_train.run_log import Log
from progeo_train.sharded_search import search_features
from progeo_train.worst_queries import WorstQuery, find_worst, write_pictures

_log = logging.getLogger(__name__)

EXCLUDE_WITHIN_S = 5.0
"""Recordings with times: images closer in time are no candidates, or the previous frame would always be found."""

Recall = dict[str, float]


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """A set of queries and answers with the name that it has in logs."""

    name: str
    images: RetrievalSet


@dataclass(frozen=True, slots=True)
class Validation:
    """What a validation has found.

    Attributes:
        recall: Set to "recall@1", "recall@5", ... to a share of 0 to 1.
        mean_recall_at_1: Mean over the sets; the best encoder is that of the largest.
        worst: Set to its worst queries, the worst first; empty when none were asked for.
        sets: What was validated, by the name in `recall`.
    """

    recall: dict[str, Recall]
    mean_recall_at_1: float
    worst: dict[str, tuple[WorstQuery, ...]]
    sets: dict[str, RetrievalSet]

    def scalars(self) -> dict[str, float]:
        """All numbers by one name each, for logs."""
        by_set = {f"{name}/{at}": value for name, found in self.recall.items() for at, value in found.items()}
        return by_set | {"mean recall@1": self.mean_recall_at_1}

    def write_worst(self, folder: Path, epoch: int, log: Log, step: int) -> list[Path]:
        """Write a picture of each set's worst queries as `SET-epoch-N.png`, and report it to the log.

        Args:
            folder: Created when missing.
            epoch: Epochs done, for the file names.
            log: Is given each picture too.
            step: Of the log.

        Returns:
            The files.
        """
        shown = {name: queries for name, queries in self.worst.items() if queries}
        return write_pictures(self.sets, shown, folder, epoch, log, step)


def parse_validation_spec(text: str, radius_m: float) -> ValidationSet:
    """Open a validation set by its folder.

    What the folder holds decides:

    - `database/` and `queries/` with `matches.csv` beside them (query, database, label);
    - `database/` and `queries/` whose file names carry UTM positions: positive within `radius_m`;
    - images and `places.csv` (image, place): every image asks, all others answer;
    - images and `matches.csv` (query, earlier, label), with `keyframes.csv` (image, time_s) or without: with it, only
      its images take part, and those within 5 s of each other are no candidates.

    Args:
        text: The folder.
        radius_m: For UTM names.

    Raises:
        SourceError: no such folder, none of these contents, or labels that do not fit the images.
    """
    folder = Path(text)
    if not folder.is_dir():
        raise SourceError(f"validation set {text} is no folder; name one with database/ and queries/, or with labels")
    images = _open_set(folder, radius_m)
    if not any(len(positives) for positives in images.truth.positives):
        raise SourceError(
            f"validation set {text} has no query with a positive in its database within {radius_m:g} m; "
            "check its labels, or set validation.radius_m"
        )
    return ValidationSet(folder.resolve().name, images)


def validate(
    module: Model,
    spec: EncoderSpec,
    sets: Sequence[ValidationSet],
    fabric: Fabric,
    settings: ValidationConfig,
    workers: int,
) -> Validation:
    """Recall@1/5/10/20 on every set; every process calls this, shares the work, and gets the whole result.

    An image that cannot be read is never found, and a query that cannot be read counts as missed; the log says how
    many there are.

    Args:
        module: The encoder on the device of `fabric`, not wrapped for sharing gradients. It is put into evaluation
            mode, and every part back into the mode that it had.
        spec: Input and dimension.
        sets: At least one.
        fabric: Launched; its precision holds.
        settings: Batch size, and how many of the worst queries are wanted.
        workers: Reading processes per process.

    Raises:
        ConfigError: no sets.
        SourceError: a set of which no image can be read.
        InputError: descriptors that are not finite.
    """
    if not sets:
        raise ConfigError("no validation set given; name one with --val")
    recall: dict[str, Recall] = {}
    worst: dict[str, tuple[WorstQuery, ...]] = {}
    named = _by_unique_name(sets)
    for name, images in named.items():
        described = _describe_set(module, spec, name, images, fabric, settings.batch_size, workers)
        ranking = _rank(described, images.truth, fabric)
        recall[name] = _recall(ranking, images.truth)
        worst[name] = find_worst(ranking, described, images.truth, settings.worst_queries)
    mean = float(np.mean([found["recall@1"] for found in recall.values()]))
    return Validation(recall, mean, worst, named)


def judge_extracted(queries: Path, database: Path, radius_m: float, fabric: Fabric | None = None) -> Recall:
    """Recall@N of two folders of `extract_data_set` whose image names carry UTM positions; every process calls this.

    The database may be larger than the memory: it is read in blocks, which the processes share.

    Args:
        queries: Descriptors of the queries; these are held in memory.
        database: Descriptors of the database.
        radius_m: A positive is within this distance.
        fabric: Launched; None works alone.

    Raises:
        SourceError: descriptors missing, incomplete or damaged, or names without positions.
        InputError: descriptors of different dimensions, or no query with a positive.
    """
    asked, answers = FeatureFile.open_existing(queries), FeatureFile.open_existing(database)
    truth = truth_from_utm(list(read_names(queries)), list(read_names(database)), radius_m)
    if (len(truth.positives), truth.num_database) != (len(asked), len(answers)):
        raise SourceError(f"names and descriptors of {queries} or {database} differ in number; extract them again")
    ranking = search_features(np.asarray(asked.features, np.float32), answers, max(RECALL_AT), fabric)
    return _recall(ranking, truth)


def _open_set(folder: Path, radius_m: float) -> RetrievalSet:
    queries, database, matches = folder / "queries", folder / "database", folder / "matches.csv"
    places, keyframes = folder / "places.csv", folder / "keyframes.csv"
    if queries.is_dir() and database.is_dir():
        if matches.is_file():
            return set_from_matches(queries, database, matches)
        return set_from_utm(queries, database, radius_m)
    if places.is_file():
        return set_from_places(folder, places)
    if matches.is_file():
        if keyframes.is_file():
            return set_from_sequence(folder, matches, keyframes, EXCLUDE_WITHIN_S)
        return set_from_sequence(folder, matches, None, 0.0)
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
    raise SourceError(
        f"validation set {folder} holds {found}; expected the folders database and queries, or images with places.csv "
        "or matches.csv"
    )


def _by_unique_name(sets: Sequence[ValidationSet]) -> dict[str, RetrievalSet]:
    """Sets of equal name get a number, so that none hides another."""
    named: dict[str, RetrievalSet] = {}
    for one in sets:
        name, number = one.name, 2
        while name in named:
            name, number = f"{one.name}-{number}", number + 1
        named[name] = one.images
    return named


def _describe_set(
    module: Model,
    spec: EncoderSpec,
    name: str,
    images: RetrievalSet,
    fabric: Fabric,
    batch_size: int,
    workers: int,
) -> DescribedSet:
    """Describe queries and database as one list, so that the processes share it evenly."""
    paths = images.queries if images.one_set else images.queries + images.database
    described = describe(
        module,
        PathList(paths),
        spec.image_size_px,
        spec.mean,
        spec.std,
        fabric,
        dim=spec.descriptor_dim,
        batch_size=batch_size,
        workers=workers,
    )
    unreadable = np.flatnonzero(np.isnan(described[:, 0]))
    if len(unreadable) == len(paths):
        raise SourceError(f"none of the {len(paths)} images of validation set {name} can be read, such as {paths[0]}")
    if len(unreadable) and fabric.is_global_zero:
        _log.warning(
            "%d of %d images of validation set %s cannot be read and count as not found, such as %s",
            len(unreadable),
            len(paths),
            name,
            paths[unreadable[0]],
        )
    rows = _unit(described)
    no_times = np.zeros(0, np.float64)
    if images.one_set:
        return DescribedSet(rows, rows, no_times)
    return DescribedSet(rows[: len(images.queries)], rows[len(images.queries) :], no_times)


def _unit(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of unit length: cosines are compared, also for encoders that do not end in the L2 norm."""
    lengths: NDArray[np.float32] = np.linalg.norm(descriptors, axis=1, keepdims=True)
    return np.asarray(descriptors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def _rank(described: DescribedSet, truth: GroundTruth, fabric: Fabric) -> Ranking:
    return search_features(described.queries, described.database, max(RECALL_AT), fabric, excluded=truth.ignored)


def _recall(ranking: Ranking, truth: GroundTruth) -> Recall:
    # The bounds of the bootstrap are not used here, and for many queries they would take seconds.
    result = judge_retrieval(ranking, truth, resamples=1)
    return {f"recall@{n}": interval.value or 0.0 for n, interval in result.recall.items()}
