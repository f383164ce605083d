"""What the library logs, on the node's log: /rosout and the console."""

from __future__ import annotations

import logging

LIBRARIES = ("progeo_edge", "progeo_ros")


def bridge_logs() -> None:
    """Let the library's loggers write where those of rospy do; after rospy.init_node."""
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        for handler in logging.getLogger("rosout").handlers:
            logger.addHandler(handler)
