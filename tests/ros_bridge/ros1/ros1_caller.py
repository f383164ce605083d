"""A user of the services: makes calls and prints each answer as a JSON object. A process of its own."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import numpy as np
import rospy

from tests.ros_bridge.ros1.ros1_listener import plain
from tests.ros_bridge.ros1.ros1_player import picture

WAIT_S = 20.0


def main() -> None:
    """Arguments: a recording, and calls as JSON: [["progeo/save_map", "progeo_msgs/SaveMap", {"path": ...}], ...]."""
    recording_path, calls = rospy.myargv()[1:]
    rospy.init_node("caller", anonymous=True)
    with np.load(recording_path) as recording:
        images = recording["images"]
    for service, kind, fields in json.loads(calls):
        if "image" in fields:
            fields["image"] = picture(rospy.Time(1, 0), images[fields["image"]], "bgr8")
        sys.stdout.write(json.dumps(plain(_call(service, kind, fields))) + "\n")
        sys.stdout.flush()


def _call(service: str, kind: str, fields: dict[str, Any]) -> Any:
    package, _, name = kind.partition("/")
    service_class = getattr(importlib.import_module(f"{package}.srv"), name)
    rospy.wait_for_service(service, WAIT_S)
    return rospy.ServiceProxy(service, service_class)(**fields)


if __name__ == "__main__":
    main()
