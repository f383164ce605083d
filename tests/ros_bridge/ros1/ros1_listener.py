"""A consumer: writes every message of some topics to a file, one JSON object per line. A process of its own."""

from __future__ import annotations

import importlib
import json
import sys
from functools import partial
from typing import Any, TextIO

import rospy


def main() -> None:
    """Arguments: the file, then "topic:package/Type" for each topic."""
    path, *topics = rospy.myargv()[1:]
    rospy.init_node("listener", anonymous=True)
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
        for item in topics:
            topic, _, kind = item.partition(":")
            package, _, name = kind.partition("/")
            message_class = getattr(importlib.import_module(f"{package}.msg"), name)
            rospy.Subscriber(topic, message_class, partial(_write, file, topic), queue_size=100)
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        rospy.spin()


def _write(file: TextIO, topic: str, message: Any) -> None:
    file.write(json.dumps({"topic": topic, "message": plain(message)}) + "\n")
    file.flush()


def plain(value: Any) -> Any:
    """Times as nanoseconds, bytes by their number; NaN stays NaN, as Python's json has it."""
    if hasattr(value, "to_nsec"):
        return value.to_nsec()
    if hasattr(value, "__slots__") and hasattr(value, "_slot_types"):
        return {name: plain(getattr(value, name)) for name in value.__slots__}
    if isinstance(value, bytes):
        return len(value)
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    main()
