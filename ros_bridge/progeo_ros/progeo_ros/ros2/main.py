"""progeo-node: the node in its executor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import rclpy
from rclpy.exceptions import InvalidHandle, InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import Executor, ExternalShutdownException, MultiThreadedExecutor

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
        rclpy.logging.get_logger("progeo").error(
            f"{error}; mend it in the parameter file, or where -p or the launch file sets it"
        )
        rclpy.try_shutdown()
        sys.exit(2)
    executor = MultiThreadedExecutor(num_threads=NUM_THREADS)
    executor.add_node(node)
    try:
        wait_for(executor)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def wait_for(executor: Executor) -> None:
    """Wait for Ctrl-C or a shutdown while an executor works in a thread of its own.

    Ctrl-C is raised in the main thread. There it could hit the executor while it starts one of its threads, which
    Python then never ends: the process would stay.
    """
    with ThreadPoolExecutor(1, "executor") as thread:
        work = thread.submit(spin, executor)
        with suppress(KeyboardInterrupt, ExternalShutdownException):
            work.result()  # these are the usual ways to end; rclpy shuts down by itself then, which ends the thread


def spin(executor: Executor) -> None:
    """Work until the end. A message for a subscription that `deactivate` just took away is no reason to end.

    rclpy of Humble raises then; later ones leave the message out.
    """
    while True:
        try:
            executor.spin()
        except InvalidHandle:
            continue
        return


if __name__ == "__main__":
    main()
