"""The node's services, under its own name (~/)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

from progeo_ros.operation import Operation
from progeo_ros.ros2.types import RclpyTypes
from progeo_ros.service_answers import Service, answer, services


class Services:
    """Offers the services for as long as the node lives, so that a caller learns why nothing can be done.

    Args:
        node: Owner of the services.
        types: Of requests and responses; without progeo_msgs only the standard ones are offered.
        operation: What is configured; None while nothing is.
    """

    def __init__(self, node: Node, types: RclpyTypes, operation: Callable[[], Operation | None]) -> None:
        # Reentrant: `relocalize` waits for images while others are answered.
        group = ReentrantCallbackGroup()

        def offer(service: Service) -> None:
            def respond(request: Any, response: Any) -> Any:  # noqa: ANN401
                answer(service, types, operation(), request, response)
                return response

            node.create_service(types.find(service.srvtype), f"~/{service.name}", respond, callback_group=group)

        for service in services(types):
            offer(service)
