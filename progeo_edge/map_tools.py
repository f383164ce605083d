"""Maps made from maps: merged and pruned. The inputs are only read; the output appears whole or not at all."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from progeo_edge.atomic import replacing
from progeo_edge.errors import InputError, MapError
from progeo_edge.map_content import DESCRIPTOR_CODINGS
from progeo_edge.map_opening import plain_errors, refuse_existing, refuse_in_use
from progeo_edge.map_rows import KeyframeRecord
from progeo_edge.map_store import MapStore
from progeo_edge.types import LoopClosure

log = logging.getLogger(__name__)

Advance = Callable[[], object]
"""Called after every keyframe that was copied."""


def merge_maps(sources: Sequence[Path], out: Path, *, force: bool = False, advance: Advance = lambda: None) -> int:
    """Write one map that holds the sessions, keyframes and closures of several.

    Keyframes are renumbered in the order of the maps, closures follow them; descriptors, features and thumbnails are
    copied as they are. A document or blob that several maps have is taken from the first.

    Args:
        sources: Two or more maps of one model.
        out: The new map.
        force: Replace `out` when it exists.
        advance: Called once per keyframe.

    Returns:
        Number of keyframes.

    Raises:
        MapError: a map cannot be read, is of another model, or holds a session that another one holds too.
        InputError: fewer than two maps.
    """
    if len(sources) < 2:
        raise InputError(f"{len(sources)} map given; merging needs at least two")
    with ExitStack() as stack:
        first = stack.enter_context(MapStore.open(sources[0], read_only=True))
        others = [stack.enter_context(MapStore.open(path, spec=first.spec, read_only=True)) for path in sources[1:]]
        maps = [first, *others]
        _refuse_shared_sessions(maps)
        dtype = "float32" if any(store.descriptor_dtype == "float32" for store in maps) else "float16"
        with new_map(out, first, dtype, force=force) as target:
            for store in maps:
                _append(store, target, advance)
                copy_documents(store, target)
            return len(target)


def append_map(store: MapStore, source: Path) -> int:
    """Add the sessions, keyframes and closures of another map to an open one, in one transaction.

    Keyframes of `store` keep their ids; the added ones are numbered after them. Documents and blobs that `store` has
    stay as they are.

    Args:
        store: The map to add to, open for writing.
        source: The other map, of the same model; it is only read.

    Returns:
        Number of keyframes added.

    Raises:
        MapError: `source` cannot be read, is of another model or holds a session that `store` holds too, or `store`
            cannot be written; `store` is unchanged.
    """
    with MapStore.open(source, spec=store.spec, read_only=True) as other:
        _refuse_shared_sessions([store, other])
        with store.database.transaction():
            _append(other, store, lambda: None)
            copy_documents(other, store)
        return len(other)


def _refuse_shared_sessions(maps: Sequence[MapStore]) -> None:
    seen: dict[tuple[str, int], Path | None] = {}
    for store in maps:
        for session in store.sessions():
            other = seen.setdefault((session.name, session.started_ns), store.path)
            if other is not store.path:
                raise MapError(
                    f"maps {other} and {store.path} both hold the session {session.name!r}: one continues a copy of "
                    f"the other; merge only the longer one, or its keyframes would be there twice"
                )


def _append(store: MapStore, target: MapStore, advance: Advance) -> None:
    session_ids = {session.id: target.add_session(session) for session in store.sessions()}
    offset = target.next_keyframe_id()
    new_ids = {info.id: offset + position for position, info in enumerate(store.infos())}

    def records() -> Iterator[KeyframeRecord]:
        for old_id, new_id in new_ids.items():
            record = _recoded(store.record(old_id), store.descriptor_dtype, target.descriptor_dtype)
            session = session_ids[cast(int, record.row[1])]
            yield KeyframeRecord((new_id, session, *record.row[2:]), record.parts)
            advance()

    target.add_records(records(), [_renumbered(closure, new_ids) for closure in store.closures()])


def _recoded(record: KeyframeRecord, old: str, new: str) -> KeyframeRecord:
    if old == new:
        return record
    values = np.frombuffer(record.parts["descriptors"], dtype=DESCRIPTOR_CODINGS[old])
    return replace(record, parts={**record.parts, "descriptors": values.astype(DESCRIPTOR_CODINGS[new]).tobytes()})


def _renumbered(closure: LoopClosure, new_ids: dict[int, int]) -> LoopClosure:
    return replace(closure, query_id=new_ids[closure.query_id], reference_id=new_ids[closure.reference_id])


def prune_map(
    source: Path,
    out: Path,
    *,
    keep: int | None = None,
    started_after_ns: int | None = None,
    force: bool = False,
    advance: Advance = lambda: None,
) -> int:
    """Write a smaller map: old sessions left out first, then the most redundant keyframes. Ids stay as they are.

    Args:
        source: The map.
        out: The new map.
        keep: Keyframes to keep; None keeps all. Those in closures are always kept.
        started_after_ns: Leave out the sessions that began before this wall-clock time, with their closures.
        force: Replace `out` when it exists; it may be `source`.
        advance: Called once per keyframe kept.

    Returns:
        Number of keyframes left out.

    Raises:
        InputError: `keep` is below the number of keyframes in closures, or nothing would be left.
        MapError: a map cannot be read or written.
    """
    with MapStore.open(source, read_only=True) as store:
        sessions = [s for s in store.sessions() if started_after_ns is None or s.started_ns >= started_after_ns]
        kept_sessions = {session.id for session in sessions}
        # A rig's cameras see different things: what is redundant in the images of one is asked of that one alone.
        session_of = {info.id: (info.session, info.camera) for info in store.infos() if info.session in kept_sessions}
        if not session_of:
            raise InputError(f"map {source}: no keyframe would be left; choose an earlier date")
        closures = [c for c in store.closures() if c.query_id in session_of and c.reference_id in session_of]
        kept = set(session_of)
        if keep is not None:
            kept -= redundant_keyframes(store, session_of, closures, keep)
        with new_map(out, store, store.descriptor_dtype, force=force) as target:
            new_sessions = {session.id: target.add_session(session) for session in sessions}
            target.add_records(_kept_records(store, sorted(kept), new_sessions, advance), closures)
            copy_documents(store, target)
        return len(store) - len(kept)


def _kept_records(
    store: MapStore, ids: Sequence[int], new_sessions: dict[int, int], advance: Advance
) -> Iterator[KeyframeRecord]:
    for id in ids:
        record = store.record(id)
        yield KeyframeRecord((id, new_sessions[cast(int, record.row[1])], *record.row[2:]), record.parts)
        advance()


def redundant_keyframes(
    store: MapStore, session_of: Mapping[int, Hashable], closures: Sequence[LoopClosure], keep: int
) -> set[int]:
    """The keyframes to leave out so that `keep` remain: again and again the one most like its neighbours.

    Args:
        store: The map.
        session_of: Session and camera of every keyframe that may be kept.
        closures: Their keyframes are never left out.
        keep: How many shall remain.

    Raises:
        InputError: `keep` is below 1 or below the number of keyframes in closures.
    """
    fixed = {id for closure in closures for id in (closure.query_id, closure.reference_id)}
    if keep < max(1, len(fixed)):
        raise InputError(f"keep is {keep}; expected at least {max(1, len(fixed))}, the keyframes in closures and 1")
    ids, descriptors = store.descriptors()
    rows = {int(id): row for row, id in enumerate(ids)}
    before, after = _neighbours(sorted(session_of), session_of)

    def likeness(id: int) -> float:
        near = [other for other in (before[id], after[id]) if other is not None]
        return max((float(descriptors[rows[id]] @ descriptors[rows[other]]) for other in near), default=-2.0)

    heap = [(-likeness(id), id) for id in session_of if id not in fixed]
    heapq.heapify(heap)
    removed: set[int] = set()
    while heap and len(session_of) - len(removed) > keep:
        cost, id = heapq.heappop(heap)
        if id in removed or cost != -likeness(id):  # an entry from before a neighbour went
            continue
        removed.add(id)
        left, right = before[id], after[id]
        if left is not None:
            after[left] = right
        if right is not None:
            before[right] = left
        for other in (left, right):
            if other is not None and other not in fixed:
                heapq.heappush(heap, (-likeness(other), other))
    return removed


def _neighbours(
    ids: Sequence[int], session_of: Mapping[int, Hashable]
) -> tuple[dict[int, int | None], dict[int, int | None]]:
    before: dict[int, int | None] = dict.fromkeys(ids)
    after: dict[int, int | None] = dict.fromkeys(ids)
    last: dict[Hashable, int] = {}
    for id in ids:
        previous = last.get(session_of[id])
        if previous is not None:
            before[id], after[previous] = previous, id
        last[session_of[id]] = id
    return before, after


@contextmanager
def new_map(out: Path, like: MapStore, dtype: str, *, force: bool) -> Iterator[MapStore]:
    """An empty map for the model of another one; it appears at `out` when the body succeeds.

    Raises:
        MapError: `out` exists and `force` is false, or it is in use, or cannot be written.
    """
    with plain_errors(out):
        if force and out.is_file():
            refuse_in_use(out)
        else:
            refuse_existing(out)
        with replacing(out) as temporary, MapStore.create(temporary, like.spec, descriptor_dtype=dtype) as target:
            yield target


def copy_documents(store: MapStore, target: MapStore) -> None:
    """Copy the documents and blobs whose names `target` does not have yet."""
    for key in store.document_keys():
        value = store.document(key)
        if target.document(key) is None and value is not None:
            target.set_document(key, value)
        elif target.document(key) != value:
            log.warning("document %r of %s is left out: an earlier map has another one", key, store.path)
    for key in store.blob_keys():
        data = store.blob(key)
        if target.blob(key) is None and data is not None:
            target.set_blob(key, data)
        elif target.blob(key) != data:
            log.warning("blob %r of %s is left out: an earlier map has another one", key, store.path)
