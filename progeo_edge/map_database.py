"""The SQLite file under a map: opening it, transactions, rows checked on reading, errors in plain words."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from progeo_edge.atomic import replacing
from progeo_edge.errors import MapError
from progeo_edge.map_opening import RESCUE, connect, create_file, map_name, open_file, plain_errors, refuse_existing
from progeo_edge.map_schema import COLUMNS, COUNTED, SqlValue, create_tables, insert_row, row_checksum

Row = tuple[SqlValue, ...]


class MapDatabase:
    """One open map file. Safe to use from several threads: every operation holds a lock.

    Attributes:
        path: The file; None for a map in memory.
        read_only: Whether writing is refused.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self._connection = connection
        self._lock = threading.RLock()
        self._writing = False
        self._closed = False

    @classmethod
    def create(cls, path: Path | None, header: Mapping[str, str]) -> MapDatabase:
        """Lay out an empty map; on disk under a temporary name first, so that no half-made map is ever seen.

        Args:
            path: The new file; None for a map in memory.
            header: Rows of the table meta.

        Raises:
            MapError: the file exists, or the folder cannot be written.
        """
        if path is None:
            connection = connect(":memory:")
            create_tables(connection, header)
            return cls(connection, None, read_only=False)
        create_file(path, header)
        return cls.open(path, read_only=False)

    @classmethod
    def open(cls, path: Path, *, read_only: bool) -> MapDatabase:
        """Open a map, and bring an older schema up to date.

        Raises:
            MapError: missing, not a map, of a newer schema, damaged, or not writable when it must be.
        """
        return cls(open_file(path, read_only=read_only), path, read_only=read_only)

    def close(self) -> None:
        """Close the file; twice is fine."""
        with self._lock:
            self._closed = True
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on the disk when it returns. Inside another transaction it is a part of that one.

        Raises:
            MapError: the map is read-only, the disk is full, another process keeps writing.
        """
        with self._lock, self._errors():
            if self.read_only:
                raise MapError(f"{map_name(self.path)} was opened read-only; open it with read_only=False to write")
            if self._writing:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            self._writing = True
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._writing = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One consistent view, whatever another process writes meanwhile; inside a transaction, what that one sees."""
        with self._lock, self._errors():
            if self._writing:
                yield
                return
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._roll_back()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        if self._closed:
            raise MapError(f"{map_name(self.path)} is closed; open it again to use it")
        with plain_errors(self.path):
            yield

    def insert(self, table: str, values: Sequence[SqlValue]) -> None:
        """Add one row, its checksum, and count it; inside `transaction`."""
        checksum = insert_row(self._connection, table, values)
        key = values[0]
        self._count(table, 1, checksum, key + 1 if isinstance(key, int) else 0)

    def delete(self, table: str, key: SqlValue) -> None:
        """Remove one row if it is there; inside `transaction`."""
        row = self.row(table, key)
        if row is not None:
            self._connection.execute(f"DELETE FROM {table} WHERE {COLUMNS[table][0]} = ?", (key,))
            self._count(table, -1, row_checksum(table, row), 0)

    def _count(self, table: str, added: int, checksum: int, next_id: int) -> None:
        num_rows, digest, old_next_id = self.tally(table)
        tally: Row = (table, num_rows + added, digest ^ checksum, max(old_next_id, next_id))
        self._connection.execute("REPLACE INTO tally VALUES (?, ?, ?, ?, ?)", (*tally, row_checksum("tally", tally)))

    def tally(self, table: str) -> tuple[int, int, int]:
        """Number of rows, exclusive or of their checksums, and the next free id of a table."""
        row = self.row("tally", table)
        if row is None:
            raise self.damaged(f"the count of {table} is missing")
        _, num_rows, digest, next_id = row
        assert isinstance(num_rows, int) and isinstance(digest, int) and isinstance(next_id, int)
        return num_rows, digest, next_id

    def row(self, table: str, key: SqlValue) -> Row | None:
        """One row without its checksum, checked; None when it is not there (see `confirm_absent`)."""
        cursor = self._connection.execute(f"SELECT * FROM {table} WHERE {COLUMNS[table][0]} = ?", (key,))
        row = cursor.fetchone()
        return None if row is None else self._checked(table, row)

    def rows(self, table: str) -> Iterator[Row]:
        """All rows in the order of their key, each checked; after the last one, that none is lost or doubled."""
        num_rows, digest, _ = self.tally(table)
        for row in self._connection.execute(f"SELECT * FROM {table} ORDER BY {COLUMNS[table][0]}"):
            yield self._checked(table, row)
            num_rows -= 1
            digest ^= row[-1]
        if num_rows != 0 or digest != 0:
            raise self.damaged(f"{abs(num_rows)} rows of {table} are lost or doubled")

    def confirm_absent(self, table: str, key: SqlValue) -> None:
        """Make sure that a key was not merely lost: reads the whole table.

        Raises:
            MapError: the table is damaged.
        """
        if any(row[0] == key for row in self.rows(table)):
            raise self.damaged(f"{_row_name(table, key)} is not found under its key")

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Rows and bytes of content per table, without reading the content."""
        result: dict[str, tuple[int, int]] = {}
        for table in COUNTED:
            content = " + ".join(f"COALESCE(LENGTH({name}), 0)" for name in COLUMNS[table])
            query = f"SELECT COUNT(*), COALESCE(SUM({content}), 0) FROM {table}"
            result[table] = self._connection.execute(query).fetchone()
        return result

    def copy_to(self, path: Path, header: Mapping[str, str]) -> None:
        """Write a copy of everything, the log included, with other rows in the table meta.

        Raises:
            MapError: the file exists, or cannot be written.
        """
        with self._lock, self._errors():
            refuse_existing(path)
            with replacing(path) as temporary:
                copy = MapDatabase(connect(str(temporary)), temporary, read_only=False)
                try:
                    self._connection.backup(copy._connection)
                    with copy.transaction():
                        for key, value in header.items():
                            copy.delete("meta", key)
                            copy.insert("meta", (key, value))
                finally:
                    copy.close()

    def structure_problems(self) -> list[str]:
        """What SQLite's own check finds; empty when the pages are in order. Reads the whole file."""
        rows = self._connection.execute("PRAGMA quick_check(20)").fetchall()
        return [text for (text,) in rows if text != "ok"]

    def damaged(self, what: str) -> MapError:
        """The error for content that is not what was written."""
        return MapError(f"{map_name(self.path)} is damaged: {what}; {RESCUE}")

    def _checked(self, table: str, row: tuple[SqlValue, ...]) -> Row:
        *values, checksum = row
        if len(values) != len(COLUMNS[table]) or row_checksum(table, values) != checksum:
            raise self.damaged(f"{_row_name(table, values[0])} does not match its checksum")
        return tuple(values)


def _row_name(table: str, key: SqlValue) -> str:
    return {
        "keyframes": f"keyframe {key!r}",
        "closures": f"closure {key!r}",
        "sessions": f"session {key!r}",
        "meta": "the header",
        "tally": "the row count",
        "documents": f"document {key!r}",
        "blobs": f"blob {key!r}",
    }.get(table, f"{table} of keyframe {key!r}")
