"""Serialisation of ROS 2 (plain little-endian CDR, OMG DDS-RTPS 9.4.2) and of ROS 1, a second time.

Written from the rules, so that what rosbags writes is held to something that is not rosbags.
"""

from __future__ import annotations

import struct
from typing import Any

from rosbags.interfaces import Nodetype

FORMATS = {
    **{"bool": "?", "byte": "B", "octet": "B", "char": "B", "uint8": "B", "int8": "b", "uint16": "H", "int16": "h"},
    **{"uint32": "I", "int32": "i", "uint64": "Q", "int64": "q", "float32": "f", "float64": "d"},
}


class Wire:
    """Bytes of one message, by the fields of a store."""

    def __init__(self, fielddefs: Any, *, ros1: bool) -> None:
        self._fielddefs = fielddefs
        self._ros1 = ros1
        self._body = bytearray()

    def of(self, message: Any, name: str) -> bytes:
        self._struct(message, name)
        return bytes(self._body) if self._ros1 else b"\x00\x01\x00\x00" + bytes(self._body)

    def _struct(self, message: Any, name: str) -> None:
        for field, kind in self._fielddefs[name][1]:
            self._value(getattr(message, field), kind)

    def _value(self, value: Any, kind: Any) -> None:
        node, inner = kind
        if node == Nodetype.NAME:
            self._struct(value, inner)
        elif node == Nodetype.BASE:
            self._base(value, inner[0])
        else:
            if node == Nodetype.SEQUENCE:
                self._base(len(value), "uint32")
            for element in value:
                self._value(element, inner[0])

    def _base(self, value: Any, kind: str) -> None:
        if kind == "string":
            text = value.encode() + (b"" if self._ros1 else b"\0")
            self._base(len(text), "uint32")
            self._body += text
            return
        code = FORMATS[kind]
        size = struct.calcsize(code)
        if not self._ros1:
            self._body += bytes(-len(self._body) % size)
        self._body += struct.pack(f"<{code}", value)
