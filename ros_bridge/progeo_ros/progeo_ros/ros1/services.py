"""The node's services, under its own name."""

from __future__ import annotations

from typing import Any

import rospy

from progeo_ros.operation import Operation
from progeo_ros.ros1.types import GenpyTypes
from progeo_ros.service_answers import Service, answer, services


def offer_services(types: GenpyTypes, operation: Operation) -> list[Any]:
    """Offer all whose types are there; rospy answers each call in a thread of its own."""
    return [_offer(service, types, operation) for service in services(types)]


def _offer(service: Service, types: GenpyTypes, operation: Operation) -> Any:  # noqa: ANN401
    def respond(request: Any) -> Any:  # noqa: ANN401
        response = types.make(f"{service.srvtype}_Response")
        answer(service, types, operation, request, response)
        return response

    return rospy.Service(f"~{service.name}", types.message_class(service.srvtype), respond)
