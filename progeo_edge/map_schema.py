"""Layout of a map file: tables, checksums and migrations. `docs/map.md` describes the same for other readers."""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

SqlValue: TypeAlias = "int | float | str | bytes | None"

APPLICATION_ID = 0x5047_4D50
"""`PRAGMA application_id` of a map: "PGMP"."""

SCHEMA_VERSION = 1
"""`PRAGMA user_version` of the maps that this version writes."""

PARTS: tuple[str, ...] = ("descriptors", "features", "appearances", "thumbnails")
"""Tables that hold one blob per keyframe; the n-th has the bit 1 << n in `keyframes.parts`."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "meta": ("key", "value"),
    "tally": ("key", "num_rows", "digest", "next_id"),
    "documents": ("key", "value"),
    "blobs": ("key", "value"),
    "sessions": ("id", "name", "started_ns", "camera", "config_yaml"),
    "keyframes": ("id", "session", "stamp_ns", "name", "camera", "status", "T_odom_base", "parts"),
    "closures": (
        "id",
        "query",
        "reference",
        "similarity",
        "probability",
        "odom_mahalanobis",
        "status",
        "pose_kind",
        "scale_source",
        "num_matches",
        "num_inliers",
        "inlier_ratio",
        "coverage",
        "reprojection_rmse_px",
        "T_reference_query",
        "covariance",
        "query_px",
        "reference_px",
    ),
    **dict.fromkeys(PARTS, ("id", "data")),
}
"""Columns of every table, the key first; each table ends with one more, `checksum`."""

COUNTED: tuple[str, ...] = ("meta", "documents", "blobs", "sessions", "keyframes", "closures", *PARTS)
"""Tables whose number of rows stands in `tally`, so that a lost row is noticed."""

_DDL = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE tally (
    key TEXT PRIMARY KEY, num_rows INTEGER NOT NULL, digest INTEGER NOT NULL, next_id INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE documents (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE blobs (key TEXT PRIMARY KEY, value BLOB NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, started_ns INTEGER NOT NULL, camera TEXT, config_yaml TEXT NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE TABLE keyframes (
    id INTEGER PRIMARY KEY, session INTEGER NOT NULL, stamp_ns INTEGER NOT NULL, name TEXT NOT NULL,
    camera TEXT NOT NULL, status TEXT NOT NULL, T_odom_base BLOB, parts INTEGER NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE closures (
    id INTEGER PRIMARY KEY, query INTEGER NOT NULL, reference INTEGER NOT NULL, similarity REAL NOT NULL,
    probability REAL, odom_mahalanobis REAL, status TEXT, pose_kind TEXT, scale_source TEXT, num_matches INTEGER,
    num_inliers INTEGER, inlier_ratio REAL, coverage REAL, reprojection_rmse_px REAL, T_reference_query BLOB,
    covariance BLOB, query_px BLOB, reference_px BLOB, checksum INTEGER NOT NULL
);
CREATE TABLE descriptors (id INTEGER PRIMARY KEY, data BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE features (id INTEGER PRIMARY KEY, data BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE appearances (id INTEGER PRIMARY KEY, data BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE thumbnails (id INTEGER PRIMARY KEY, data BLOB NOT NULL, checksum INTEGER NOT NULL);
"""

Migration: TypeAlias = Callable[[sqlite3.Connection], None]

MIGRATIONS: dict[int, Migration] = {}
"""Step from schema n to n + 1, run inside a transaction that `migrate` opens. Schema 1 is the first: none yet."""


def create_tables(connection: sqlite3.Connection, header: Mapping[str, str]) -> None:
    """Lay out an empty map inside the caller's transaction.

    Args:
        connection: An empty database.
        header: Rows of the table meta.
    """
    for statement in _DDL.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    digest = 0
    for key, value in header.items():
        digest ^= insert_row(connection, "meta", (key, value))
    for table in COUNTED:
        insert_row(connection, "tally", (table, len(header), digest, 0) if table == "meta" else (table, 0, 0, 0))


def insert_row(connection: sqlite3.Connection, table: str, values: Sequence[SqlValue]) -> int:
    """Add one row with its checksum, which is returned."""
    checksum = row_checksum(table, values)
    connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * (len(values) + 1))})", (*values, checksum))
    return checksum


def migrate(connection: sqlite3.Connection, version: int, steps: Mapping[int, Migration], target: int) -> None:
    """Bring a map from `version` to `target`, step by step, all or nothing.

    Raises:
        KeyError: no step leads on from a version.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number in range(version, target):
            steps[number](connection)
        connection.execute(f"PRAGMA user_version = {target}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def row_checksum(table: str, values: Sequence[SqlValue]) -> int:
    """CRC-32 (zlib) over the table's name and the values in column order, each with its type and length.

    The name and the key are part of it, so that a row cannot pass for another one.
    """
    crc = zlib.crc32(table.encode())
    for value in values:
        if value is None:
            crc = zlib.crc32(b"n", crc)
        elif isinstance(value, int):
            crc = zlib.crc32(b"i" + struct.pack("<q", value), crc)
        elif isinstance(value, float):
            crc = zlib.crc32(b"r" + struct.pack("<d", value), crc)
        else:
            kind, data = (b"t", value.encode()) if isinstance(value, str) else (b"b", value)
            crc = zlib.crc32(data, zlib.crc32(kind + struct.pack("<Q", len(data)), crc))
    return crc
