"""The HNSW graph as a cache beside the map: read back when it is intact and of this map, rebuilt when not.

A damaged graph crashes hnswlib or, worse, answers wrongly without a word. So its bytes are kept in a container with
checksums, and hnswlib sees them only after these matched. The checksums guard against damage, not against forgery.

Layout: magic (8 bytes), length of the header (uint32, little endian), sha256 of the header (32 bytes), header (JSON),
ids (int64), labels (int64), hnswlib's own format.
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progeo_edge.atomic import replacing
from progeo_edge.config import SearchConfig
from progeo_edge.errors import InputError
from progeo_edge.graph_rows import GraphSnapshot
from progeo_edge.hnsw_graph import HnswGraph
from progeo_edge.index import PlaceIndex
from progeo_edge.index_input import check_descriptors, check_ids

_LOGGER = logging.getLogger(__name__)
_MAGIC = b"PGEHNSW\n"
_VERSION = 1
_MAX_HEADER_BYTES = 65_536
_CHUNK_BYTES = 1 << 20


class _Unusable(Exception):
    """Why a cache is not used; never leaves this module."""


def save_index(index: PlaceIndex, path: Path, map_id: str) -> bool:
    """Write the graph of an index beside its map, atomically.

    Args:
        index: May be in use by other threads.
        path: File to write; an older one is replaced.
        map_id: Identity of the map; only the same one will read it back.

    Returns:
        False when nothing was written: an index without a graph needs no cache (an older file is deleted), and a
        cache that cannot be written is only worth a warning, since it can be rebuilt.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
            graph_path = Path(folder) / "graph"
            snapshot = index.snapshot(graph_path)
            if snapshot is None:
                path.unlink(missing_ok=True)
                return False
            header = _identity(map_id, index.dimension, index.config) | _content(snapshot, graph_path)
            _write_container(path, header, snapshot, graph_path)
    except OSError as error:
        _LOGGER.warning("index cache %s was not written (%s); it will be rebuilt from the map", path, error)
        return False
    return True


def load_index(
    path: Path, map_id: str, ids: ArrayLike, descriptors: NDArray[np.float32], config: SearchConfig
) -> PlaceIndex:
    """An index of these descriptors, with the graph from the cache if that is intact and of this map.

    The map may have grown since the cache was written: what is not in the graph is added to it.

    Args:
        path: File of `save_index`; it need not exist.
        map_id: Identity of the map.
        ids: (N,) ids of all keyframes to be found.
        descriptors: (N, D) their descriptors; (0, D) for an empty map. They are compared with the cached ones at half
            precision, in which maps store them.
        config: Settings of the index.

    Raises:
        InputError: bad ids or descriptors. A bad cache is a warning with the reason, and a rebuild.
    """
    if np.ndim(descriptors) != 2:
        raise InputError(f"descriptors have shape {np.shape(descriptors)}; expected (N, D), (0, D) for an empty map")
    dimension = descriptors.shape[1]
    all_ids, vectors = check_ids(ids), check_descriptors(descriptors, dimension)
    index = PlaceIndex(dimension, config)
    if len(all_ids) > config.hnsw_above and path.exists():
        try:
            graph, snapshot = _read_container(path, _identity(map_id, dimension, config), all_ids, vectors, config)
        except (_Unusable, OSError, RuntimeError) as error:
            _LOGGER.warning(
                "index cache %s is not used: %s; rebuilding it from %d keyframes", path, error, len(all_ids)
            )
        else:
            index.adopt(graph, snapshot)
    missing = ~np.isin(all_ids, index.ids)
    index.add(all_ids[missing], vectors[missing])
    return index


# -- what is written -------------------------------------------------------------------------------------------------


def _identity(map_id: str, dimension: int, config: SearchConfig) -> dict[str, Any]:
    """What must be the same for a cache to be of use."""
    return {
        "version": _VERSION,
        "platform": f"{sys.byteorder} endian, {struct.calcsize('P')} byte pointers",
        "map_id": map_id,
        "dimension": dimension,
        "hnsw_m": config.hnsw_m,
        "hnsw_ef_construction": config.hnsw_ef_construction,
    }


def _content(snapshot: GraphSnapshot, graph_path: Path) -> dict[str, Any]:
    payload = hashlib.sha256(snapshot.ids.tobytes() + snapshot.labels.tobytes())
    with graph_path.open("rb") as file:
        for chunk in _chunks(file):
            payload.update(chunk)
    return {
        "count": len(snapshot.ids),
        "num_inserted": snapshot.num_inserted,
        "num_removed": snapshot.num_removed,
        "payload_sha256": payload.hexdigest(),
        "descriptors_sha256": _fingerprint(snapshot.ids, snapshot.descriptors),
    }


def _write_container(path: Path, header: dict[str, Any], snapshot: GraphSnapshot, graph_path: Path) -> None:
    header_bytes = json.dumps(header).encode()
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_MAGIC + struct.pack("<I", len(header_bytes)) + hashlib.sha256(header_bytes).digest())
        file.write(header_bytes + snapshot.ids.tobytes() + snapshot.labels.tobytes())
        with graph_path.open("rb") as graph:
            for chunk in _chunks(graph):
                file.write(chunk)


def _fingerprint(ids: NDArray[np.int64], descriptors: NDArray[np.float32]) -> str:
    return hashlib.sha256(ids.tobytes() + descriptors.astype(np.float16).tobytes()).hexdigest()


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


# -- what is read ----------------------------------------------------------------------------------------------------


def _read_container(
    path: Path,
    identity: dict[str, Any],
    ids: NDArray[np.int64],
    descriptors: NDArray[np.float32],
    config: SearchConfig,
) -> tuple[HnswGraph, GraphSnapshot]:
    with path.open("rb") as file, tempfile.TemporaryDirectory() as folder:
        header = _read_header(file)
        _compare_identity(header, identity)
        count = header["count"]
        id_bytes, label_bytes = file.read(8 * count), file.read(8 * count)
        graph_path = Path(folder) / "graph"
        if _copy_and_hash(id_bytes + label_bytes, file, graph_path) != header["payload_sha256"]:
            raise _Unusable("its checksum does not match, so it is damaged")
        cached_ids = np.frombuffer(id_bytes, dtype=np.int64)
        vectors = _descriptors_of(cached_ids, ids, descriptors)
        if _fingerprint(cached_ids, vectors) != header["descriptors_sha256"]:
            raise _Unusable("it was made from other descriptors than the map's")
        num_inserted, num_removed = header["num_inserted"], header["num_removed"]
        graph = HnswGraph.load(
            graph_path, identity["dimension"], config, num_inserted=num_inserted, num_removed=num_removed
        )
        labels = np.frombuffer(label_bytes, dtype=np.int64)
        return graph, GraphSnapshot(cached_ids, labels, vectors, num_inserted, num_removed)


def _read_header(file: BinaryIO) -> dict[str, Any]:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise _Unusable("it does not start like an index cache")
    length_bytes, digest = file.read(4), file.read(32)
    length = int.from_bytes(length_bytes, "little")
    header_bytes = file.read(length) if length <= _MAX_HEADER_BYTES else b""
    if hashlib.sha256(header_bytes).digest() != digest:
        raise _Unusable("the checksum of its header does not match, so it is damaged")
    header: dict[str, Any] = json.loads(header_bytes)
    return header


def _compare_identity(header: dict[str, Any], identity: dict[str, Any]) -> None:
    for key, expected in identity.items():
        if header.get(key) != expected:
            raise _Unusable(f"its {key} is {header.get(key)!r}, here it is {expected!r}")


def _copy_and_hash(start: bytes, file: BinaryIO, target: Path) -> str:
    digest = hashlib.sha256(start)
    with target.open("wb") as copy:
        for chunk in _chunks(file):
            digest.update(chunk)
            copy.write(chunk)
    return digest.hexdigest()


def _descriptors_of(
    wanted: NDArray[np.int64], ids: NDArray[np.int64], descriptors: NDArray[np.float32]
) -> NDArray[np.float32]:
    order = np.argsort(ids)
    places = np.searchsorted(ids[order], wanted)
    found = order[np.minimum(places, len(ids) - 1)]
    absent = wanted[ids[found] != wanted]
    if absent.size:
        raise _Unusable(f"it holds {len(wanted)} keyframes, of which {absent.size} are not in the map")
    return descriptors[found]
