"""A look into an .onnx file before a native library loads it: which other files does it name, does it hold halves?

Walks the protobuf wire format (onnx.proto of ONNX) along the few fields that lead to tensors, so that the runtime needs
neither the onnx package nor trust in what the file points to.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from progeo_edge.errors import ModelError

_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
_TENSOR_DATA_TYPE = 2
_FLOAT16 = 10
_MAX_DEPTH = 64


@dataclass(slots=True)
class GraphScan:
    """What a graph file says of itself.

    Attributes:
        external_files: Names of the files that hold tensors outside the graph file.
        has_half: Whether any tensor is float16.
    """

    external_files: set[str] = field(default_factory=set)
    has_half: bool = False


def scan_graph(path: Path) -> GraphScan:
    """Read the structure of an .onnx file; tensor contents are skipped over.

    Raises:
        ModelError: unreadable, empty, or not in the protobuf wire format.
    """
    scan = GraphScan()
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _walk(data, 0, len(data), "model", scan, 0)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {path} is no readable ONNX file: {error}; copy or export it again") from error
    return scan


def _walk(data: mmap.mmap, start: int, end: int, message: str, scan: GraphScan, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"its messages are nested deeper than {_MAX_DEPTH}")
    children = _CHILDREN[message]
    for number, value, child_start, child_end in _fields(data, start, end):
        if message == "tensor" and number == _TENSOR_DATA_TYPE and value == _FLOAT16:
            scan.has_half = True
        child = children.get(number)
        if child is None or child_start < 0:
            continue
        if child == "external":
            _note_external(data, child_start, child_end, scan)
        else:
            _walk(data, child_start, child_end, child, scan, depth + 1)


def _note_external(data: mmap.mmap, start: int, end: int, scan: GraphScan) -> None:
    entry = {number: data[left:right] for number, _, left, right in _fields(data, start, end) if left >= 0}
    if entry.get(1) == b"location":
        scan.external_files.add(entry.get(2, b"").decode())


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Field number, value (varints), start and end of the content (length-delimited; else -1) of one message."""
    position = start
    while position < end:
        tag, position = _varint(data, position, end)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, position = _varint(data, position, end)
            yield number, value, -1, -1
            continue
        if wire_type == 2:
            size, position = _varint(data, position, end)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type} at byte {position}")
        if position + size > end:
            raise ValueError(f"a field of {size} bytes at byte {position} ends behind its message")
        yield number, 0, *((position, position + size) if wire_type == 2 else (-1, -1))
        position += size


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError(f"it is cut off at byte {position}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number of more than 10 bytes at byte {position}")
