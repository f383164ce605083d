"""The node: it works from its start to its end, with diagnostics once a second."""

from __future__ import annotations

import threading

from progeo_edge.config import Config
from progeo_ros.complaints import Complaints
from progeo_ros.config import NodeConfig
from progeo_ros.operation import Operation
from progeo_ros.ros1.middleware import Rospy
from progeo_ros.ros1.services import offer_services

TICK_S = 1.0


class Node:
    """Made, it works until it is closed."""

    def __init__(self, config: NodeConfig, detector_config: Config) -> None:
        """Open everything, and subscribe.

        Raises:
            ProgeoError: model, map or camera file cannot be used; the message says which and what to do.
        """
        ros = Rospy()
        self._complaints = Complaints()
        self._operation = Operation(config, detector_config, ros)
        self._services = offer_services(ros.types, self._operation)
        self._operation.activate()
        self._diagnostics = ros.advertise("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", 10, latched=False)
        self._stopping = threading.Event()
        self._ticker = threading.Thread(target=self._tick_until_closed, name="progeo-ticker", daemon=True)
        self._ticker.start()

    def close(self) -> None:
        """Take no more messages, let the image at work finish, and close adapters, map and encoder."""
        for service in self._services:
            service.shutdown()
        self._stopping.set()
        self._ticker.join()
        self._operation.close()

    def _tick_until_closed(self) -> None:
        while not self._stopping.wait(TICK_S):
            try:
                self._diagnostics.publish(self._operation.tick())
            except Exception as error:  # out of this thread nobody would hear of it
                self._complaints.log_failure("diagnostics", error)
