"""Image pairs with their inliers, as data URIs."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.atomic import write_bytes
from progeo_edge.errors import InputError
from progeo_edge.types import Image

PAIR_HEIGHT_PX = 220
GAP_PX = 6
MAX_LINES = 60
LINE_BGR = (120, 220, 60)
POINT_BGR = (40, 200, 255)


def pair_picture(
    query: Image,
    reference: Image,
    query_points: NDArray[np.float32] | None = None,
    reference_points: NDArray[np.float32] | None = None,
) -> str:
    """`draw_pair` as a JPEG data URI."""
    return data_uri(draw_pair(query, reference, query_points, reference_points))


def draw_pair(
    query: Image,
    reference: Image,
    query_points: NDArray[np.float32] | None = None,
    reference_points: NDArray[np.float32] | None = None,
) -> Image:
    """Query left, reference right, inliers joined by lines: (220, W, 3) uint8 BGR.

    Args:
        query: (H, W, 3) or (H, W) uint8.
        reference: Likewise; sizes may differ.
        query_points: (N, 2) in 0..1 of the query's width and height; None draws no lines.
        reference_points: (N, 2) in 0..1 of the reference's.
    """
    left, right = _at_height(query), _at_height(reference)
    gap = np.full((PAIR_HEIGHT_PX, GAP_PX, 3), 255, dtype=np.uint8)
    canvas = np.ascontiguousarray(np.hstack([left, gap, right]))
    if query_points is not None and reference_points is not None:
        offset_px = left.shape[1] + GAP_PX
        for a, b in _some(query_points, reference_points):
            start = _pixel(a, left.shape, 0)
            end = _pixel(b, right.shape, offset_px)
            cv2.line(canvas, start, end, LINE_BGR, 1, cv2.LINE_AA)
            for point in (start, end):
                cv2.circle(canvas, point, 2, POINT_BGR, -1, cv2.LINE_AA)
    return cast(Image, canvas)


def data_uri(image: Image, *, quality: int = 82) -> str:
    """JPEG data URI of an image."""
    done, code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"image of shape {image.shape} cannot be coded as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(code.tobytes()).decode()


def write_picture(path: Path, image: Image) -> None:
    """Write a .jpg or .png atomically.

    Raises:
        InputError: the folder is missing or not writable.
    """
    done, code = cv2.imencode(path.suffix, image)
    if not done:
        raise ValueError(f"image of shape {image.shape} cannot be coded as {path.suffix}")
    try:
        write_bytes(path, code.tobytes())
    except OSError as error:
        raise InputError(f"picture {path} cannot be written: {error}; choose another folder") from error


def _at_height(image: Image) -> Image:
    colour = image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    height, width = colour.shape[:2]
    width_px = max(1, round(width * PAIR_HEIGHT_PX / height))
    method = cv2.INTER_AREA if height > PAIR_HEIGHT_PX else cv2.INTER_CUBIC
    return cast(Image, cv2.resize(colour, (width_px, PAIR_HEIGHT_PX), interpolation=method))


def _some(a: NDArray[np.float32], b: NDArray[np.float32]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """At most MAX_LINES pairs, evenly picked."""
    picked = np.unique(np.linspace(0, len(a) - 1, min(len(a), MAX_LINES)).astype(int))
    return [(a[i], b[i]) for i in picked]


def _pixel(point: NDArray[np.float32], shape: tuple[int, ...], offset_px: int) -> tuple[int, int]:
    return round(float(point[0]) * shape[1]) + offset_px, round(float(point[1]) * shape[0])
