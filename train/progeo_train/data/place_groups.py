"""Which images show the same place (classes), and which classes are told apart in one epoch (groups)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progeo_edge.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class PlaceGroups:
    """Classes of images, ordered by group; every group holds a class, and every class an image.

    Attributes:
        member_rows: (M,) int64, rows of the image table, class after class.
        class_start: (C + 1,) int64; class c holds `member_rows[class_start[c]:class_start[c + 1]]`.
        group_start: (G + 1,) int64; group g holds the classes `group_start[g]` to `group_start[g + 1] - 1`.
        class_names: (C,) what to call a class in messages and pictures.
    """

    member_rows: NDArray[np.int64]
    class_start: NDArray[np.int64]
    group_start: NDArray[np.int64]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        for array in (self.member_rows, self.class_start, self.group_start):
            if array.dtype != np.int64 or array.ndim != 1:
                raise InputError(f"an array of place groups is {array.dtype} {array.shape}; expected 1-D int64")
        if not _partitions(self.class_start, len(self.member_rows)):
            raise InputError("a class holds no image, or class_start does not end with the images")
        if not _partitions(self.group_start, len(self.class_start) - 1):
            raise InputError("a group holds no class, or group_start does not end with the classes")
        if len(self.class_names) != len(self.class_start) - 1:
            raise InputError(f"{len(self.class_names)} class names for {len(self.class_start) - 1} classes")

    @classmethod
    def from_labels(cls, class_of_row: ArrayLike, group_of_class: ArrayLike, class_names: Sequence[str]) -> PlaceGroups:
        """Sort images into classes and classes into groups.

        Args:
            class_of_row: (N,) integer class of every row of the table; -1 leaves the image out.
            group_of_class: (C,) integer group of every class; -1 leaves the class out. Groups are 0..G-1.
            class_names: (C,) names.

        Returns:
            Groups in order; classes of a group in the order of their numbers, rows of a class rising. Classes
            without an image and groups without a class vanish, and what follows moves up.
        """
        rows_class = np.asarray(class_of_row, np.int64)
        class_group = np.asarray(group_of_class, np.int64)
        rows = np.flatnonzero(rows_class >= 0)
        rows = rows[class_group[rows_class[rows]] >= 0]
        rows = rows[np.lexsort((rows, rows_class[rows], class_group[rows_class[rows]]))]
        # Runs of equal class, then runs of equal group among the classes: both are contiguous after the sort.
        class_start = _run_starts(rows_class[rows])
        classes = rows_class[rows[class_start[:-1]]]
        group_start = _run_starts(class_group[classes])
        return cls(rows.astype(np.int64), class_start, group_start, tuple(class_names[number] for number in classes))

    @classmethod
    def concatenate(cls, parts: Sequence[PlaceGroups], num_rows: Sequence[int]) -> PlaceGroups:
        """Join data sets: group g of the result is the union of the groups g of the parts that have one.

        Args:
            parts: One for each data set.
            num_rows: Rows of each data set's table; the rows of part i are moved by the sum of those before it.
        """
        if len(parts) != len(num_rows):
            raise InputError(f"{len(parts)} data sets, but {len(num_rows)} numbers of rows")
        if len(parts) == 1:
            return parts[0]
        offsets = np.concatenate([[0], np.cumsum(num_rows)]).astype(np.int64)
        rows: list[NDArray[np.int64]] = []
        sizes: list[NDArray[np.int64]] = []
        names: list[str] = []
        classes_in_group: list[int] = []
        for group in range(max((part.num_groups for part in parts), default=0)):
            classes_in_group.append(0)
            for part, offset in zip(parts, offsets[:-1], strict=True):
                if group < part.num_groups:
                    first, last = (int(value) for value in part.group_start[group : group + 2])
                    rows.append(part.member_rows[part.class_start[first] : part.class_start[last]] + offset)
                    sizes.append(np.diff(part.class_start[first : last + 1]))
                    names.extend(part.class_names[first:last])
                    classes_in_group[-1] += last - first
        none = np.zeros(0, np.int64)
        return cls(
            np.concatenate([none, *rows]),
            _starts(np.concatenate([none, *sizes])),
            _starts(np.array(classes_in_group, np.int64)),
            tuple(names),
        )

    @property
    def num_groups(self) -> int:
        """Groups, G."""
        return len(self.group_start) - 1

    def num_classes(self, group: int) -> int:
        """Classes of a group: its labels are 0..num_classes - 1."""
        first, last = self._classes(group)
        return last - first

    def num_images(self, group: int) -> int:
        """Images of a group."""
        first, last = self._classes(group)
        return int(self.class_start[last] - self.class_start[first])

    def members(self, group: int, k: int) -> NDArray[np.int64]:
        """Rows of the images of class `k` of a group: (m,) int64, m at least 1."""
        first, last = self._classes(group)
        if not 0 <= k < last - first:
            raise IndexError(f"class {k} of {last - first} in group {group}")
        return self.member_rows[self.class_start[first + k] : self.class_start[first + k + 1]]

    def class_name(self, group: int, k: int) -> str:
        """What to call class `k` of a group."""
        return self.class_names[int(self.group_start[group]) + k]

    def fingerprint(self) -> str:
        """SHA-256 of all that decides about labels and draws, in hexadecimal."""
        digest = hashlib.sha256()
        for array in (self.member_rows, self.class_start, self.group_start):
            digest.update(len(array).to_bytes(8, "little") + np.ascontiguousarray(array, "<i8").tobytes())
        for name in self.class_names:
            encoded = name.encode("utf-8", "surrogateescape")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()

    def _classes(self, group: int) -> tuple[int, int]:
        if not 0 <= group < self.num_groups:
            raise IndexError(f"group {group} of {self.num_groups}")
        return int(self.group_start[group]), int(self.group_start[group + 1])


def _partitions(starts: NDArray[np.int64], end: int) -> bool:
    """Whether `starts` cuts 0..end into pieces that are not empty."""
    return len(starts) > 0 and starts[0] == 0 and starts[-1] == end and bool(np.all(np.diff(starts) > 0))


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _run_starts(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """First index of every run of equal values, and the end."""
    if not len(values):
        return np.zeros(1, np.int64)
    changes = np.flatnonzero(np.diff(values)) + 1
    return np.concatenate([[0], changes, [len(values)]]).astype(np.int64)
