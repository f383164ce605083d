"""All images that a training run draws from: any number of folders, tables, recordings and maps as one data set."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import SourceError
from progeo_train.config import PlacesConfig, TrainConfig
from progeo_train.data.csv_table import read_csv_table
from progeo_train.data.image_table import ImageTable
from progeo_train.data.map_images import read_map
from progeo_train.data.place_groups import PlaceGroups
from progeo_train.data.recording import read_recording, split_options
from progeo_train.data.scan_cache import Progress, scan_images
from progeo_train.data.utm_folder import read_utm_folder

logger = logging.getLogger(__name__)

PEEKED_NAMES = 100
"""A folder with an "@" in one of so many file names is one of images named by their position."""

_SQLITE_MAGIC = b"SQLite format 3\x00"
_MAP_SUFFIX = ".progeo"


@dataclass(frozen=True, slots=True)
class DataSummary:
    """What was read, and what of it is used.

    Attributes:
        specs: What the user named.
        num_images: Images found.
        num_used: Images that belong to a class of a group.
        num_without_position: Images without a position, of data sets that state positions.
        num_without_heading: Images without a heading, of data sets that state headings.
        num_single: Classes left out because they were alone in their group, with nothing to be told apart from.
        classes_per_group: Classes of every group.
        images_per_group: Images of every group.
        min_images_per_class: Classes with fewer images are left out.
    """

    specs: tuple[str, ...]
    num_images: int
    num_used: int
    num_without_position: int
    num_without_heading: int
    num_single: int
    classes_per_group: tuple[int, ...]
    images_per_group: tuple[int, ...]
    min_images_per_class: int

    def describe(self) -> str:
        """One paragraph for people."""
        groups = len(self.classes_per_group)
        text = (
            f"{self.num_used} of {self.num_images} images of {', '.join(self.specs)} show "
            f"{sum(self.classes_per_group)} places in {groups} group{'s' if groups > 1 else ''} "
            f"({', '.join(str(count) for count in self.classes_per_group)} places)."
        )
        unused = self.num_images - self.num_used
        if unused:
            text += (
                f" {unused} images are left out: their position, heading or time is unknown, their place has fewer "
                f"than {self.min_images_per_class} images, or it is in none of the groups used."
            )
        absent = [
            f"{count} have no {name}"
            for name, count in (
                ("position", self.num_without_position),
                ("heading", self.num_without_heading),
            )
            if count
        ]
        if absent:
            text += f" Of them, {' and '.join(absent)} though others of their data set have."
        if self.num_single:
            text += f" {self.num_single} places were alone in their group, which leaves nothing to tell apart."
        return text


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """Images of one or several data sets under one numbering: the rows of the first, then those of the second ...

    Attributes:
        tables: One per data set.
        groups: Classes and groups; their rows count over all tables.
        summary: What was read, for people.
    """

    tables: tuple[ImageTable, ...]
    groups: PlaceGroups
    summary: DataSummary

    def __len__(self) -> int:
        return sum(len(table) for table in self.tables)

    def path(self, row: int) -> Path:
        """Where the image of a row over all tables lies."""
        first = row
        for table in self.tables:
            if 0 <= first < len(table):
                return table.path(first)
            first -= len(table)
        raise IndexError(f"image {row} of {len(self)}")

    def fingerprint(self) -> str:
        """SHA-256 over all image names and groups, in hexadecimal; the contents of the images are not read."""
        digest = hashlib.sha256()
        for table in self.tables:
            digest.update(len(table).to_bytes(8, "little") + len(table.names.blob).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(table.names.offsets, "<i8").tobytes())
            digest.update(table.names.blob)
        digest.update(self.groups.fingerprint().encode())
        return digest.hexdigest()


def open_training_set(
    specs: Sequence[str], config: TrainConfig, cache: Path, progress: Progress | None = None
) -> TrainingSet:
    """Read everything that a run trains on.

    Different specs are taken to show different places: recordings of one place belong into one map, or into one CSV
    with a column of regions.

    Args:
        specs: Each a folder with "@" in its file names, a .csv of `read_csv_table`, a map ("MAP" or "MAP@RECORDING"),
            or a recording (a folder of images, a video, a data set, a bag; with options behind "?").
        config: Settings; only `places` decides here.
        cache: Folder for lists of names and for frames of recordings.
        progress: Called with the number of images or frames read since the last call.

    Raises:
        SourceError: nothing named, a spec that cannot be read, or no group of at least two places.
        MapError: a map that cannot be read.
    """
    if not specs:
        raise SourceError("no training data named; expected a folder, a .csv, a recording or a map after --data")
    tables, parts = [], []
    for spec in specs:
        table, groups = _read(spec, config.places, cache, progress)
        logger.info(
            "%s: %d images, %d places in %d groups", spec, len(table), len(groups.class_names), groups.num_groups
        )
        tables.append(table)
        parts.append(groups)
    joined = PlaceGroups.concatenate(parts, [len(table) for table in tables])
    groups = _without_single_classes(joined)
    if not groups.num_groups:
        raise SourceError(
            f"{', '.join(specs)}: {len(joined.class_names)} place{'s' if len(joined.class_names) > 1 else ''} with at "
            f"least {config.places.min_images_per_class} images, none of which may be told apart from another; "
            f"expected two in a group: give more data, or lower places.min_images_per_class, places.min_gap_s or "
            f"places.min_gap_m"
        )
    return TrainingSet(tuple(tables), groups, _summarise(specs, tables, joined, groups, config.places))


def _read(spec: str, places: PlacesConfig, cache: Path, progress: Progress | None) -> tuple[ImageTable, PlaceGroups]:
    """Find out what a spec is, by looking."""
    map_path, recording = split_map(spec)
    if map_path is not None:
        return read_map(map_path, places, cache, recording, progress)
    path, options = split_options(spec)
    if not path.exists():
        raise SourceError(f"training data {path} does not exist; check the path")
    if not options and path.is_file() and path.suffix.lower() == ".csv":
        return read_csv_table(path, places)
    if not options and path.is_dir() and _has_positions_in_names(path, cache, progress):
        return read_utm_folder(path, places, cache, progress)
    return read_recording(spec, places, cache, progress)


def split_map(spec: str) -> tuple[Path | None, str | None]:
    """Map and recording of "MAP" or "MAP@RECORDING"; (None, None) when it is no map."""
    for position in [len(spec), *(index for index, letter in enumerate(spec) if letter == "@")]:
        path = Path(spec[:position])
        if _is_map(path):
            return path, spec[position + 1 :] or None
    return None, None


def _is_map(path: Path) -> bool:
    if not path.is_file() or path.suffix.lower() == ".db3":
        return False
    try:
        with path.open("rb") as file:
            return path.suffix.lower() == _MAP_SUFFIX or file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    except OSError as error:
        raise SourceError(f"training data {path} cannot be read: {error.strerror}; make it readable") from error


def _has_positions_in_names(folder: Path, cache: Path, progress: Progress | None) -> bool:
    """The list of names is cached, so that `read_utm_folder` does not walk again."""
    try:
        names = scan_images(folder, cache, progress)
    except SourceError:
        return False  # A bag holds no image files; and of what holds nothing at all the sources speak best.
    return any("@" in name for name in islice(names, PEEKED_NAMES))


def _without_single_classes(groups: PlaceGroups) -> PlaceGroups:
    """A class alone in its group cannot be told from anything: the group would spend its epochs on nothing."""
    sizes = np.diff(groups.class_start)
    group_of_class = np.repeat(np.arange(groups.num_groups), np.diff(groups.group_start))
    kept = np.diff(groups.group_start)[group_of_class] > 1
    if kept.all():
        return groups
    return PlaceGroups(
        groups.member_rows[np.repeat(kept, sizes)],
        _starts(sizes[kept]),
        _starts(np.unique(group_of_class[kept], return_counts=True)[1]),
        tuple(name for name, keep in zip(groups.class_names, kept, strict=True) if keep),
    )


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _summarise(
    specs: Sequence[str],
    tables: Sequence[ImageTable],
    joined: PlaceGroups,
    groups: PlaceGroups,
    places: PlacesConfig,
) -> DataSummary:
    return DataSummary(
        specs=tuple(specs),
        num_images=sum(len(table) for table in tables),
        num_used=len(np.unique(groups.member_rows)),
        num_without_position=sum(_num_missing(table.east_m + table.north_m) for table in tables),
        num_without_heading=sum(_num_missing(table.heading_deg) for table in tables),
        num_single=len(joined.class_names) - len(groups.class_names),
        classes_per_group=tuple(groups.num_classes(group) for group in range(groups.num_groups)),
        images_per_group=tuple(groups.num_images(group) for group in range(groups.num_groups)),
        min_images_per_class=places.min_images_per_class,
    )


def _num_missing(column: NDArray[np.float64]) -> int:
    missing = np.isnan(column)
    return 0 if missing.all() else int(missing.sum())
