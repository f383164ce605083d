"""Messages through rosbags: made, read and written without ROS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from progeo_edge.errors import InputError
from progeo_ros.definitions import message_definitions, service_definitions
from progeo_ros.message_types import NANOSECONDS

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore


class RosbagsTypes:
    """`MessageTypes` on a type store of rosbags.

    Attributes:
        store: With the messages of one version of ROS, and those of progeo_msgs.
    """

    def __init__(self, store: Typestore | None = None) -> None:
        """Use a store, or that of ROS 2 Jazzy."""
        self.store = store or get_typestore(Stores.ROS2_JAZZY)
        self._is_ros1 = "seq" in dict(self.store.fielddefs["std_msgs/msg/Header"][1])
        register_progeo(self.store)

    def has(self, name: str) -> bool:
        """See `MessageTypes.has`."""
        return name in self.store.types

    def make(self, name: str, /, **fields: Any) -> Any:  # noqa: ANN401
        """See `MessageTypes.make`."""
        if name not in self.store.types:
            raise InputError(f"message type {name} is unknown; register its definition first")
        known = dict(self.store.fielddefs[name][1])
        if strange := sorted(set(fields) - set(known)):
            raise InputError(f"message type {name} has no field {strange[0]!r}; it has {', '.join(known)}")
        values = {
            field: _value(fields[field], kind) if field in fields else self._default(kind)
            for field, kind in known.items()
        }
        return self.store.types[name](**values)

    def time(self, stamp_ns: int) -> Any:  # noqa: ANN401
        """See `MessageTypes.time`."""
        seconds, nanoseconds = divmod(int(stamp_ns), NANOSECONDS)
        return self.make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)

    def to_bytes(self, message: Any) -> bytes:  # noqa: ANN401
        """Serialised as this version of ROS does: CDR, or the form of ROS 1."""
        serialize = self.store.serialize_ros1 if self._is_ros1 else self.store.serialize_cdr
        return bytes(serialize(message, message.__msgtype__))

    def from_bytes(self, data: bytes, name: str) -> Any:  # noqa: ANN401
        """The inverse of `to_bytes`."""
        deserialize = self.store.deserialize_ros1 if self._is_ros1 else self.store.deserialize_cdr
        return deserialize(data, name)

    def _default(self, kind: Any) -> Any:  # noqa: ANN401
        node, inner = kind
        if node == Nodetype.NAME:
            return self.make(inner)
        if node == Nodetype.BASE:
            return _BASE_DEFAULTS.get(inner[0], 0)
        (element, element_kind), length = inner
        if element == Nodetype.BASE and element_kind[0] not in _BASE_DEFAULTS:
            return np.zeros(length if node == Nodetype.ARRAY else 0, _DTYPES.get(element_kind[0], element_kind[0]))
        if element == Nodetype.BASE and element_kind[0] in ("float32", "float64", "bool"):
            return np.zeros(length if node == Nodetype.ARRAY else 0, element_kind[0])
        return [self._default(inner[0]) for _ in range(length if node == Nodetype.ARRAY else 0)]


_BASE_DEFAULTS: dict[str, Any] = {"string": "", "bool": False, "float32": 0.0, "float64": 0.0}
_DTYPES = {"byte": "uint8", "octet": "uint8", "char": "uint8"}


def register_progeo(store: Typestore) -> None:
    """Make a store know the messages of progeo_msgs, and requests and responses of its services."""
    found = {}
    for name, text in message_definitions().items():
        if name not in store.types:
            found.update(get_types_from_msg(text, name))
    for name, texts in service_definitions().items():
        for part, text in zip(("Request", "Response"), texts, strict=True):
            if f"{name}_{part}" not in store.types:
                # rosbags knows messages only; relative types in a service are those of its package's messages.
                as_message = get_types_from_msg(text, f"{name.replace('/srv/', '/msg/')}_{part}")
                found[f"{name}_{part}"] = next(iter(as_message.values()))
    store.register(found)


def _value(value: Any, kind: Any) -> Any:  # noqa: ANN401
    """Sequences of numbers as arrays of their type, which is what rosbags writes."""
    node, inner = kind
    if node not in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        return value
    (element, element_kind), length = inner
    if element != Nodetype.BASE or element_kind[0] == "string":
        return list(value)
    dtype = _DTYPES.get(element_kind[0], element_kind[0])
    if isinstance(value, bytes | bytearray | memoryview):
        value = np.frombuffer(value, np.uint8)
    array = np.asarray(value).astype(dtype, copy=False).ravel()
    if node == Nodetype.ARRAY and len(array) != length:
        raise InputError(f"a field of {length} {element_kind[0]} got {len(array)} values")
    return array
