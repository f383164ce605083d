"""The map: keyframes, local features and closures in one SQLite file that survives the death of the process."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from progeo_edge.bundle import ModelSpec
from progeo_edge.errors import InputError, MapError
from progeo_edge.geometry import Cameras
from progeo_edge.map_blobs import encode_thumbnail, pack_features
from progeo_edge.map_checks import check_closure, check_descriptor, check_info, storable_text
from progeo_edge.map_content import DESCRIPTOR_CODINGS, MapContent
from progeo_edge.map_database import MapDatabase
from progeo_edge.map_rows import (
    KeyframeInfo,
    KeyframeRecord,
    Session,
    camera_to_json,
    closure_row,
    keyframe_row,
    part_names,
)
from progeo_edge.types import Image, Keyframe, LoopClosure, Status

__all__ = ["KeyframeInfo", "MapStore", "Session"]


class MapStore(MapContent):
    """One map: a SQLite file in WAL mode, one transaction per keyframe, on the disk when `add_keyframe` returns.

    Other processes may read while one writes. Its methods may be called from any thread. Everything read is checked
    against a checksum: damage raises `MapError`, and is never returned as content.

    Attributes:
        path: The file; None for a map in memory.
        read_only: Whether writing is refused.
        spec: The model whose descriptors the map holds.
        map_id: Random identity (32 hex digits), for caches that belong to this map.
        descriptor_dtype: "float16" or "float32".
        database: The file under it, for tools.
    """

    @classmethod
    def create(cls, path: str | Path | None, spec: ModelSpec, *, descriptor_dtype: str = "float16") -> MapStore:
        """Make a new map.

        Args:
            path: File to write; None keeps the map in memory.
            spec: The model that makes the descriptors.
            descriptor_dtype: How descriptors are stored; "float16" changes a cosine by less than 0.0001 at 512
                dimensions.

        Raises:
            MapError: the file exists already, or its folder cannot be written.
            InputError: unknown `descriptor_dtype`.
        """
        if descriptor_dtype not in DESCRIPTOR_CODINGS:
            raise InputError(f"descriptor_dtype {descriptor_dtype!r} is unknown; expected float16 or float32")
        model = {"name": spec.name, "dimension": spec.dimension, "fingerprint": spec.fingerprint}
        header = {"model": json.dumps(model), "map_id": uuid.uuid4().hex, "descriptor_dtype": descriptor_dtype}
        return cls(MapDatabase.create(None if path is None else Path(path), header))

    @classmethod
    def open(cls, path: str | Path, *, spec: ModelSpec | None = None, read_only: bool = False) -> MapStore:
        """Open an existing map.

        Args:
            path: The file.
            spec: The model whose descriptors will be compared with the map's; None compares nothing.
            read_only: Never write; works in folders without write permission.

        Raises:
            MapError: missing, no map, of a newer schema, of another model, damaged, or not writable when it must be.
        """
        database = MapDatabase.open(Path(path), read_only=read_only)
        try:
            store = cls(database)
            if spec is not None and spec.fingerprint != store.spec.fingerprint:
                raise MapError(
                    f"map {path} was made by model {_describe(store.spec)}, but the encoder is {_describe(spec)}; "
                    f"their descriptors cannot be compared: use that model, or make a new map"
                )
        except BaseException:
            database.close()
            raise
        return store

    def __enter__(self) -> MapStore:
        return self

    # Sessions

    def begin_session(self, name: str, *, camera: Cameras | None, config_yaml: str) -> int:
        """Open a session, to which the keyframes of one run belong.

        Args:
            name: What the user calls it.
            camera: Calibration; of a rig by the name of the camera; None without one.
            config_yaml: The effective config.

        Returns:
            Its id.
        """
        with self.database.transaction():
            id = self.database.tally("sessions")[2]
            row = (id, storable_text(name), time.time_ns(), camera_to_json(camera), storable_text(config_yaml))
            self.database.insert("sessions", row)
        return id

    def add_session(self, session: Session) -> int:
        """Copy a session of another map, under a new id, which is returned."""
        with self.database.transaction():
            id = self.database.tally("sessions")[2]
            camera = camera_to_json(session.camera)
            self.database.insert("sessions", (id, session.name, session.started_ns, camera, session.config_yaml))
        return id

    # Keyframes

    def add_keyframe(
        self,
        keyframe: Keyframe,
        *,
        status: Status,
        thumbnail: Image | None = None,
        closures: Sequence[LoopClosure] = (),
    ) -> None:
        """Store a keyframe with its closures in one transaction: all of it, or nothing.

        When this returns the keyframe survives SIGKILL and power loss.

        Args:
            keyframe: Its id must be unused and its session begun.
            status: Why it led to no closure, or ACCEPTED.
            thumbnail: (H, W, 3) BGR or (H, W) grey uint8, stored as JPEG at the size given.
            closures: Both ends in the map, or this keyframe.

        Raises:
            InputError: an array, an id or a pose that cannot be stored; the map is unchanged.
            MapError: read-only map, full disk; the map is unchanged.
        """
        info = KeyframeInfo(
            keyframe.id,
            keyframe.session,
            keyframe.stamp_ns,
            storable_text(keyframe.name),
            storable_text(keyframe.camera),
            keyframe.T_odom_base,
            status,
        )
        check_info(info)
        parts = self._pack_parts(keyframe, thumbnail)
        for closure in closures:
            check_closure(closure)
        with self.database.transaction():
            self._insert_keyframe(KeyframeRecord(keyframe_row(info, parts), parts))
            for closure in closures:
                self._insert_closure(closure)

    def _pack_parts(self, keyframe: Keyframe, thumbnail: Image | None) -> dict[str, bytes]:
        name = f"keyframe {keyframe.id}"
        descriptor = check_descriptor(keyframe.descriptor, self.spec.dimension, name)
        parts = {"descriptors": descriptor.astype(self._coding).tobytes()}
        if keyframe.features is not None:
            parts["features"] = pack_features(keyframe.features)
        if keyframe.appearance is not None:
            appearance = np.asarray(keyframe.appearance)
            if appearance.dtype != np.uint8 or appearance.ndim != 1:
                raise InputError(f"{name}: appearance is {appearance.dtype} {appearance.shape}; expected uint8 (C,)")
            parts["appearances"] = appearance.tobytes()
        if thumbnail is not None:
            parts["thumbnails"] = encode_thumbnail(thumbnail)
        return parts

    def _insert_keyframe(self, record: KeyframeRecord) -> None:
        id, session = record.row[:2]
        if self.database.row("keyframes", id) is not None:
            raise InputError(f"keyframe id {id!r} is used already; take next_keyframe_id()")
        if self.database.row("sessions", session) is None:
            raise InputError(f"keyframe {id!r}: session {session!r} is unknown; call begin_session first")
        self.database.insert("keyframes", record.row)
        for part, data in record.parts.items():
            self.database.insert(part, (id, data))

    def _insert_closure(self, closure: LoopClosure) -> None:
        for id in (closure.query_id, closure.reference_id):
            if self.database.row("keyframes", id) is None:
                raise InputError(f"closure {closure.query_id} -> {closure.reference_id}: keyframe {id} is unknown")
        self.database.insert("closures", closure_row(self.database.tally("closures")[2], closure))

    def remove_keyframes(self, ids: Iterable[int]) -> None:
        """Remove keyframes and every closure that touches one, in one transaction; the file does not shrink.

        Raises:
            InputError: unknown id; nothing is removed.
        """
        removed = set(ids)
        with self.database.transaction():
            for row in list(self.database.rows("closures")):
                if row[1] in removed or row[2] in removed:
                    self.database.delete("closures", row[0])
            for id in sorted(removed):
                for part in part_names(self._keyframe_row(id)):
                    self.database.delete(part, id)
                self.database.delete("keyframes", id)

    # Copying between maps

    def add_records(self, records: Iterable[KeyframeRecord], closures: Iterable[LoopClosure]) -> None:
        """Store keyframes taken from maps of the same model and descriptor type, and closures, in one transaction."""
        with self.database.transaction():
            for record in records:
                self._insert_keyframe(record)
            for closure in closures:
                self._insert_closure(closure)

    def copy_to(self, path: Path) -> None:
        """Write a copy, which includes what is still in the log, as a map of its own (with a new `map_id`).

        Raises:
            MapError: the file exists, or cannot be written.
        """
        self.database.copy_to(path, {"map_id": uuid.uuid4().hex})

    # Documents

    def set_document(self, key: str, value: Mapping[str, Any]) -> None:
        """Store a small JSON document under a name, replacing an older one.

        Raises:
            InputError: the value is not JSON.
        """
        try:
            text = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"document {key!r} is not JSON: {error}; use plain finite values") from error
        self._set_named("documents", key, text)

    def set_blob(self, key: str, value: bytes) -> None:
        """Store bytes under a name, replacing older ones."""
        self._set_named("blobs", key, bytes(value))

    def _set_named(self, table: str, key: str, value: str | bytes) -> None:
        with self.database.transaction():
            self.database.delete(table, key)
            self.database.insert(table, (key, value))


def _describe(spec: ModelSpec) -> str:
    return f"{spec.name} (dimension {spec.dimension}, fingerprint {spec.fingerprint[:12]})"
