"""Messages through rclpy, with the forms of arrays that its setters take without copying element by element."""

from __future__ import annotations

import array
import importlib
from functools import cache
from typing import Any

import numpy as np

from progeo_edge.errors import InputError
from progeo_ros.message_types import NANOSECONDS

_ARRAY_CODES = {
    "uint8": "B",
    "octet": "B",
    "int8": "b",
    "uint16": "H",
    "int16": "h",
    "uint32": "I",
    "int32": "i",
    "uint64": "Q",
    "int64": "q",
    "float": "f",
    "double": "d",
}
"""Names of primitive types in `get_fields_and_field_types`, and their codes in `array`. None differs in width here."""

_NUMPY_TYPES = {"float": np.float32, "double": np.float64, "octet": np.uint8}


class RclpyTypes:
    """`MessageTypes` on the message packages of the ROS 2 that is sourced."""

    def has(self, name: str) -> bool:
        """See `MessageTypes.has`."""
        return self.find(name) is not None

    def find(self, name: str) -> Any | None:  # noqa: ANN401
        """The class of a message, a service ("progeo_msgs/srv/Query") or a part of one; None when it is not there."""
        return _class_of(name)

    def make(self, name: str, /, **fields: Any) -> Any:  # noqa: ANN401
        """See `MessageTypes.make`."""
        kind = _class_of(name)
        if kind is None:
            raise InputError(f"message type {name} is not there; build its package and source it")
        known = kind.get_fields_and_field_types()
        if strange := sorted(set(fields) - set(known)):
            raise InputError(f"message type {name} has no field {strange[0]!r}; it has {', '.join(known)}")
        return kind(**{field: _value(value, known[field]) for field, value in fields.items()})

    def time(self, stamp_ns: int) -> Any:  # noqa: ANN401
        """See `MessageTypes.time`."""
        seconds, nanoseconds = divmod(int(stamp_ns), NANOSECONDS)
        return self.make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)


@cache
def _class_of(name: str) -> Any | None:  # noqa: ANN401
    package, folder, kind = name.split("/")
    try:
        module = importlib.import_module(f"{package}.{folder}")
    except ModuleNotFoundError as error:
        if error.name not in (package, f"{package}.{folder}"):
            raise  # the package is there, but something that it needs is not
        return None
    service, separator, part = kind.rpartition("_")
    if folder == "srv" and separator and part in ("Request", "Response"):
        return getattr(getattr(module, service, None), part, None)
    return getattr(module, kind, None)


def _value(value: Any, kind: str) -> Any:  # noqa: ANN401
    """A value in the form that the setter of a field of this kind takes as it is."""
    if kind.startswith("sequence<"):
        return _sequence(value, kind[len("sequence<") : -1].split(",")[0].strip())
    if kind.endswith("]"):
        return _fixed_array(value, kind[: kind.index("[")])
    if kind in ("float", "double"):
        return float(value)
    if kind == "octet" and isinstance(value, int):
        return bytes([value])
    return value.item() if isinstance(value, np.generic) else value


def _sequence(value: Any, element: str) -> Any:  # noqa: ANN401
    code = _ARRAY_CODES.get(element)
    if code is None or element == "octet":
        return [item.item() if isinstance(item, np.generic) else item for item in value]
    if isinstance(value, array.array) and value.typecode == code:
        return value
    filled = array.array(code)
    if isinstance(value, bytes | bytearray | memoryview):
        filled.frombytes(value)
    else:
        filled.frombytes(np.ascontiguousarray(value, dtype=_NUMPY_TYPES.get(element, element)).tobytes())
    return filled


def _fixed_array(value: Any, element: str) -> Any:  # noqa: ANN401
    if element not in _ARRAY_CODES or element == "octet":
        return list(value)
    return np.ascontiguousarray(value, dtype=_NUMPY_TYPES.get(element, element)).ravel()
