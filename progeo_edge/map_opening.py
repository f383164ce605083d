"""Creating and opening the SQLite file of a map, and its errors in plain words."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from progeo_edge.atomic import replacing
from progeo_edge.errors import MapError
from progeo_edge.map_schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION, create_tables, migrate

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 10.0
"""How long a writer waits for another one."""

RESCUE = "restore a copy, or rescue what is still readable with `progeo-map salvage`"


def refuse_existing(path: Path) -> None:
    """Make sure that a new map may be written at a path.

    Raises:
        MapError: the file exists, its folder does not, or a deleted map left its log behind.
    """
    if path.exists():
        raise MapError(f"{path} exists already; open it to continue it, or choose another name")
    if not path.parent.is_dir():
        raise MapError(f"folder {path.parent} for the map does not exist; create it first")
    refuse_in_use(path)


def refuse_in_use(path: Path) -> None:
    """Make sure that no log lies beside a path: SQLite would play it into the new map.

    Raises:
        MapError: there is one.
    """
    log_file = Path(f"{path}-wal")
    if log_file.exists() and log_file.stat().st_size > 0:
        raise MapError(f"{log_file} belongs to a map in use, or to a deleted one; remove it or choose another name")


def create_file(path: Path, header: Mapping[str, str]) -> None:
    """Write an empty map, under a temporary name first, so that no half-made map is ever seen.

    Args:
        path: The new file.
        header: Rows of the table meta.

    Raises:
        MapError: the file exists, or the folder cannot be written.
    """
    with plain_errors(path):
        refuse_existing(path)
        with replacing(path) as temporary:
            connection = connect(str(temporary))
            try:
                connection.execute("BEGIN")
                create_tables(connection, header)
                connection.execute("COMMIT")
            finally:
                connection.close()


def open_file(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Connect to an existing map of this schema, or of an older one that is brought up to date.

    Raises:
        MapError: missing, not a map, of a newer schema, damaged, or not writable when it must be.
    """
    with plain_errors(path):
        _check_is_file(path)
        connection = _connect_read_only(path) if read_only else connect(_uri(path, "mode=rw"))
        try:
            _check_is_map(connection, path)
            _check_schema(connection, path, read_only=read_only)
            if not read_only:
                _prepare_for_writing(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def connect(database: str) -> sqlite3.Connection:
    """Open a path, ":memory:" or a "file:" URI, distrusting its schema; transactions are begun by hand."""
    connection = sqlite3.connect(
        database,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        uri=database.startswith("file:"),
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _uri(path: Path, options: str) -> str:
    return f"{path.resolve().as_uri()}?{options}"


def _connect_read_only(path: Path) -> sqlite3.Connection:
    # Not mode=ro: such a connection must leave the files of SQLite's log behind when it closes.
    connection = connect(_uri(path, "mode=rw"))
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        if "unable to open" not in str(error) and "readonly" not in str(error):
            raise
        # In a folder that cannot be written SQLite cannot share the log with a writer; without one there is no need.
        log_file = Path(f"{path}-wal")
        if log_file.exists() and log_file.stat().st_size > 0:
            raise MapError(
                f"map {path} was not closed, and its log {log_file.name} cannot be merged in a folder without write "
                f"permission; copy both files to a writable folder and open the copy"
            ) from error
        return connect(_uri(path, "mode=ro&immutable=1"))
    except BaseException:
        connection.close()
        raise
    return connection


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise MapError(f"{path} is a folder; expected a map file such as map.progeo")
    if not path.exists():
        raise MapError(f"map {path} does not exist; check the path, or make one with `progeo-run`")
    if path.stat().st_size == 0:
        raise MapError(f"{path} is empty; expected a map file")


def _check_is_map(connection: sqlite3.Connection, path: Path) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID:
        raise MapError(f"{path} is no map but another SQLite database; expected a file made by progeo-edge")


def _check_schema(connection: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise MapError(
            f"map {path} was made by a newer progeo-edge (schema {version}, this one reads up to {SCHEMA_VERSION}); "
            f"upgrade progeo-edge"
        )
    if version == SCHEMA_VERSION:
        return
    if any(number not in MIGRATIONS for number in range(version, SCHEMA_VERSION)):
        raise MapError(f"map {path} has the unknown schema {version}; it is damaged or was altered, restore a copy")
    if read_only:
        raise MapError(f"map {path} has the old schema {version}; open it once for writing to bring it up to date")
    migrate(connection, version, MIGRATIONS, SCHEMA_VERSION)
    log.info("map %s: schema %d brought to %d", path, version, SCHEMA_VERSION)


def _prepare_for_writing(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        log.warning("map %s: this file system has no shared memory; readers wait while a keyframe is written", path)
    connection.execute("PRAGMA synchronous = FULL")
    # SQLite opens a protected file for reading only, without a word; find out now, not at the first keyframe.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")


@contextmanager
def plain_errors(path: Path | None) -> Iterator[None]:
    """Turn the errors of SQLite and of the file system into a `MapError` with a remedy."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise
    except sqlite3.Error as error:
        raise _explain(map_name(path), error) from error
    except UnicodeDecodeError as error:  # SQLite's message quotes a damaged schema
        raise MapError(f"{map_name(path)} is damaged (its table names are no text); {RESCUE}") from error
    except OSError as error:
        raise MapError(
            f"{map_name(path)} cannot be used: {error.strerror or error}; check path and permissions"
        ) from error


def _explain(name: str, error: sqlite3.Error) -> MapError:
    text = str(error)
    if "is full" in text:
        return MapError(f"{name} cannot grow: {text}; free space and go on, every keyframe acknowledged before is kept")
    if "disk I/O" in text:
        return MapError(f"{name} cannot be written or read ({text}); check free space, quota and the disk itself")
    if "readonly" in text:
        return MapError(f"{name} is read-only; copy it to a place that can be written, or open it with read_only=True")
    if "locked" in text:
        return MapError(
            f"{name} is being written by another process ({text} for {BUSY_TIMEOUT_S:.0f} s); end that first"
        )
    if "unable to open" in text:
        return MapError(f"{name} cannot be opened ({text}); check the permissions of the file and its folder")
    if "not a database" in text:
        return MapError(f"{name} is no map ({text}); expected a file made by progeo-edge")
    return MapError(f"{name} is damaged ({text}); {RESCUE}")


def map_name(path: Path | None) -> str:
    """How messages call a map."""
    return "map in memory" if path is None else f"map {path}"
