"""What is known of every image of one data set: its name, position, heading, time, sequence, region and place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progeo_edge.errors import InputError

UNKNOWN = -1

Number = TypeVar("Number", bound=np.generic)


class ImageNames:
    """Immutable list of file names, held as one blob of UTF-8 and the offsets into it.

    A million names are two buffers instead of a million objects, in every process that reads images. Names that are
    no valid UTF-8 on disk survive (Python's "surrogateescape").

    Attributes:
        blob: All names, one after the other, without a separator.
        offsets: (N + 1,) int64; name i is `blob[offsets[i]:offsets[i + 1]]`.
    """

    __slots__ = ("blob", "offsets")

    def __init__(self, blob: bytes, offsets: NDArray[np.int64]) -> None:
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(blob) or np.any(np.diff(offsets) < 0):
            raise InputError(f"the offsets of {len(blob)} bytes of names do not rise from 0 to {len(blob)}")
        self.blob = blob
        self.offsets = offsets

    @classmethod
    def from_names(cls, names: Iterable[str]) -> ImageNames:
        """Pack names, in their order."""
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(name) for name in encoded], out=offsets[1:])
        return cls(b"".join(encoded), offsets)

    def select(self, rows: NDArray[np.int64]) -> ImageNames:
        """The names of these rows, in this order."""
        starts, lengths = self.offsets[rows], np.diff(self.offsets)[rows]
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        # Byte b of the new blob stands as far behind the start of its name as in the old one.
        sources = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return ImageNames(np.frombuffer(self.blob, np.uint8)[sources].tobytes(), offsets)

    def fingerprint(self) -> str:
        """sha256 (hex) over all names in their order."""
        return hashlib.sha256(self.offsets.tobytes() + self.blob).hexdigest()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> str:
        if not 0 <= row < len(self):
            raise IndexError(f"image {row} of {len(self)}")
        return self.blob[self.offsets[row] : self.offsets[row + 1]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImageNames):
            return NotImplemented
        return self.blob == other.blob and np.array_equal(self.offsets, other.offsets)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, eq=False)
class ImageTable:
    """One row per image of one data set.

    Attributes:
        root: Folder that the names are relative to.
        names: (N,) file names with "/" between folders.
        east_m: (N,) float64, metres in a metric frame such as UTM; NaN is unknown.
        north_m: (N,) float64, as east_m.
        heading_deg: (N,) float64 in [0, 360); NaN is unknown.
        time_s: (N,) float64, seconds on the clock of the image's sequence; NaN is unknown.
        sequence: (N,) int32, row of `sequence_names`.
        sequence_names: Recordings that the images come from; at least one.
        region: (N,) int32, images of different regions never show the same place; -1 is unknown.
        place: (N,) int32, row of `place_names`; -1 is unlabelled.
        place_names: Labels given by the user.
    """

    root: Path
    names: ImageNames
    east_m: NDArray[np.float64]
    north_m: NDArray[np.float64]
    heading_deg: NDArray[np.float64]
    time_s: NDArray[np.float64]
    sequence: NDArray[np.int32]
    sequence_names: tuple[str, ...]
    region: NDArray[np.int32]
    place: NDArray[np.int32]
    place_names: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in _COLUMNS:
            column = getattr(self, name)
            if column.shape != (len(self.names),):
                raise InputError(f"column {name} has shape {column.shape}; expected one value for {len(self)} images")

    @classmethod
    def of(
        cls,
        root: Path,
        names: ImageNames | Iterable[str],
        *,
        east_m: ArrayLike | None = None,
        north_m: ArrayLike | None = None,
        heading_deg: ArrayLike | None = None,
        time_s: ArrayLike | None = None,
        sequence: ArrayLike | None = None,
        sequence_names: Sequence[str] = ("",),
        region: ArrayLike | None = None,
        place: ArrayLike | None = None,
        place_names: Sequence[str] = (),
    ) -> ImageTable:
        """Build a table; None fills a column with its "unknown" (the sequence: with 0).

        Raises:
            InputError: a column that does not have one value per name.
        """
        packed = names if isinstance(names, ImageNames) else ImageNames.from_names(names)
        count = len(packed)
        return cls(
            root=root,
            names=packed,
            east_m=_column(east_m, count, np.nan, np.float64),
            north_m=_column(north_m, count, np.nan, np.float64),
            heading_deg=_column(heading_deg, count, np.nan, np.float64),
            time_s=_column(time_s, count, np.nan, np.float64),
            sequence=_column(sequence, count, 0, np.int32),
            sequence_names=tuple(sequence_names),
            region=_column(region, count, UNKNOWN, np.int32),
            place=_column(place, count, UNKNOWN, np.int32),
            place_names=tuple(place_names),
        )

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> Path:
        """Where the image of a row lies."""
        return self.root / self.names[row]

    def select(self, rows: ArrayLike) -> ImageTable:
        """The table of these rows (indices or a mask), in this order; names of sequences and places stay."""
        chosen = np.asarray(rows)
        indices = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        return ImageTable.of(
            self.root,
            self.names.select(indices),
            sequence_names=self.sequence_names,
            place_names=self.place_names,
            **{name: getattr(self, name)[indices] for name in _COLUMNS},
        )


_COLUMNS = ("east_m", "north_m", "heading_deg", "time_s", "sequence", "region", "place")


def _column(values: ArrayLike | None, count: int, unknown: float, dtype: type[Number]) -> NDArray[Number]:
    return np.full(count, unknown, dtype) if values is None else np.asarray(values, dtype)
