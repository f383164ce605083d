"""Features of many images in one folder, written by several processes, and safe to interrupt at any moment.

    features.npy       (N, D) float32 or float16, of its full size from the start
    done.<rank>.bin    one byte per chunk of rows, of one process: 0 open, 1 done, 2 done with unreadable images
    description.json   rows, dimension, type, chunk, and the key of what the features were computed from
    unreadable.txt     the images that could not be read, one per line

A chunk counts as done when any process has marked it, and it is marked only after its rows are on the disk. Everything
else can therefore be torn: rows of a chunk that is not marked are computed again. Each process has a mark file of its
own, and chunks begin and end at pages, because network file systems may write whole pages back and would undo the
neighbour's bytes.
"""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from progeo_edge.errors import InputError, SourceError
from progeo_train.feature_storage import (
    DESCRIPTION,
    FEATURES,
    MARKS,
    PAGE_BYTES,
    DamagedFeaturesError,
    Description,
    FeatureType,
    check_features,
    create,
    read_description,
    remove_marks,
    write_durably,
)

_log = logging.getLogger(__name__)

MIN_CHUNK_ROWS, MAX_CHUNK_ROWS = 64, 1024
CHUNKS_PER_PROCESS = 32

OPEN, DONE, DONE_WITH_UNREADABLE = 0, 1, 2


class FeatureFile:
    """Rows of features, some of them perhaps still to be computed. Make one with `open_or_create` or `open_existing`.

    Attributes:
        folder: Where the files lie.
        description: Their shape and key.
    """

    def __init__(self, folder: Path, description: Description) -> None:
        self.folder = folder
        self.description = description

    @classmethod
    def open_or_create(
        cls,
        folder: Path,
        num_rows: int,
        dim: int,
        key: str,
        *,
        dtype: FeatureType = "float32",
        chunk_rows: int | None = None,
        world_size: int = 1,
    ) -> FeatureFile:
        """Continue what the folder holds, or begin anew and say why. One process calls this before the others open.

        A file of another key, shape or type, and a damaged one, is replaced; the log names the reason.

        Args:
            folder: Created when missing.
            num_rows: N.
            dim: D.
            key: sha256 over all that the features depend on: images, weights, preprocessing.
            dtype: How numbers are stored.
            chunk_rows: Rows that are marked together; None chooses by `num_rows` and `world_size`. A file that is
                continued keeps its own.
            world_size: Processes that share the work.

        Raises:
            InputError: no rows, no dimension or no key.
            SourceError: the folder cannot be written, lacks the space, or holds a features.npy of other origin.
        """
        chunk_rows = chunk_rows or _suitable_chunk(num_rows, world_size)
        try:
            wanted = Description(num_rows=num_rows, dim=dim, dtype=dtype, key=key, chunk_rows=chunk_rows)
        except ValidationError as error:
            raise InputError(f"{num_rows} rows of {dim} features under key {key!r} cannot be stored") from error
        try:
            reason = _reason_to_replace(folder, wanted)
            if reason is None:
                return cls.open_existing(folder, complete=False)
            if reason:
                _log.warning("features in %s are computed anew: %s", folder, reason)
            create(folder, wanted)
        except OSError as error:
            needed_gb = num_rows * dim * np.dtype(dtype).itemsize / 1e9
            raise SourceError(
                f"{folder} cannot hold {needed_gb:.2f} GB of features: {error.strerror or error}; "
                "choose a folder that can be written and has the space"
            ) from error
        return cls(folder, wanted)

    @classmethod
    def open_existing(cls, folder: Path, *, key: str | None = None, complete: bool = True) -> FeatureFile:
        """Open a folder as it is; nothing is changed.

        Args:
            folder: Written by `open_or_create`.
            key: What the features must have been computed from; None takes any.
            complete: Whether every row must be done.

        Raises:
            SourceError: missing, truncated or otherwise damaged, of another key, or not complete.
        """
        description = read_description(folder)
        check_features(folder, description)
        file = cls(folder, description)
        states = file.states()
        if key is not None and key != description.key:
            raise SourceError(
                f"features in {folder} were computed from other images, weights or settings (key "
                f"{description.key[:12]}, expected {key[:12]}); extract them again"
            )
        if complete and not states.all():
            raise SourceError(
                f"features in {folder} are not complete: {file.num_done} of {file.num_rows} rows; run the extraction "
                "again, it continues where it stopped"
            )
        return file

    @property
    def num_rows(self) -> int:
        """N, rows with and without a readable image."""
        return self.description.num_rows

    @property
    def dim(self) -> int:
        """D, numbers per row."""
        return self.description.dim

    @property
    def num_chunks(self) -> int:
        """Chunks of rows; the last one may be shorter."""
        return -(-self.num_rows // self.description.chunk_rows)

    @property
    def num_done(self) -> int:
        """Rows that are on the disk, by whatever process."""
        return sum(len(self.rows_of(int(chunk))) for chunk in np.flatnonzero(self.states()))

    @property
    def is_complete(self) -> bool:
        """Every row is on the disk."""
        return bool(self.states().all())

    def __len__(self) -> int:
        return self.num_rows

    def rows_of(self, chunk: int) -> range:
        """Rows of a chunk."""
        size = self.description.chunk_rows
        return range(chunk * size, min((chunk + 1) * size, self.num_rows))

    def open_chunks(self, rank: int = 0, world_size: int = 1) -> list[int]:
        """Chunks still to be computed by this process: chunk i is that of process i modulo `world_size`."""
        return [int(chunk) for chunk in np.flatnonzero(self.states() == OPEN) if chunk % world_size == rank]

    def states(self) -> NDArray[np.uint8]:
        """State of each chunk, (num_chunks,): OPEN, DONE or DONE_WITH_UNREADABLE.

        Raises:
            DamagedFeaturesError: a file of marks holds something else.
        """
        states = np.zeros(self.num_chunks, np.uint8)
        for path in self.folder.glob(MARKS):
            marks = np.fromfile(path, np.uint8)
            if len(marks) > len(states) or np.any(marks > DONE_WITH_UNREADABLE):
                raise DamagedFeaturesError(self.folder, f"{path.name} does not hold the states of {len(states)} chunks")
            np.maximum(states[: len(marks)], marks, out=states[: len(marks)])
        return states

    def write_chunk(self, chunk: int, values: NDArray[Any], rank: int = 0) -> None:
        """Put a chunk on the disk, then mark it. A row of an unreadable image is NaN throughout.

        Args:
            chunk: Which.
            values: (rows of the chunk, D).
            rank: The process that writes; no two may share a number.

        Raises:
            InputError: another shape, or infinite values once they are stored (float16 ends at 65504).
            SourceError: the disk does not take it.
        """
        rows = self.rows_of(chunk)
        # A feature that overflows float16 is reported below, with its row.
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(values, self.description.dtype)
        if stored.shape != (len(rows), self.dim):
            raise InputError(f"chunk {chunk} has shape {stored.shape}; expected {(len(rows), self.dim)}")
        missing = np.isnan(stored).all(axis=1)
        if not np.isfinite(stored[~missing]).all():
            wrong = rows[int(np.flatnonzero(~np.isfinite(stored).all(axis=1) & ~missing)[0])]
            raise InputError(f"features of row {wrong} are not finite as {self.description.dtype}; check the model")
        state = DONE_WITH_UNREADABLE if missing.any() else DONE
        try:
            write_durably(self.folder / FEATURES, PAGE_BYTES + rows.start * self._row_bytes, stored.tobytes())
            write_durably(self.folder / f"done.{rank}.bin", chunk, bytes([state]), create=True)
        except OSError as error:
            raise SourceError(
                f"features in {self.folder} cannot be written: {error.strerror or error}; what is done is kept, "
                "run again when there is space"
            ) from error

    def read_rows(self, start: int, stop: int) -> NDArray[Any]:
        """A copy of rows [start, stop), (stop - start, D), that leaves no page of the file mapped into the process."""
        count = max(0, min(stop, self.num_rows) - start)
        offset = PAGE_BYTES + start * self._row_bytes
        flat = np.fromfile(self.folder / FEATURES, self.description.dtype, count * self.dim, offset=offset)
        return flat.reshape(count, self.dim)

    @cached_property
    def features(self) -> NDArray[Any]:
        """(N, D), mapped read-only; rows of unreadable images are NaN.

        Raises:
            SourceError: rows are still to be computed.
        """
        if not self.is_complete:
            raise SourceError(f"features in {self.folder} are not complete: {self.num_done} of {self.num_rows} rows")
        shape = (self.num_rows, self.dim)
        return np.memmap(self.folder / FEATURES, self.description.dtype, "r", PAGE_BYTES, shape)

    @cached_property
    def readable(self) -> NDArray[np.bool_]:
        """(N,): the image of the row could be read; False also where the row is still to be computed."""
        states = self.states()
        readable = np.repeat(states != OPEN, self.description.chunk_rows)[: self.num_rows]
        for chunk in np.flatnonzero(states == DONE_WITH_UNREADABLE):
            rows = self.rows_of(int(chunk))
            readable[rows.start : rows.stop] = ~np.isnan(self.read_rows(rows.start, rows.stop)[:, 0])
        return readable

    def forget(self) -> None:
        """Take every mark away, so that all rows are computed again."""
        remove_marks(self.folder)
        self.__dict__.pop("readable", None)
        self.__dict__.pop("features", None)

    @property
    def _row_bytes(self) -> int:
        return self.dim * np.dtype(self.description.dtype).itemsize


def _suitable_chunk(num_rows: int, world_size: int) -> int:
    """A power of two that gives every process some chunks, and marks a large file not too often."""
    chunk = MAX_CHUNK_ROWS
    while chunk > MIN_CHUNK_ROWS and num_rows < chunk * world_size * CHUNKS_PER_PROCESS:
        chunk //= 2
    return chunk


def _reason_to_replace(folder: Path, wanted: Description) -> str | None:
    """None: the folder can be continued; "": there is nothing; otherwise what is wrong with what there is."""
    if not (folder / DESCRIPTION).exists():
        if (folder / FEATURES).exists():
            raise SourceError(
                f"{folder} holds a {FEATURES} without {DESCRIPTION}, so it was not written here; choose another folder"
            )
        return ""
    try:
        found = read_description(folder)
        if found.key != wanted.key:
            return f"images, weights or settings have changed (key {found.key[:12]}, now {wanted.key[:12]})"
        shapes = [(one.num_rows, one.dim, one.dtype) for one in (found, wanted)]
        if shapes[0] != shapes[1]:
            return f"they are {shapes[0]} and should be {shapes[1]} (rows, dimension, type)"
        check_features(folder, found)
        FeatureFile(folder, found).states()
    except DamagedFeaturesError as damage:
        return damage.reason
    return None
