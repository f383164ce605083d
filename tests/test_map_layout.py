"""A second reader, written from docs/map.md with nothing but SQLite, struct and zlib: the layout is a promise."""

from __future__ import annotations

import json
import sqlite3
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from progeo_edge.map_store import MapStore
from tests.map_samples import keyframe, sample_map

PARTS = ("descriptors", "features", "appearances", "thumbnails")
TABLES = ("meta", "sessions", "keyframes", *PARTS, "closures", "documents", "blobs", "tally")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return sample_map(tmp_path_factory.mktemp("layout") / "m.progeo", 15)


@pytest.fixture
def connection(path):
    connection = sqlite3.connect(path)
    yield connection
    connection.close()


def _checksum(table: str, columns: tuple[object, ...]) -> int:
    message = table.encode("ascii")
    for column in columns:
        if column is None:
            message += b"n"
        elif isinstance(column, int):
            message += b"i" + struct.pack("<q", column)
        elif isinstance(column, float):
            message += b"r" + struct.pack("<d", column)
        elif isinstance(column, str):
            message += b"t" + struct.pack("<Q", len(column.encode())) + column.encode()
        else:
            assert isinstance(column, bytes)
            message += b"b" + struct.pack("<Q", len(column)) + column
    return zlib.crc32(message)


def test_identity(connection):
    assert connection.execute("PRAGMA application_id").fetchone() == (0x50474D50,)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert sorted(name for (name,) in names) == sorted(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_checksums_and_counts(connection, table):
    rows = connection.execute(f"SELECT * FROM {table}").fetchall()
    assert rows
    digest = 0
    for *columns, checksum in rows:
        assert _checksum(table, tuple(columns)) == checksum
        digest ^= checksum
    if table != "tally":
        tally = connection.execute("SELECT num_rows, digest FROM tally WHERE key = ?", (table,)).fetchone()
        assert tally == (len(rows), digest)


def test_keyframe_blobs(connection, path):
    made = keyframe(7, 0)
    assert made.T_odom_base is not None and made.features is not None and made.features.points_m is not None
    pose, parts = connection.execute("SELECT T_odom_base, parts FROM keyframes WHERE id = 7").fetchone()
    assert struct.unpack("<12d", pose) == tuple(made.T_odom_base[:3].ravel()) and parts == 1 | 2 | 4 | 8
    model = json.loads(connection.execute("SELECT value FROM meta WHERE key = 'model'").fetchone()[0])
    (data,) = connection.execute("SELECT data FROM descriptors WHERE id = 7").fetchone()
    descriptor = np.array(struct.unpack(f"<{model['dimension']}e", data))
    np.testing.assert_allclose(descriptor, made.descriptor, atol=5e-4)

    (data,) = connection.execute("SELECT data FROM features WHERE id = 7").fetchone()
    kind, source, flags, count, width, height = struct.unpack_from("<BBHIII", data)
    assert (kind, source, flags, count, width, height) == (0, 1, 3, 20, 64, 48)
    xy = np.array(struct.unpack_from("<40H", data, 16)).reshape(20, 2) / 32
    sizes = np.array(struct.unpack_from("<20H", data, 16 + 80)) / 32
    descriptors = np.frombuffer(data, np.uint8, 20 * 32, 16 + 80 + 40).reshape(20, 32)
    points = np.array(struct.unpack_from("<60f", data, 16 + 80 + 40 + 640)).reshape(20, 3)
    assert len(data) == 16 + 80 + 40 + 640 + 240
    np.testing.assert_allclose(xy, made.features.keypoints_px, atol=1 / 64)
    np.testing.assert_allclose(sizes, made.features.sizes_px, atol=1 / 64)
    np.testing.assert_array_equal(descriptors, made.features.descriptors)
    np.testing.assert_array_equal(points.astype(np.float32), made.features.points_m)


def test_closure_blobs(connection, path: Path):
    with MapStore.open(path, read_only=True) as store:
        verification = store.closures()[0].verification
    assert verification is not None and verification.T_reference_query is not None
    assert verification.covariance is not None and verification.query_px is not None
    query = "SELECT T_reference_query, covariance, query_px, num_inliers FROM closures WHERE id = 0"
    pose, covariance, pixels, num_inliers = connection.execute(query).fetchone()
    assert struct.unpack("<12d", pose) == tuple(verification.T_reference_query[:3].ravel())
    assert struct.unpack("<36d", covariance) == tuple(verification.covariance.ravel())
    assert pixels[0] == 1 and len(pixels) == 1 + 4 * num_inliers
    np.testing.assert_array_equal(
        np.array(struct.unpack(f"<{2 * num_inliers}H", pixels[1:])).reshape(-1, 2) / 32, verification.query_px
    )
