"""Messages of ROS 1: classes that genpy has generated."""

from __future__ import annotations

import importlib
import re
from typing import Any

import genpy
import numpy as np

from progeo_edge.errors import InputError
from progeo_ros.message_types import NANOSECONDS

_ARRAY = re.compile(r"(?P<element>[\w/]+)\[(?P<length>\d*)\]")
_BYTES = ("uint8", "char")


class GenpyTypes:
    """`MessageTypes` on the generated classes of the packages that Python can import."""

    def __init__(self) -> None:
        """Begin with nothing imported; packages are imported when they are asked for."""
        self._classes: dict[str, Any] = {}

    def has(self, name: str) -> bool:
        """See `MessageTypes.has`."""
        return self._find(name) is not None

    def make(self, name: str, /, **fields: Any) -> Any:  # noqa: ANN401
        """See `MessageTypes.make`."""
        message_class = self.message_class(name)
        kinds = dict(zip(message_class.__slots__, message_class._slot_types, strict=True))
        if strange := sorted(set(fields) - set(kinds)):
            raise InputError(f"message type {name} has no field {strange[0]!r}; it has {', '.join(kinds)}")
        return message_class(**{field: _value(value, kinds[field]) for field, value in fields.items()})

    def time(self, stamp_ns: int) -> Any:  # noqa: ANN401
        """See `MessageTypes.time`."""
        seconds, nanoseconds = divmod(int(stamp_ns), NANOSECONDS)
        return genpy.Time(seconds, nanoseconds)

    def message_class(self, name: str) -> Any:  # noqa: ANN401
        """Class of a message, of a service ("progeo_msgs/srv/Query"), or of a part of one ("..._Request").

        Raises:
            InputError: its package is not built, not sourced, or has no such type.
        """
        found = self._find(name)
        if found is None:
            package = name.partition("/")[0]
            raise InputError(f"message type {name} is unknown; build the package {package} and source its workspace")
        return found

    def _find(self, name: str) -> Any:  # noqa: ANN401
        if name not in self._classes:
            self._classes[name] = _import_class(name)
        return self._classes[name]


def _import_class(name: str) -> Any:  # noqa: ANN401
    """None when there is no such package or type."""
    package, kind, type_name = name.split("/")
    module_name = f"{package}.{kind}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name in (package, module_name):
            return None
        raise
    # ROS 2 writes Query_Request where ROS 1 has QueryRequest.
    return getattr(module, re.sub(r"_(Request|Response)$", r"\1", type_name), None)


def _value(value: Any, kind: str) -> Any:  # noqa: ANN401
    """In the form that genpy packs: bytes for uint8[], a list for other arrays, Python's own numbers."""
    array = _ARRAY.fullmatch(kind)
    if array is None:
        return _scalar(value, kind)
    element, length = array["element"], array["length"]
    if element in _BYTES:
        value = value if isinstance(value, bytes) else np.asarray(value, np.uint8).tobytes()
    else:
        value = value.ravel().tolist() if isinstance(value, np.ndarray) else list(value)
    if length and len(value) != int(length):
        raise InputError(f"a field of {length} {element} got {len(value)} values")
    return value


def _scalar(value: Any, kind: str) -> Any:  # noqa: ANN401
    """ROS 2 hands over a byte as bytes of length 1; numbers may be numpy's."""
    if kind == "byte" and isinstance(value, bytes):
        return int.from_bytes(value, "little", signed=True)
    return value.item() if isinstance(value, np.generic) else value
