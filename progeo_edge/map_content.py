"""What can be read from a map: sessions, keyframes, descriptors, closures, documents; every row checked."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import ModelSpec
from progeo_edge.errors import InputError, MapError
from progeo_edge.map_blobs import decode_thumbnail, unpack_features
from progeo_edge.map_database import MapDatabase
from progeo_edge.map_rows import (
    KeyframeInfo,
    KeyframeRecord,
    Row,
    Session,
    camera_from_json,
    closure_from_row,
    keyframe_info,
    part_names,
)
from progeo_edge.types import Image, Keyframe, LocalFeatures, LoopClosure

DESCRIPTOR_CODINGS = {"float16": "<f2", "float32": "<f4"}
"""How descriptors may be stored, and the dtype of their blobs."""


class MapContent:
    """The reading half of `MapStore`. Damage raises `MapError`, and is never returned as content."""

    def __init__(self, database: MapDatabase) -> None:
        """Read the header; use `MapStore.create` or `MapStore.open` instead."""
        self.database = database
        self.path = database.path
        self.read_only = database.read_only
        with self._reading():
            header = {cast(str, key): cast(str, value) for key, value in database.rows("meta")}
            self.spec = ModelSpec(**json.loads(header["model"]))
            self.map_id = header["map_id"]
            self.descriptor_dtype = header["descriptor_dtype"]
            self._coding = DESCRIPTOR_CODINGS[self.descriptor_dtype]

    def close(self) -> None:
        """Close the file; twice is fine."""
        self.database.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def sessions(self) -> list[Session]:
        """All sessions in the order of their ids."""
        with self._reading():
            counts: dict[Any, int] = {}
            for row in self.database.rows("keyframes"):
                counts[row[1]] = counts.get(row[1], 0) + 1
            rows = cast(Any, list(self.database.rows("sessions")))
            return [
                Session(id, name, started_ns, camera_from_json(camera), config_yaml, counts.get(id, 0))
                for id, name, started_ns, camera, config_yaml in rows
            ]

    def next_keyframe_id(self) -> int:
        """The id after the highest ever used; ids of removed keyframes are not given again."""
        with self._reading():
            return self.database.tally("keyframes")[2]

    def __len__(self) -> int:
        """Number of keyframes."""
        with self._reading():
            return self.database.tally("keyframes")[0]

    def infos(self) -> list[KeyframeInfo]:
        """All keyframes without their arrays, in the order of their ids."""
        with self._reading():
            return [keyframe_info(row) for row in self.database.rows("keyframes")]

    def keyframe(self, id: int) -> Keyframe:
        """One keyframe, whole; its descriptor is renormalised after rounding to the stored type.

        Raises:
            InputError: unknown id.
            MapError: damaged.
        """
        with self._reading():
            record = self._record(id)
            info = keyframe_info(record.row)
            features = record.parts.get("features")
            appearance = record.parts.get("appearances")
            return Keyframe(
                id=info.id,
                session=info.session,
                stamp_ns=info.stamp_ns,
                descriptor=self._unpack_descriptors([record.parts["descriptors"]])[0],
                features=None if features is None else unpack_features(features),
                T_odom_base=info.T_odom_base,
                name=info.name,
                camera=info.camera,
                appearance=None if appearance is None else np.frombuffer(appearance, dtype=np.uint8).copy(),
            )

    def features(self, id: int) -> LocalFeatures | None:
        """Local features of a keyframe, pixels within 1/64 px; None when it was stored without.

        Raises:
            InputError: unknown id.
        """
        with self._reading():
            data = self._part("features", id)
            return None if data is None else unpack_features(data)

    def appearances(self, ids: Sequence[int]) -> NDArray[np.uint8] | None:
        """(N, C) uint8 appearance grids of keyframes in the order asked; None when any of them lacks one.

        Raises:
            InputError: unknown id.
        """
        with self._reading():
            blobs = [self._part("appearances", id) for id in ids]
        rows = [np.frombuffer(blob, dtype=np.uint8) for blob in blobs if blob is not None]
        if len(rows) < len(blobs) or len({len(row) for row in rows}) > 1:
            return None
        return np.stack(rows) if rows else np.zeros((0, 0), dtype=np.uint8)

    def descriptors(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """All descriptors: ids ascending (N,), and (N, D) unit rows."""
        with self._reading():
            rows = cast(Any, list(self.database.rows("descriptors")))
            return np.array([id for id, _ in rows], dtype=np.int64), self._unpack_descriptors([d for _, d in rows])

    def thumbnail(self, id: int) -> Image | None:
        """Small image of a keyframe, (H, W, 3) BGR or (H, W); None when it was stored without.

        Raises:
            InputError: unknown id.
        """
        data = self.thumbnail_jpeg(id)
        return None if data is None else decode_thumbnail(data)

    def thumbnail_jpeg(self, id: int) -> bytes | None:
        """The same as JPEG data, as stored."""
        with self._reading():
            return self._part("thumbnails", id)

    def closures(self) -> list[LoopClosure]:
        """All closures in the order in which they were stored."""
        with self._reading():
            return [closure_from_row(row) for row in self.database.rows("closures")]

    def record(self, id: int) -> KeyframeRecord:
        """A keyframe as stored, for `add_records` of another map.

        Raises:
            InputError: unknown id.
        """
        with self._reading():
            return self._record(id)

    # Documents

    def document(self, key: str) -> dict[str, Any] | None:
        """A small JSON document (calibration, run summary); None when there is none of this name."""
        text = self._named("documents", key)
        return None if text is None else cast("dict[str, Any]", json.loads(cast(str, text)))

    def blob(self, key: str) -> bytes | None:
        """Named bytes (an image, a mask); None when there are none of this name."""
        return cast("bytes | None", self._named("blobs", key))

    def document_keys(self) -> list[str]:
        """Names of all documents."""
        with self._reading():
            return [cast(str, key) for key, _ in self.database.rows("documents")]

    def blob_keys(self) -> list[str]:
        """Names of all blobs."""
        with self._reading():
            return [cast(str, key) for key, _ in self.database.rows("blobs")]

    def _named(self, table: str, key: str) -> str | bytes | None:
        with self._reading():
            row = self.database.row(table, key)
            if row is None:
                self.database.confirm_absent(table, key)
                return None
            return cast("str | bytes", row[1])

    # Inside a reading or a transaction

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self.database.reading():
            try:
                yield
            except (InputError, MapError):
                raise
            except (ValueError, LookupError, TypeError, struct.error) as error:
                # The checksums hold, so another program wrote this; it must not pass for a bug of the caller.
                raise self.database.damaged(f"its content cannot be understood ({error})") from error

    def _keyframe_row(self, id: int) -> Row:
        row = self.database.row("keyframes", int(id))
        if row is None:
            self.database.confirm_absent("keyframes", int(id))
            raise InputError(f"keyframe {id} is unknown; the ids of this map are those of infos()")
        return row

    def _part(self, part: str, id: int) -> bytes | None:
        if part not in part_names(self._keyframe_row(id)):
            return None
        row = self.database.row(part, int(id))
        if row is None:
            raise self.database.damaged(f"{part} of keyframe {id} are lost")
        return cast(bytes, row[1])

    def _record(self, id: int) -> KeyframeRecord:
        row = self._keyframe_row(id)
        parts = {part: self._part(part, id) for part in part_names(row)}
        return KeyframeRecord(row, {part: data for part, data in parts.items() if data is not None})

    def _unpack_descriptors(self, blobs: Sequence[bytes]) -> NDArray[np.float32]:
        rows = np.frombuffer(b"".join(blobs), dtype=self._coding).reshape(len(blobs), self.spec.dimension)
        descriptors = rows.astype(np.float32)
        return cast("NDArray[np.float32]", descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True))
