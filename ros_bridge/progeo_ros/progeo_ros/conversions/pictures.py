"""What people look at: the two images of a closure side by side, and closures as lines in RViz and Foxglove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.types import Image, LoopClosure, PoseKind, Transform
from progeo_ros.conversions.standard import point_message, pose_message
from progeo_ros.events import Thumbnail
from progeo_ros.message_types import MessageTypes, make_header

GAP_PX = 6
MAX_LINES = 80
INLIER_BGR = (120, 220, 60)
POINT_BGR = (40, 200, 255)
TEXT_BGR = (255, 255, 255)

LINE_LIST, ADD = 5, 0
"""Constants of visualization_msgs/Marker."""
METRIC_RGBA = (0.2, 0.8, 0.3, 0.9)
OTHER_RGBA = (1.0, 0.7, 0.1, 0.9)
LINE_WIDTH_M = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class ClosureLine:
    """Where a closure stands.

    Attributes:
        reference_m: (3,) position of the reference by odometry.
        query_m: (3,) position of the query by the same odometry.
        is_metric: Whether its pose is in metres.
    """

    reference_m: NDArray[np.float64]
    query_m: NDArray[np.float64]
    is_metric: bool


def match_picture(query: Image, reference: Thumbnail | None, closure: LoopClosure, height_px: int) -> Image:
    """Query left, reference right, inliers joined by lines, the numbers above.

    Args:
        query: (H, W, 3) BGR or (H, W) image that was asked about.
        reference: Small image of the reference; None leaves its half grey and draws no inliers.
        closure: With the inliers in pixels of the original images.
        height_px: Height of the result.

    Returns:
        (height_px, W, 3) BGR.
    """
    left = _at_height(query, height_px)
    right = np.full_like(left, 90) if reference is None else _at_height(reference.image, height_px)
    canvas = np.ascontiguousarray(np.hstack([left, np.full((height_px, GAP_PX, 3), 255, np.uint8), right]))
    v = closure.verification
    if v is not None and reference is not None and v.query_px is not None and v.reference_px is not None:
        query_size_px = (query.shape[1], query.shape[0])
        starts = v.query_px * _scale(query_size_px, left)
        ends = v.reference_px * _scale(reference.original_size_px or query_size_px, right)
        _draw_inliers(canvas, starts, ends + np.array([left.shape[1] + GAP_PX, 0], np.float32))
    _write(canvas, _caption(closure), height_px)
    return canvas


def loop_markers(types: MessageTypes, lines: Sequence[ClosureLine], stamp_ns: int, odom_frame: str) -> Any:  # noqa: ANN401
    """visualization_msgs/MarkerArray with all closures as lines: green in metres, orange without.

    Args:
        types: Makes messages.
        lines: Closures so far, in the odometry frame.
        stamp_ns: Of the newest.
        odom_frame: Their frame.
    """
    marker = types.make(
        "visualization_msgs/msg/Marker",
        header=make_header(types, stamp_ns, odom_frame),
        ns="progeo_loops",
        id=0,
        type=LINE_LIST,
        action=ADD,
        pose=pose_message(types, np.eye(4)),
        scale=types.make("geometry_msgs/msg/Vector3", x=LINE_WIDTH_M, y=0.0, z=0.0),
        color=_colour(types, METRIC_RGBA),
        points=[point_message(types, end) for line in lines for end in (line.reference_m, line.query_m)],
        colors=[_colour(types, METRIC_RGBA if line.is_metric else OTHER_RGBA) for line in lines for _ in range(2)],
    )
    return types.make("visualization_msgs/msg/MarkerArray", markers=[marker])


def closure_line(
    closure: LoopClosure, T_odom_reference: Transform | None, T_odom_query: Transform | None
) -> ClosureLine | None:
    """Line of a closure by odometry; None where one of the two has no pose."""
    if T_odom_reference is None or T_odom_query is None:
        return None
    kind = PoseKind.NONE if closure.verification is None else closure.verification.pose_kind
    return ClosureLine(T_odom_reference[:3, 3], T_odom_query[:3, 3], kind is PoseKind.METRIC)


def _at_height(image: Image, height_px: int) -> Image:
    colour = image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    height, width = colour.shape[:2]
    method = cv2.INTER_AREA if height > height_px else cv2.INTER_CUBIC
    return cast(Image, cv2.resize(colour, (max(1, round(width * height_px / height)), height_px), interpolation=method))


def _scale(size_px: tuple[int, int], shown: Image) -> NDArray[np.float32]:
    """Factors (2,) from pixels of an original to those of the image shown."""
    return np.array([shown.shape[1] / size_px[0], shown.shape[0] / size_px[1]], np.float32)


def _draw_inliers(canvas: Image, starts: NDArray[np.float32], ends: NDArray[np.float32]) -> None:
    """At most `MAX_LINES` of them, evenly picked, so that the picture can be read."""
    for i in np.unique(np.linspace(0, len(starts) - 1, min(len(starts), MAX_LINES)).astype(int)):
        start = (round(float(starts[i, 0])), round(float(starts[i, 1])))
        end = (round(float(ends[i, 0])), round(float(ends[i, 1])))
        cv2.line(canvas, start, end, INLIER_BGR, 1, cv2.LINE_AA)
        for point in (start, end):
            cv2.circle(canvas, point, 2, POINT_BGR, -1, cv2.LINE_AA)


def _caption(closure: LoopClosure) -> str:
    text = f"{closure.query_id} -> {closure.reference_id}  cosine {closure.similarity:.2f}"
    v = closure.verification
    if v is None:
        return f"{text}  not verified"
    text = f"{text}  {v.num_inliers}/{v.num_matches} inliers"
    if v.pose_kind is PoseKind.METRIC and v.T_reference_query is not None:
        return f"{text}  {np.linalg.norm(v.T_reference_query[:3, 3]):.2f} m"
    return f"{text}  {v.pose_kind.value.lower().replace('_', ' ')}"


def _write(canvas: Image, text: str, height_px: int) -> None:
    """On a dark strip at the top."""
    size = max(0.3, height_px / 800)
    (_, text_height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    strip_px = min(height_px, text_height + below + 6)
    canvas[:strip_px] //= 3
    cv2.putText(canvas, text, (4, text_height + 3), cv2.FONT_HERSHEY_SIMPLEX, size, TEXT_BGR, 1, cv2.LINE_AA)


def _colour(types: MessageTypes, rgba: tuple[float, float, float, float]) -> Any:  # noqa: ANN401
    r, g, b, a = rgba
    return types.make("std_msgs/msg/ColorRGBA", r=r, g=g, b=b, a=a)
