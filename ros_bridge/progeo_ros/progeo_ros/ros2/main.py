"""progeo-node: the node in its executor."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor

from progeo_ros.relocalization import MAX_WAITING
from progeo_ros.ros2.node import ProgeoNode

NUM_THREADS = MAX_WAITING + 4
"""Those who wait for a pose hold a thread each; inputs, diagnostics, services and transitions need one too."""


def main(args: Sequence[str] | None = None) -> None:
    """Run until Ctrl-C or a shutdown, and close the map and the GPU on the way out."""
    rclpy.init(args=list(args) if args is not None else None)
    try:
        node = ProgeoNode()
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        rclpy.logging.get_logger("progeo").error(str(error))
        rclpy.try_shutdown()
        sys.exit(2)
    executor = MultiThreadedExecutor(num_threads=NUM_THREADS)
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # the usual ways to end a node
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
