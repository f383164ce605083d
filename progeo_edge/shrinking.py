"""Shrinking pictures without aliasing, several times faster than INTER_AREA and nearly the same.

OpenCV averages areas quickly only where a side shrinks to its half. So a side is halved as long as more than a factor
of 3 remains. What remains is split: neighbours are mixed as strongly as an average over the area would (the same
variance), then the picture is sampled by cubic interpolation. docs/bundle.md says how far that is from INTER_AREA.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.types import Image

_LAST_FACTOR = 3.0
"""Three pixels, mixed equally, stand for an area of at most this width."""

_MIN_LENGTH_PX = 96
"""Of the side that is sampled: at the borders of shorter ones a steep ramp would come out off by a grey level."""

_STEPS = 256
"""OpenCV mixes bytes in steps of 1/256; shares of whole steps add up to one, so that what is flat stays flat."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one side shrinks.

    Attributes:
        halvings: How often it is halved first.
        length_px: Its length then.
        neighbour: Share that each neighbour then gets, in 1/256.
    """

    halvings: int
    length_px: int
    neighbour: int


def plan(source_px: int, target_px: int) -> Plan | None:
    """How a side of `source_px` becomes one of `target_px`; None where only an exact average will do."""
    length_px, halvings = source_px, 0
    while length_px > _LAST_FACTOR * target_px and length_px % 2 == 0:
        length_px, halvings = length_px // 2, halvings + 1
    factor = length_px / target_px
    if factor <= 1.0 or factor > _LAST_FACTOR or length_px < _MIN_LENGTH_PX:
        return None
    # Both neighbours at a distance of one pixel give twice this share as variance; an area of width s has s^2 / 12.
    return Plan(halvings, length_px, min(round(_STEPS * factor**2 / 24.0), _STEPS // 3))


def shrink(image: Image, width_px: int, height_px: int) -> Image:
    """Resize an image whose sides shrink or stay.

    Args:
        image: (H, W) or (H, W, 3) uint8.
        width_px: At most W.
        height_px: At most H.
    """
    given = image
    height, width = image.shape[:2]
    across, down = plan(width, width_px), plan(height, height_px)
    exact_size = (width if across else width_px, height if down else height_px)
    if exact_size != (width, height):
        image = _resize(image, *exact_size, cv2.INTER_AREA)
    image = _halve(image, across.halvings if across else 0, down.halvings if down else 0)
    if across or down:
        own = image if image is not given else None  # memory that was just touched is quicker than new
        mixed = cv2.sepFilter2D(image, -1, _kernel(across), _kernel(down), dst=own, borderType=cv2.BORDER_REPLICATE)
        image = np.asarray(mixed, dtype=np.uint8)
    return _resize(image, width_px, height_px, cv2.INTER_CUBIC)


def _halve(image: Image, across: int, down: int) -> Image:
    """Halve the sides so many times, both at once where both are left: that is the quickest."""
    for step in range(max(across, down)):
        height, width = image.shape[:2]
        size = (width // 2 if step < across else width, height // 2 if step < down else height)
        both = step < min(across, down)
        image = _resize(image, *size, cv2.INTER_AREA if both else cv2.INTER_LINEAR)  # equal here, each the quicker one
    return image


def _kernel(side: Plan | None) -> NDArray[np.float32]:
    neighbour = 0 if side is None else side.neighbour
    return np.asarray([neighbour / _STEPS, 1.0 - 2.0 * neighbour / _STEPS, neighbour / _STEPS], dtype=np.float32)


def _resize(image: Image, width_px: int, height_px: int, interpolation: int) -> Image:
    if image.shape[:2] == (height_px, width_px):
        return image
    return np.asarray(cv2.resize(image, (width_px, height_px), interpolation=interpolation), dtype=np.uint8)
