"""How the tests call progeo-replay, and what they read back."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader

from progeo_ros.message_types import stamp_ns_of
from tests.ros_bridge.street_bag import DEPTH, IMAGE
from tests.small_world import LIGHT

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-c", "from progeo_ros.replay.command import main; main()"]
ENVIRONMENT = {**os.environ, "COLUMNS": "200", "PYTHONPATH": f"{ROOT}:{ROOT / 'ros_bridge' / 'progeo_ros'}"}
SETTINGS = [argument for item in (*LIGHT, "budget.max_verifications=1") for argument in ("--set", item)]
WITH_DEPTH = [*SETTINGS, "--topic", f"image={IMAGE}", "--topic", f"depth={DEPTH}"]


class Written:
    """What a replay wrote, read back."""

    def __init__(self, path):
        self.messages: dict[str, list[Any]] = defaultdict(list)
        self.changed: list[str] = []
        with AnyReader([path]) as reader:
            extras: list[tuple[str, Any]] = [(connection.topic, connection.ext) for connection in reader.connections]
            self.qos = {topic: extra.offered_qos_profiles[0] for topic, extra in extras}
            for connection, _, data in reader.messages():
                message: Any = reader.deserialize(data, connection.msgtype)
                self.messages[connection.topic].append(message)
                if bytes(reader.typestore.serialize_cdr(message, connection.msgtype)) != bytes(data):
                    self.changed.append(connection.topic)

    def stamps_ns(self, topic):
        return [stamp_ns_of(message.header.stamp) for message in self.messages[topic]]
