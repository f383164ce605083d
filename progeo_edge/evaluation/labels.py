"""Which image pairs show the same place: from a table of pairs, from UTM file names, or from a table of places."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError, SourceError

DEFAULT_RADIUS_M = 25.0

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Matches:
    """Labelled pairs of image names, as in `matches.csv`; every pair that is not listed is negative.

    Attributes:
        path: The file, for messages.
        positive: (query, reference) pairs of the same place.
        ignored: Pairs of the neutral band, which count neither as right nor as wrong.
        one_set: The second column is called "earlier": both names belong to one sequence.
    """

    path: Path
    positive: frozenset[Pair]
    ignored: frozenset[Pair]
    one_set: bool

    def names(self) -> set[str]:
        """Every image name in the table."""
        return {name for pair in self.positive | self.ignored for name in pair}


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Rows of the database that are right, and rows that must not be judged, for each query.

    Attributes:
        positives: Per query, sorted (P,) int64 rows of the database.
        ignored: Per query, sorted (I,) int64 rows that are left out of the ranking; disjoint from the positives.
        num_database: Rows of the database.
    """

    positives: tuple[NDArray[np.int64], ...]
    ignored: tuple[NDArray[np.int64], ...]
    num_database: int


def read_matches(path: Path) -> Matches:
    """Read a table with the columns query, database (or earlier), label; further columns are left alone.

    Raises:
        SourceError: unreadable file, missing column, unknown label, contradicting lines, or no positive pair.
    """
    columns, rows = _read_table(path)
    second = next((name for name in ("database", "earlier") if name in columns), None)
    if "query" not in columns or second is None or "label" not in columns:
        raise SourceError(
            f"{path} has the columns {', '.join(columns)}; expected query, database (or earlier) and label in line 1"
        )
    labels: dict[Pair, str] = {}
    for line, row in rows:
        pair, label = (row["query"], row[second]), row["label"]
        if label not in ("positive", "ignore"):
            raise SourceError(
                f"{path} line {line}: label {label!r} is unknown; write positive or ignore, and leave negatives out"
            )
        if not all(pair):
            raise SourceError(f"{path} line {line}: an image name is empty; name the query and the {second} image")
        if labels.setdefault(pair, label) != label:
            raise SourceError(
                f"{path} line {line}: {pair[0]} and {pair[1]} are {label} here and {labels[pair]} above; keep one line"
            )
    positive = frozenset(pair for pair, label in labels.items() if label == "positive")
    if not positive:
        raise SourceError(f"{path} holds no line labelled positive; without one nothing can be judged")
    return Matches(path, positive, frozenset(labels) - positive, second == "earlier")


def read_places(path: Path) -> dict[str, str]:
    """Read a table with the columns image and place: image name to place name, in the order of the file.

    Raises:
        SourceError: unreadable file, missing column, an image listed twice, or no place with two images.
    """
    columns, rows = _read_table(path)
    if not {"image", "place"} <= set(columns):
        raise SourceError(f"{path} has the columns {', '.join(columns)}; expected image and place in line 1")
    places: dict[str, str] = {}
    for line, row in rows:
        if not row["image"] or not row["place"]:
            raise SourceError(f"{path} line {line}: image or place is empty; fill in both")
        if row["image"] in places:
            raise SourceError(f"{path} line {line}: {row['image']} is listed twice; keep one line per image")
        places[row["image"]] = row["place"]
    if len(set(places.values())) == len(places):
        raise SourceError(f"{path} gives every image a place of its own; a query needs another image of its place")
    return places


def read_times(path: Path) -> dict[str, float]:
    """Read a table with the columns image and time_s: image name to seconds, in the order of the file.

    Raises:
        SourceError: unreadable file, missing column, a time that is no number, or an image listed twice.
    """
    columns, rows = _read_table(path)
    if not {"image", "time_s"} <= set(columns):
        raise SourceError(f"{path} has the columns {', '.join(columns)}; expected image and time_s in line 1")
    times: dict[str, float] = {}
    for line, row in rows:
        try:
            time_s = float(row["time_s"])
        except ValueError:
            time_s = float("nan")
        if not np.isfinite(time_s):
            raise SourceError(f"{path} line {line}: time_s is {row['time_s']!r}; expected seconds such as 12.5")
        if row["image"] in times:
            raise SourceError(f"{path} line {line}: {row['image']} is listed twice; keep one line per image")
        times[row["image"]] = time_s
    return times


def truth_from_matches(
    matches: Matches, queries: Sequence[str], database: Sequence[str], *, one_set: bool = False
) -> GroundTruth:
    """Turn pairs of names into rows.

    Args:
        matches: The labelled pairs.
        queries: Names of the query images.
        database: Names of the database images.
        one_set: Queries and database are the same images: labels hold in both directions, and no image is a
            candidate for itself.

    Raises:
        SourceError: a name of the table is not among the images, or could be several of them.
    """
    pairs = matches.positive | matches.ignored
    query_rows = _rows_of({pair[0] for pair in pairs}, queries, matches.path, "query")
    database_rows = _rows_of({pair[1] for pair in pairs}, database, matches.path, "database")
    positives, ignored = (
        _collect(matches.positive, query_rows, database_rows),
        _collect(matches.ignored, query_rows, database_rows),
    )
    if one_set:
        positives, ignored = positives | {(b, a) for a, b in positives}, ignored | {(b, a) for a, b in ignored}
        ignored |= {(row, row) for row in range(len(queries))}
    return _ground_truth(positives - ignored, ignored, len(queries), len(database))


def truth_from_utm(queries: Sequence[str], database: Sequence[str], radius_m: float = DEFAULT_RADIUS_M) -> GroundTruth:
    """Positives are database images within `radius_m` of the query, read from names `@ east @ north @ ... @.jpg`.

    The convention of CosPlace and of VPR-methods-evaluation (Berton et al. 2022), 25 m by default.

    Raises:
        SourceError: a name without UTM coordinates.
        InputError: a radius that is not positive.
    """
    if not radius_m > 0:
        raise InputError(f"radius {radius_m} m is not positive; 25 m is the convention")
    query_m, database_m = utm_positions_m(queries), utm_positions_m(database)
    by_east = np.argsort(database_m[:, 0], kind="stable")
    easts = database_m[by_east, 0]
    positives = []
    for position in query_m:
        first, last = np.searchsorted(easts, [position[0] - radius_m, position[0] + radius_m])
        rows = by_east[first : last + 1]
        near = np.linalg.norm(database_m[rows] - position, axis=1) <= radius_m
        positives.append(np.sort(rows[near]).astype(np.int64))
    none = np.zeros(0, np.int64)
    return GroundTruth(tuple(positives), (none,) * len(positives), len(database_m))


def utm_positions_m(names: Iterable[str]) -> NDArray[np.float64]:
    """East and north in metres from file names `@ east @ north @ ... @.jpg`: (N, 2) float64.

    Raises:
        SourceError: a name without them.
    """
    positions = []
    for name in names:
        fields = PurePosixPath(name).name.split("@")
        try:
            positions.append((float(fields[1]), float(fields[2])))
        except (IndexError, ValueError):
            raise SourceError(
                f"image {name} has no UTM position in its name; expected '@ east @ north @ ... @.jpg', "
                "or give the labels with --matches"
            ) from None
    return np.array(positions, np.float64).reshape(-1, 2)


def truth_from_places(places: Mapping[str, str], names: Sequence[str]) -> GroundTruth:
    """Every image asks, all others answer (leave-one-out); the same place is positive.

    Raises:
        InputError: a name that has no place.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        if name not in places:
            raise InputError(f"image {name} has no place; add it to the table of places")
        members[places[name]].append(row)
    positives = tuple(
        np.array([other for other in members[places[name]] if other != row], np.int64) for row, name in enumerate(names)
    )
    own_row = tuple(np.array([row], np.int64) for row in range(len(names)))
    return GroundTruth(positives, own_row, len(names))


def leave_out_near_in_time(truth: GroundTruth, times_s: NDArray[np.float64], within_s: float) -> GroundTruth:
    """Leave pairs of one sequence out that are closer in time than `within_s`, whatever their label.

    Args:
        truth: Of one set of images, queries and database being the same.
        times_s: (N,) time of each image in seconds.
        within_s: Pairs with a smaller difference are left out.
    """
    if not len(times_s) == len(truth.positives) == truth.num_database:
        raise InputError(
            f"{len(times_s)} times for {len(truth.positives)} queries and {truth.num_database} database images; "
            "expected one set of images and one time for each"
        )
    positives, ignored = [], []
    for row, time_s in enumerate(times_s):
        near = np.flatnonzero(np.abs(times_s - time_s) < within_s)
        positives.append(np.setdiff1d(truth.positives[row], near))
        ignored.append(np.union1d(truth.ignored[row], near))
    return GroundTruth(tuple(positives), tuple(ignored), truth.num_database)


def match_names(wanted: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Pair names with known ones: the same name, else the only one of which one is the tail of the other's path.

    "images/0001.jpg" and "0001.jpg" go together; "a/0001.jpg" and "b/0001.jpg" do not.

    Returns:
        Wanted name to known name; names without a partner are absent.

    Raises:
        SourceError: a name fits several known ones.
    """
    exact = set(known)
    by_file_name: dict[str, list[str]] = defaultdict(list)
    for name in sorted(exact):
        by_file_name[PurePosixPath(name).name].append(name)
    found: dict[str, str] = {}
    for name in wanted:
        if name in exact:
            found[name] = name
            continue
        fitting = [other for other in by_file_name[PurePosixPath(name).name] if _is_tail(name, other)]
        if len(fitting) > 1:
            raise SourceError(
                f"image name {name} could be {' or '.join(fitting[:3])}; use names with enough of their folders"
            )
        if fitting:
            found[name] = fitting[0]
    return found


def _is_tail(a: str, b: str) -> bool:
    parts_a, parts_b = PurePosixPath(a).parts, PurePosixPath(b).parts
    shared = min(len(parts_a), len(parts_b))
    return parts_a[-shared:] == parts_b[-shared:]


def _rows_of(names: set[str], images: Sequence[str], path: Path, role: str) -> dict[str, int]:
    row_of_image = {image: row for row, image in enumerate(images)}
    found = match_names(sorted(names), images)
    missing = sorted(names - set(found))
    if missing:
        raise SourceError(
            f"{path} names {len(missing)} {role} images that are not among the {len(images)} given, such as "
            f"{missing[0]}; point the command to the folder they are in"
        )
    return {name: row_of_image[image] for name, image in found.items()}


def _collect(pairs: Iterable[Pair], query_rows: dict[str, int], database_rows: dict[str, int]) -> set[tuple[int, int]]:
    return {(query_rows[query], database_rows[reference]) for query, reference in pairs}


def _ground_truth(
    positives: set[tuple[int, int]], ignored: set[tuple[int, int]], num_queries: int, num_database: int
) -> GroundTruth:
    return GroundTruth(_per_query(positives, num_queries), _per_query(ignored, num_queries), num_database)


def _per_query(pairs: set[tuple[int, int]], num_queries: int) -> tuple[NDArray[np.int64], ...]:
    rows: list[list[int]] = [[] for _ in range(num_queries)]
    for query, reference in sorted(pairs):
        rows[query].append(reference)
    return tuple(np.array(row, np.int64) for row in rows)


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [(name or "").strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"table {path} cannot be read: {error}; expected a comma-separated file in UTF-8") from error
    if not rows:
        raise SourceError(f"table {path} holds no line below its header; expected one line per label")
    for line, row in rows:
        if None in row or None in row.values():
            raise SourceError(
                f"{path} line {line} does not have {len(columns)} fields as line 1 has; mend or delete it"
            )
    return columns, [(line, {name: value.strip() for name, value in row.items()}) for line, row in rows]
