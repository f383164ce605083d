"""What the node's services answer: the same in every ROS. Requests and responses have the fields of progeo_msgs/srv."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from progeo_edge.errors import ConfigError, ProgeoError
from progeo_edge.sources.images import FrameError
from progeo_ros.conversions.incoming import header_stamp_ns, image_of
from progeo_ros.conversions.outgoing import (
    STATUS_CODES,
    VERDICT_CODES,
    loop_candidates_message,
    loop_closure_messages,
)
from progeo_ros.conversions.whereabouts import whereabouts_message
from progeo_ros.message_types import MessageTypes
from progeo_ros.operation import Operation

log = logging.getLogger(__name__)

Handle = Callable[[MessageTypes, Operation, Any, Any], str]
"""Fills the response and returns its message; raises what makes it unsuccessful."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service under the node's own name.

    Attributes:
        name: "query" for ~query.
        srvtype: "progeo_msgs/srv/Query".
        handle: Its answer.
    """

    name: str
    srvtype: str
    handle: Handle


def services(types: MessageTypes) -> tuple[Service, ...]:
    """Those whose types are there; a line of the log says what is missing without progeo_msgs."""
    if not types.has("progeo_msgs/msg/LoopClosure"):
        log.warning(
            "progeo_msgs is not built: closures go out on loop_closure_pose in a standard message, and most services "
            "are not offered"
        )
    return tuple(service for service in _SERVICES if types.has(f"{service.srvtype}_Request"))


def answer(service: Service, types: MessageTypes, operation: Operation | None, request: Any, response: Any) -> None:  # noqa: ANN401
    """Fill a response, also when what was asked for cannot be done: an exception would tell the caller nothing.

    Args:
        service: Which one.
        types: Makes messages.
        operation: None while the node is not configured.
        request: As it came.
        response: With the defaults of its fields.
    """
    try:
        if operation is None:
            raise ConfigError("the node is not configured; configure it first")
        response.message = service.handle(types, operation, request, response)
        response.success = True
    except (ProgeoError, FrameError) as error:
        response.success, response.message = False, str(error)
    except Exception as error:  # out of a callback it would end the node
        log.exception("service %s failed", service.name)
        response.success, response.message = False, f"service {service.name} failed: {error!r}; the log has more"


def _query(types: MessageTypes, operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    image = image_of(request.image)
    stamp_ns, frame_id = header_stamp_ns(request.image), request.image.header.frame_id
    outcome = operation.recogniser.query(image, stamp_ns=stamp_ns, camera_frame=frame_id, camera=request.camera)
    response.candidates = loop_candidates_message(types, outcome)
    return outcome.update.status.value


def _relocalize(types: MessageTypes, operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    timeout_s = request.timeout_s or operation.config.relocalize.timeout_s
    if not math.isfinite(timeout_s) or timeout_s < 0:
        raise ConfigError(f"timeout_s is {timeout_s}; expected seconds, or 0 for relocalize.timeout_s")
    answer = operation.pipeline.relocalize(timeout_s)
    found = answer.found
    if found is not None:
        relocalisation = found.relocalisation
        response.status = types.make("progeo_msgs/msg/Status", value=STATUS_CODES[relocalisation.status])
        response.probability = float(relocalisation.probability)
        response.num_images = relocalisation.num_frames
        for message in loop_closure_messages(types, found.outcome):
            response.closure = message
    if answer.problem or found is None or found.relocalisation.match is None:
        raise ConfigError(answer.problem)
    odometry = operation.recogniser.config.odometry
    response.pose = whereabouts_message(types, found, operation.config.frames.map, odometry)
    reference_id = found.relocalisation.match.reference_id
    return (
        f"recognised keyframe {reference_id} of session {found.outcome.session_of(reference_id)!r} with probability "
        f"{found.relocalisation.probability:.3f}"
    )


def _start_session(types: MessageTypes, operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    return f"session {operation.recogniser.start_session()!r} begins"


def _clear(types: MessageTypes, operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    before = operation.recogniser.map_path
    path = operation.recogniser.clear()
    return f"the map is now {path}, and empty; the one before is kept as {before}"


def _set_paused(types: MessageTypes, operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    if not operation.pause(bool(request.data)):
        raise ConfigError("the node is not active; activate it first")
    return "paused: images are dropped" if request.data else "images are taken again"


def _save_map(types: MessageTypes, operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    response.num_keyframes = operation.recogniser.save_map(request.path, overwrite=request.overwrite)
    return f"{response.num_keyframes} keyframes saved to {request.path}"


def _load_map(types: MessageTypes, operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    response.num_keyframes = operation.recogniser.load_map(request.path, read_only=request.read_only)
    return f"{request.path} is in use, with {response.num_keyframes} keyframes"


def _merge_map(types: MessageTypes, operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    before = operation.recogniser.num_keyframes
    response.num_keyframes = operation.recogniser.merge_map(request.path)
    return f"{response.num_keyframes - before} keyframes of {request.path} added"


def _calibrate(types: MessageTypes, operation: Operation, request: Any, response: Any) -> str:  # noqa: ANN401
    settings = operation.recogniser.config.calibration
    rate = float(request.max_false_accepts_per_hour) or settings.max_false_per_hour
    if not math.isfinite(rate) or rate < 0:
        raise ConfigError(
            f"max_false_accepts_per_hour is {rate}; expected a positive number, or 0 for calibration.max_false_per_hour"
        )
    calibration = operation.recogniser.calibrate(request.camera)
    num_keyframes = calibration.num_keyframes
    min_similarity = calibration.min_similarity(num_keyframes, rate)
    response.verdict = VERDICT_CODES[calibration.separability(rate)]
    response.min_similarity = min_similarity
    response.probability = calibration.probability(min_similarity, num_keyframes)
    response.false_per_hour = calibration.false_per_hour(min_similarity, num_keyframes)
    response.same_place_share = calibration.share_above(min_similarity)
    response.num_keyframes = num_keyframes
    response.num_queries = calibration.tail.num_queries
    response.num_pairs = calibration.num_same_place
    response.pairs_verified = calibration.verified
    return calibration.advice(rate)


_SERVICES = (
    Service("start_session", "std_srvs/srv/Trigger", _start_session),
    Service("clear", "std_srvs/srv/Trigger", _clear),
    Service("set_paused", "std_srvs/srv/SetBool", _set_paused),
    Service("query", "progeo_msgs/srv/Query", _query),
    Service("relocalize", "progeo_msgs/srv/Relocalize", _relocalize),
    Service("save_map", "progeo_msgs/srv/SaveMap", _save_map),
    Service("load_map", "progeo_msgs/srv/LoadMap", _load_map),
    Service("merge_map", "progeo_msgs/srv/MergeMap", _merge_map),
    Service("calibrate", "progeo_msgs/srv/Calibrate", _calibrate),
)
