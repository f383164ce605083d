"""The node's services, under its own name (~/). Each answers with a sentence when it cannot do what it is asked."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

from progeo_edge.errors import ConfigError, ProgeoError
from progeo_edge.sources.images import FrameError
from progeo_ros.conversions.incoming import header_stamp_ns, image_of
from progeo_ros.conversions.outgoing import loop_candidates_message, loop_closure_messages, relocalization_message
from progeo_ros.ros2.operation import Operation
from progeo_ros.ros2.types import RclpyTypes

Handler = Callable[[Operation, Any, Any], str]
"""Fills the response and returns its message; raises what makes it unsuccessful."""


class Services:
    """Offers the services for as long as the node lives, so that a caller learns why nothing can be done.

    Args:
        node: Owner of the services.
        types: Of requests and responses; without progeo_msgs only the standard ones are offered.
        operation: What is configured; None while nothing is.
    """

    def __init__(self, node: Node, types: RclpyTypes, operation: Callable[[], Operation | None]) -> None:
        self._node, self._types, self._operation = node, types, operation
        # Reentrant: `relocalize` waits for images while others are answered.
        self._group = ReentrantCallbackGroup()
        self._offer("start_session", "std_srvs/srv/Trigger", _start_session)
        self._offer("clear", "std_srvs/srv/Trigger", _clear)
        self._offer("set_paused", "std_srvs/srv/SetBool", _set_paused)
        if types.has("progeo_msgs/srv/Query"):
            self._offer("query", "progeo_msgs/srv/Query", self._query)
            self._offer("relocalize", "progeo_msgs/srv/Relocalize", self._relocalize)
            self._offer("save_map", "progeo_msgs/srv/SaveMap", _save_map)
            self._offer("load_map", "progeo_msgs/srv/LoadMap", _load_map)
            self._offer("merge_map", "progeo_msgs/srv/MergeMap", _merge_map)
            self._offer("calibrate", "progeo_msgs/srv/Calibrate", _calibrate)

    def _offer(self, name: str, srvtype: str, handle: Handler) -> None:
        kind = self._types.find(srvtype)
        self._node.create_service(kind, f"~/{name}", self._answering(name, handle), callback_group=self._group)

    def _answering(self, name: str, handle: Handler) -> Callable[[Any, Any], Any]:
        @wraps(handle)
        def answer(request: Any, response: Any) -> Any:  # noqa: ANN401
            try:
                operation = self._operation()
                if operation is None:
                    raise ConfigError("the node is not configured; configure it first")
                response.message = handle(operation, request, response)
                response.success = True
            except (ProgeoError, FrameError) as error:
                response.success, response.message = False, str(error)
            except Exception as error:  # out of a callback it would end the node
                self._node.get_logger().error(f"service {name} failed:\n{traceback.format_exc()}")
                response.success, response.message = False, f"service {name} failed: {error!r}; the log has more"
            return response

        return answer

    def _query(self, operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
        image = image_of(request.image)
        stamp_ns, frame_id = header_stamp_ns(request.image), request.image.header.frame_id
        outcome = operation.recogniser.query(image, stamp_ns=stamp_ns, camera_frame=frame_id)
        response.candidates = loop_candidates_message(self._types, outcome)
        return outcome.update.status.value

    def _relocalize(self, operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
        timeout_s = request.timeout_s or operation.config.relocalize.timeout_s
        if not math.isfinite(timeout_s) or timeout_s < 0:
            raise ConfigError(f"timeout_s is {timeout_s}; expected seconds, or 0 for relocalize.timeout_s")
        answer = operation.pipeline.relocalize(timeout_s)
        outcome, closure = answer.outcome, answer.closure
        if outcome is not None and closure is not None:
            position = outcome.update.closures.index(closure)
            response.closure = loop_closure_messages(self._types, outcome)[position]
        if answer.problem or outcome is None or closure is None:
            raise ConfigError(answer.problem)
        response.pose = relocalization_message(self._types, outcome, operation.config.frames.map)
        return f"recognised keyframe {closure.reference_id} of session {outcome.session_of(closure.reference_id)!r}"


def _start_session(operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    return f"session {operation.recogniser.start_session()!r} begins"


def _clear(operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    before = operation.recogniser.map_path
    path = operation.recogniser.clear()
    return f"the map is now {path}, and empty; the one before is kept as {before}"


def _set_paused(operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    if not operation.pause(bool(request.data)):
        raise ConfigError("the node is not active; activate it first")
    return "paused: images are dropped" if request.data else "images are taken again"


def _save_map(operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    response.num_keyframes = operation.recogniser.save_map(request.path, overwrite=request.overwrite)
    return f"{response.num_keyframes} keyframes saved to {request.path}"


def _load_map(operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    response.num_keyframes = operation.recogniser.load_map(request.path, read_only=request.read_only)
    return f"{request.path} is in use, with {response.num_keyframes} keyframes"


def _merge_map(operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    before = operation.recogniser.num_keyframes
    response.num_keyframes = operation.recogniser.merge_map(request.path)
    return f"{response.num_keyframes - before} keyframes of {request.path} added"


def _calibrate(operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    response.min_similarity = math.nan
    raise ConfigError(
        "this version has no calibration yet; set gate.min_similarity by hand, or leave the decision to the geometry"
    )
