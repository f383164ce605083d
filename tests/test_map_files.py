from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest

from progeo_edge import map_opening
from progeo_edge.bundle import ModelSpec
from progeo_edge.errors import MapError
from progeo_edge.map_store import MapStore
from progeo_edge.types import Status
from tests.map_samples import (
    SPEC,
    content_hash,
    keyframe,
    sample_map,
)

ROOT = Path(__file__).parent.parent


def add(store: MapStore, *ids: int) -> None:
    for id in ids:
        store.add_keyframe(keyframe(id, 0), status=Status.NO_CANDIDATE)


# Files that cannot be used


def test_existing_file_is_not_overwritten(tmp_path):
    path = sample_map(tmp_path / "m.progeo", 2)
    before = path.read_bytes()
    with pytest.raises(MapError, match="exists already"):
        MapStore.create(path, SPEC)
    assert path.read_bytes() == before


def test_creation_leaves_nothing_behind_when_it_fails(tmp_path):
    with pytest.raises(MapError, match="does not exist"):
        MapStore.create(tmp_path / "no" / "m.progeo", SPEC)
    (tmp_path / "m.progeo-wal").write_bytes(b"log of a deleted map")
    with pytest.raises(MapError, match="wal belongs to"):
        MapStore.create(tmp_path / "m.progeo", SPEC)
    assert [path.name for path in tmp_path.iterdir()] == ["m.progeo-wal"]


def _other_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()


def _with_pragma(path: Path, pragma: str) -> None:
    sample_map(path, 2)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA {pragma}")
    connection.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"\x89PNG" * 500), "is no map"),
        (lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(9000)), "map"),
        (_other_database, "another SQLite database"),
        (
            lambda path: _with_pragma(path, "user_version = 7"),
            r"newer progeo-edge \(schema 7, this one reads up to 1\)",
        ),
        (lambda path: _with_pragma(path, "user_version = 0"), "unknown schema 0"),
    ],
)
@pytest.mark.parametrize("read_only", [True, False])
def test_what_is_no_map_is_refused_and_left_alone(tmp_path, make, message, read_only):
    path = tmp_path / "m.progeo"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(MapError, match=message):
        MapStore.open(path, read_only=read_only)
    assert before is None or path.read_bytes() == before


def test_map_of_another_model_is_refused(tmp_path):
    path = sample_map(tmp_path / "m.progeo", 2)
    with pytest.raises(
        MapError, match=r"made by model sample \(dimension 16.*but the encoder is other \(dimension 512"
    ):
        MapStore.open(path, spec=ModelSpec("other", 512, "00" * 32))
    with MapStore.open(path, spec=SPEC) as store:
        assert len(store) == 2


def test_read_only_map_refuses_to_write(tmp_path):
    with MapStore.open(sample_map(tmp_path / "m.progeo", 2), read_only=True) as store:
        assert store.read_only
        for write in (
            lambda: store.add_keyframe(keyframe(2, 0), status=Status.NO_CANDIDATE),
            lambda: store.begin_session("x", camera=None, config_yaml=""),
            lambda: store.set_blob("x", b""),
            lambda: store.remove_keyframes([0]),
        ):
            with pytest.raises(MapError, match="opened read-only"):
                write()
        assert len(store) == 2


def test_closed_map_says_so(tmp_path):
    store = MapStore.open(sample_map(tmp_path / "m.progeo", 2))
    store.close()
    store.close()
    with pytest.raises(MapError, match="is closed"):
        store.infos()


AS_NOBODY = """
import os, sys
from pathlib import Path
from progeo_edge.errors import MapError
from progeo_edge.map_store import MapStore
from tests.map_samples import content_hash, keyframe
os.setuid(65534)
path = Path(sys.argv[1])
try:
    with MapStore.open(path, read_only=sys.argv[2] == "ro") as store:
        print(content_hash(store))
except MapError as error:
    print(error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become a user without write permission")
def test_folder_without_write_permission():
    folder = Path(tempfile.mkdtemp())
    try:
        path = sample_map(folder / "m.progeo", 3)
        with MapStore.open(path) as store:
            expected = content_hash(store)
        folder.chmod(0o555)
        path.chmod(0o444)
        assert _python(AS_NOBODY, path, "ro") == expected
        assert "is read-only" in _python(AS_NOBODY, path, "rw")
        assert sorted(p.name for p in folder.iterdir()) == ["m.progeo"]
        with MapStore.open(path) as store:
            store.set_blob("new", b"in the log only")
            for name in ("m.progeo", "m.progeo-wal"):
                shutil.copy(folder / name, folder / name.replace("m", "n", 1))
        (folder / "n.progeo").chmod(0o444)
        assert "copy both files to a writable folder" in _python(AS_NOBODY, folder / "n.progeo", "ro")
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


# Damage


def test_flipped_bit_names_the_keyframe(tmp_path):
    path = sample_map(tmp_path / "m.progeo", 8)
    with MapStore.open(path, read_only=True) as store:
        data = store.record(5).parts["features"]
    raw = bytearray(path.read_bytes())
    at = bytes(raw).index(data[100:200])
    raw[at + 7] ^= 16
    path.write_bytes(raw)
    with MapStore.open(path) as store:
        with pytest.raises(MapError, match="features of keyframe 5 does not match its checksum"):
            store.features(5)
        assert store.features(6) is not None and len(store.infos()) == 8


def test_lost_rows_are_noticed(tmp_path):
    path = sample_map(tmp_path / "m.progeo", 9)
    connection = sqlite3.connect(path)
    for table in ("keyframes", "descriptors", "features", "closures", "documents"):
        key = "key" if table == "documents" else "id"
        connection.execute(f"DELETE FROM {table} WHERE {key} = (SELECT MAX({key}) FROM {table})")
    connection.commit()
    connection.close()
    with MapStore.open(path) as store:
        for read in (
            store.infos,
            store.descriptors,
            store.closures,
            store.sessions,
            lambda: store.keyframe(8),
            lambda: store.features(7),
            lambda: store.document("calibration"),
        ):
            with pytest.raises(MapError, match=r"is damaged.*lost"):
                read()
        assert store.keyframe(3).id == 3


def test_rows_of_another_keyframe_are_noticed(tmp_path):
    path = sample_map(tmp_path / "m.progeo", 4)
    connection = sqlite3.connect(path)
    connection.execute(
        "UPDATE descriptors SET (data, checksum) = (SELECT data, checksum FROM descriptors WHERE id = 1)"
    )
    connection.commit()
    connection.close()
    with MapStore.open(path) as store:
        assert store.keyframe(1).id == 1
        with pytest.raises(MapError, match="descriptors of keyframe 2 does not match"):
            store.keyframe(2)


def test_unreadable_table_names_are_damage(tmp_path):
    path = sample_map(tmp_path / "m.progeo", 3)
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE closures", b"CREATE TABLX \xa8\xa8osures"))
    with pytest.raises(MapError, match="is damaged"):
        MapStore.open(path)


def test_closing_leaves_only_the_map(tmp_path):
    path = sample_map(tmp_path / "m.progeo", 3)
    for read_only in (True, False):
        with MapStore.open(path, read_only=read_only) as store:
            assert len(store.infos()) == 3
        assert [file.name for file in tmp_path.iterdir()] == ["m.progeo"]


# Migration


def test_old_schema_is_migrated_in_one_transaction(tmp_path, monkeypatch):
    path = sample_map(tmp_path / "m.progeo", 3)

    def add_table(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE places (id INTEGER PRIMARY KEY)")

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM keyframes")
        raise RuntimeError("a step that fails")

    monkeypatch.setattr(map_opening, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(map_opening, "MIGRATIONS", {1: add_table, 2: fail})
    with pytest.raises(RuntimeError):
        MapStore.open(path)
    assert _schema(path) == (1, False)
    with pytest.raises(MapError, match="old schema 1; open it once for writing"):
        MapStore.open(path, read_only=True)
    monkeypatch.setattr(map_opening, "MIGRATIONS", {1: add_table, 2: lambda connection: None})
    with MapStore.open(path) as store:
        assert len(store.infos()) == 3
    assert _schema(path) == (3, True)


def _schema(path: Path) -> tuple[int, bool]:
    connection = sqlite3.connect(path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    connection.close()
    return version, ("places",) in tables


# Full disk, several processes, several threads


def test_full_disk_keeps_what_was_acknowledged(tmp_path):
    path = sample_map(tmp_path / "m.progeo", 4)
    with MapStore.open(path) as store:
        pages = store.database._connection.execute("PRAGMA page_count").fetchone()[0]
        store.database._connection.execute(f"PRAGMA max_page_count = {pages + 8}")
        stored = 4
        with pytest.raises(MapError, match="full; free space and go on"):
            while stored < 1000:
                add(store, stored)
                stored += 1
        assert 4 < stored < 1000
        assert [info.id for info in store.infos()] == list(range(stored))
        store.database._connection.execute("PRAGMA max_page_count = 100000")
        add(store, stored)
        assert store.keyframe(stored).id == stored


LIMITED = """
import resource, sys
from pathlib import Path
from progeo_edge.errors import MapError
from progeo_edge.map_store import MapStore
from progeo_edge.types import Status
from tests.map_samples import keyframe
store = MapStore.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
id = store.next_keyframe_id()
try:
    while id < 1000:
        store.add_keyframe(keyframe(id, 0), status=Status.NO_CANDIDATE)
        id += 1
except MapError as error:
    print(id, "check free space" in str(error) or "free space" in str(error), len(store.infos()))
"""


def test_file_size_limit_keeps_what_was_acknowledged(tmp_path):
    path = sample_map(tmp_path / "m.progeo", 4)
    stored, explained, visible = _python(LIMITED, path).split()
    assert explained == "True" and 4 < int(stored) < 1000 and visible == stored
    with MapStore.open(path) as store:
        assert [info.id for info in store.infos()] == list(range(int(stored)))
        add(store, int(stored))


READER = """
import sys
from pathlib import Path
from progeo_edge.map_store import MapStore
with MapStore.open(Path(sys.argv[1]), read_only=True) as store:
    for line in sys.stdin:
        ids, descriptors = store.descriptors()
        print(len(store), len(ids), len(store.infos()), descriptors.shape[0], flush=True)
"""


def test_another_process_reads_while_this_one_writes(tmp_path):
    path = tmp_path / "m.progeo"
    with MapStore.create(path, SPEC) as store:
        store.begin_session("s", camera=None, config_yaml="")
        command = [sys.executable, "-c", READER, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as reader:
            assert reader.stdin is not None and reader.stdout is not None
            for id in range(12):
                add(store, id)
                print("now", file=reader.stdin, flush=True)
                assert reader.stdout.readline().split() == [str(id + 1)] * 4
            reader.stdin.close()
        assert reader.returncode == 0


def test_second_writer_waits_and_then_says_who_is_in_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(map_opening, "BUSY_TIMEOUT_S", 0.1)
    path = sample_map(tmp_path / "m.progeo", 2)
    with MapStore.open(path) as first, MapStore.open(path) as second:
        with first.database.transaction(), pytest.raises(MapError, match="another process"):
            add(second, 2)
        add(second, 2)
        assert len(first) == 3


def test_threads_share_one_store(tmp_path):
    failures: list[BaseException] = []
    with MapStore.create(tmp_path / "m.progeo", SPEC) as store:
        store.begin_session("s", camera=None, config_yaml="")

        def work(offset: int) -> None:
            try:
                for id in range(offset, 40, 4):
                    add(store, id)
                    assert store.keyframe(id).id == id
                    store.descriptors()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert [info.id for info in store.infos()] == list(range(40))


def _python(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
