"""A CSV of images with their positions, their places or their times, to a table and its classes."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import SourceError
from progeo_train.config import PlacesConfig
from progeo_train.data.image_table import ImageTable
from progeo_train.data.neighbour_places import place_label_groups, time_window_groups
from progeo_train.data.partition import FULL_CIRCLE_DEG, partition, wrap_heading_deg
from progeo_train.data.place_groups import PlaceGroups

logger = logging.getLogger(__name__)

NUMBERS = ("east_m", "north_m", "heading_deg", "time_s")
LABELS = ("place", "sequence", "region")
CHECKED_FILES = 100

_EXPECTED = (
    "expected in line 1 image and either place, or east_m, north_m and heading_deg, or time_s (and sequence where "
    "there are several); region is optional"
)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Lines:
    """The fields of every line, column by column, for the columns that are known.

    Attributes:
        path: The file, for messages.
        numbers: Line number of each row; a quoted field may span several lines.
        columns: Column name to one text per row.
    """

    path: Path
    numbers: list[int]
    columns: Mapping[str, list[str]]

    def parse(self, column: str, parse: Callable[[str], Value]) -> list[Value]:
        """Parse a column.

        Raises:
            SourceError: naming the line where `parse` raised a ValueError, with what that says.
        """
        values: list[Value] = []
        for number, text in zip(self.numbers, self.columns[column], strict=True):
            try:
                values.append(parse(text))
            except ValueError as error:
                raise SourceError(f"{self.path} line {number}: {column} is {text!r}; expected {error}") from None
        return values


def read_csv_table(path: Path, places: PlacesConfig) -> tuple[ImageTable, PlaceGroups]:
    """Read a CSV with a header, and group its images by what its columns state.

    Places are told by the first of these that is there; the others are kept in the table:

    - `place`: images with the same label are a place;
    - `east_m`, `north_m`, `heading_deg`: CosPlace's partition (without headings when places.heading_deg is 360);
    - `time_s`, optionally `sequence`: images close in time in one sequence are a place.

    `region` may stand beside any: images of different regions never show the same place. Other columns are ignored.

    Args:
        path: The file; images are named relative to its folder, or absolutely.
        places: What a place is.

    Raises:
        SourceError: unreadable file, missing column, a bad line (with its number), or images none of which is found
            (among the first 100), or no place with enough images.
    """
    lines = _read_lines(path)
    table = _to_table(lines)
    _check_files(table, path)
    return table, _group(table, lines, places)


def _group(table: ImageTable, lines: _Lines, places: PlacesConfig) -> PlaceGroups:
    kinds = {"place": ("place",), "positions": ("east_m", "north_m"), "times": ("time_s",)}
    present = [kind for kind, needed in kinds.items() if all(name in lines.columns for name in needed)]
    if not present:
        raise SourceError(f"{lines.path} has no columns that tell places; {_EXPECTED}")
    if len(present) > 1:
        logger.info("%s states %s; classes are made of the %s", lines.path, " and ".join(present), present[0])
    if present[0] == "place":
        return place_label_groups(table, places)
    if present[0] == "times":
        return time_window_groups(table, places)
    if "heading_deg" not in lines.columns and places.heading_deg < FULL_CIRCLE_DEG:
        raise SourceError(
            f"{lines.path} has no column heading_deg, for classes of places.heading_deg = {places.heading_deg:g}; add "
            "it, or set places.heading_deg=360 to make places of positions alone"
        )
    return partition(table.east_m, table.north_m, table.heading_deg, places, table.region)


def _to_table(lines: _Lines) -> ImageTable:
    numbers: dict[str, NDArray[np.float64]] = {
        name: np.array(lines.parse(name, _finite), np.float64) for name in NUMBERS if name in lines.columns
    }
    if "heading_deg" in numbers:
        numbers["heading_deg"] = wrap_heading_deg(numbers["heading_deg"])
    labels = {name: _number_labels(lines.parse(name, _filled)) for name in LABELS if name in lines.columns}
    of_row = {name: rows for name, (rows, _) in labels.items()}
    sequence_names = labels["sequence"][1] if "sequence" in labels else ("",)
    place_names = labels["place"][1] if "place" in labels else ()
    return ImageTable.of(
        lines.path.parent,
        _unique(lines, lines.parse("image", _filled)),
        east_m=numbers.get("east_m"),
        north_m=numbers.get("north_m"),
        heading_deg=numbers.get("heading_deg"),
        time_s=numbers.get("time_s"),
        sequence=of_row.get("sequence"),
        sequence_names=sequence_names,
        region=of_row.get("region"),
        place=of_row.get("place"),
        place_names=place_names,
    )


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("a finite number such as 12.5; mend or delete the line")
    return value


def _filled(text: str) -> str:
    if not text:
        raise ValueError("a name; fill it in or delete the line")
    return text


def _number_labels(labels: list[str]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Number of each label in the order of first appearance, and the labels."""
    number_of: dict[str, int] = {}
    numbers = [number_of.setdefault(label, len(number_of)) for label in labels]
    return np.array(numbers, np.int32), tuple(number_of)


def _unique(lines: _Lines, names: list[str]) -> list[str]:
    seen: set[str] = set()
    for number, name in zip(lines.numbers, names, strict=True):
        if name in seen:
            raise SourceError(f"{lines.path} line {number}: {name} is listed twice; keep one line per image")
        seen.add(name)
    return names


def _check_files(table: ImageTable, path: Path) -> None:
    """Single missing images are noticed when they are read; a wrong folder is noticed here."""
    checked = range(min(CHECKED_FILES, len(table)))
    if not any(table.path(row).is_file() for row in checked):
        raise SourceError(
            f"{path}: none of the first {len(checked)} images exists, such as {table.path(0)}; names are relative to "
            "the folder of the CSV: move it there, or write names as seen from it"
        )


def _read_lines(path: Path) -> _Lines:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            known = _known_columns(header, path)
            columns: dict[str, list[str]] = {name: [] for name in known}
            numbers: list[int] = []
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise SourceError(
                        f"{path} line {reader.line_num}: {len(fields)} fields, but line 1 names {len(header)}; mend "
                        "or delete the line"
                    )
                numbers.append(reader.line_num)
                for name, index in known.items():
                    columns[name].append(fields[index].strip())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"table {path} cannot be read: {error}; expected a comma-separated file in UTF-8") from error
    if not numbers:
        raise SourceError(f"{path} holds no line below its header; expected one line per image")
    return _Lines(path, numbers, columns)


def _known_columns(header: list[str], path: Path) -> dict[str, int]:
    known = {name: header.index(name) for name in ("image", *NUMBERS, *LABELS) if name in header}
    twice = [name for name in known if header.count(name) > 1]
    if twice:
        raise SourceError(f"{path} has several columns called {twice[0]}; keep one")
    if "image" not in known:
        shown = ", ".join(islice(header, 12)) or "nothing"
        raise SourceError(f"{path} has no column image, but {shown}; {_EXPECTED}")
    return known
