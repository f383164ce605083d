"""What is wrong with a map, and a new map of everything that can still be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from progeo_edge.errors import MapError
from progeo_edge.map_opening import RESCUE
from progeo_edge.map_rows import (
    KeyframeRecord,
    Row,
    Session,
    camera_from_json,
    closure_from_row,
    part_flags,
    part_names,
)
from progeo_edge.map_schema import COUNTED
from progeo_edge.map_store import MapStore
from progeo_edge.map_tools import Advance, copy_documents, new_map


@dataclass(frozen=True, slots=True)
class Rescued:
    """What `salvage_map` could save.

    Attributes:
        num_keyframes: Keyframes copied.
        num_closures: Closures copied.
        losses: One sentence for each thing that was lost.
    """

    num_keyframes: int
    num_closures: int
    losses: tuple[str, ...]


def find_problems(store: MapStore, advance: Advance = lambda: None) -> list[str]:
    """Read a whole map: SQLite's own check, every checksum, every count, every keyframe unpacked.

    Args:
        store: The map.
        advance: Called once per keyframe.

    Returns:
        One sentence per problem; empty when the map is sound.
    """
    problems: list[str] = []
    with _noting(problems), store.database.reading():
        problems += store.database.structure_problems()
    for table in COUNTED:
        with _noting(problems), store.database.reading():
            for _ in store.database.rows(table):
                pass
    with _noting(problems):
        for info in store.infos():
            with _noting(problems):
                store.keyframe(info.id)
            advance()
    with _noting(problems):
        store.closures()
    return list(dict.fromkeys(problems))


def salvage_map(source: Path, out: Path, *, force: bool = False, advance: Advance = lambda: None) -> Rescued:
    """Write a map of everything that can still be read of a damaged one. Ids stay as they are.

    A keyframe is lost when its row or its descriptor is; without its features, appearance or thumbnail it is kept.

    Args:
        source: The damaged map; its header and its counts must be readable.
        out: The new map.
        force: Replace `out` when it exists.
        advance: Called once per keyframe saved.

    Raises:
        MapError: the header or the counts are damaged, or the output cannot be written.
    """
    losses: list[str] = []
    saved: set[int] = set()
    with (
        MapStore.open(source, read_only=True) as store,
        new_map(out, store, store.descriptor_dtype, force=force) as target,
    ):
        sessions = {session.id: target.add_session(session) for session in _readable_sessions(store, losses)}

        def records() -> Iterator[KeyframeRecord]:
            for record in _readable_records(store, losses):
                id, session = cast("tuple[int, int]", record.row[:2])
                if session not in sessions:
                    losses.append(f"keyframe {id}: its session {session} is lost")
                    continue
                saved.add(id)
                yield KeyframeRecord((id, sessions[session], *record.row[2:]), record.parts)
                advance()

        target.add_records(records(), ())
        closures = [closure_from_row(row) for row in _readable_rows(store, "closures", losses)]
        complete = [c for c in closures if c.query_id in saved and c.reference_id in saved]
        target.add_records((), complete)
        with _noting(losses):
            copy_documents(store, target)
    return Rescued(len(saved), len(complete), tuple(losses))


def _readable_rows(store: MapStore, table: str, losses: list[str]) -> Iterator[Row]:
    with store.database.reading():
        num_rows, _, next_id = store.database.tally(table)
    num_found = 0
    for id in range(next_id):
        row: Row | None = None
        with _noting(losses, f"row {id} of {table}: "), store.database.reading():
            row = store.database.row(table, id)
        if row is not None:
            num_found += 1
            yield row
    if num_found != num_rows:
        losses.append(f"{num_rows - num_found} of {num_rows} rows of {table} are lost")


def _readable_sessions(store: MapStore, losses: list[str]) -> Iterator[Session]:
    for row in _readable_rows(store, "sessions", losses):
        id, name, started_ns, camera, config_yaml = cast(Any, row)
        yield Session(id, name, started_ns, camera_from_json(camera), config_yaml, 0)


def _readable_records(store: MapStore, losses: list[str]) -> Iterator[KeyframeRecord]:
    for row in _readable_rows(store, "keyframes", losses):
        parts: dict[str, bytes] = {}
        for part in part_names(row):
            part_row: Row | None = None
            with _noting(losses, f"{part} of keyframe {row[0]!r}: "), store.database.reading():
                part_row = store.database.row(part, row[0])
            if part_row is not None:
                parts[part] = cast(bytes, part_row[1])
        if "descriptors" in parts:
            yield KeyframeRecord((*row[:7], part_flags(parts)), parts)
        else:
            losses.append(f"keyframe {row[0]!r}: its descriptor is lost")


@contextmanager
def _noting(sentences: list[str], where: str = "") -> Iterator[None]:
    try:
        yield
    except MapError as error:
        sentences.append(where + str(error).removesuffix(f"; {RESCUE}"))
