"""`progeo-node-ros1`, or `rosrun progeo_ros progeo-node-ros1`: runs the node until ROS or the user ends it."""

from __future__ import annotations

import sys

import rospy

from progeo_edge.errors import ProgeoError
from progeo_ros.ros1.log_bridge import bridge_logs
from progeo_ros.ros1.node import Node
from progeo_ros.ros1.parameters import EVERY_NODE, settings_from

WRONG_INPUT = 2
"""Exit code after a sentence that says what to mend, as of all commands."""


def main() -> None:
    """Exit code 2, after one sentence, when parameters, model or map cannot be used."""
    rospy.init_node("progeo")
    bridge_logs()
    try:
        name = rospy.get_name().rpartition("/")[2]
        node = Node(*settings_from(rospy.get_param(EVERY_NODE, {}), rospy.get_param("~", {}), name))
    except ProgeoError as error:
        rospy.logfatal("%s", error)
        sys.exit(WRONG_INPUT)
    try:
        rospy.spin()
    finally:
        node.close()


if __name__ == "__main__":
    main()
