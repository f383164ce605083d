"""Pixels that never change over a run (the robot's bumper, the ring of a fisheye lens) say nothing about a place."""

from __future__ import annotations

import json

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import VerificationConfig
from progeo_edge.errors import InputError
from progeo_edge.types import Image
from progeo_edge.verification.features import to_grey

_LONGER_SIDE_PX = 160
_MARGIN_PX = 2
_MIN_USABLE = 0.2
"""Less than this share changing means that the robot has not moved, not that the lens sees so little."""

_FORMAT = "progeo-static-mask"
_STEPS_PER_GREY = 256.0
_MAX_STORED_STD = 65535.0 / _STEPS_PER_GREY


class StaticPixelMask:
    """Mean and variance of every pixel over the keyframes (Welford 1962), at a small size."""

    def __init__(self, config: VerificationConfig) -> None:
        """Args: config: frames needed, and the standard deviation below which a pixel is static."""
        self._config = config
        self._count = 0
        self._mean = np.zeros((0, 0), dtype=np.float64)
        self._squares = np.zeros((0, 0), dtype=np.float64)

    @property
    def count(self) -> int:
        """Images seen."""
        return self._count

    def add(self, image: Image) -> None:
        """Count one keyframe; the first one fixes the size at which the pixels are compared.

        Raises:
            InputError: not a uint8 image.
        """
        grey = to_grey(image)
        if self._count == 0:
            scale = _LONGER_SIDE_PX / max(grey.shape)
            shape = (max(1, round(grey.shape[0] * scale)), max(1, round(grey.shape[1] * scale)))
            self._mean, self._squares = np.zeros(shape), np.zeros(shape)
        size = (self._mean.shape[1], self._mean.shape[0])
        small = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), dtype=np.float64)
        self._count += 1
        difference = small - self._mean
        self._mean += difference / self._count
        self._squares += difference * (small - self._mean)

    def mask(self, width_px: int, height_px: int) -> NDArray[np.uint8] | None:
        """(height_px, width_px) uint8, 255 where pixels are usable.

        Returns:
            None before `static_mask_frames` images, or while hardly a pixel has changed (a robot that stands).
        """
        if self._count < self._config.static_mask_frames:
            return None
        static = (self._deviation() < self._config.static_mask_std).astype(np.uint8)
        kernel = np.ones((3, 3), dtype=np.uint8)
        opened = cv2.morphologyEx(static, cv2.MORPH_OPEN, kernel)  # a lone dull pixel is no part of the robot
        margin = np.ones((2 * _MARGIN_PX + 1, 2 * _MARGIN_PX + 1), dtype=np.uint8)
        usable = np.where(cv2.dilate(opened, margin) > 0, 0, 255).astype(np.uint8)
        if np.count_nonzero(usable) < _MIN_USABLE * usable.size:
            return None
        return np.asarray(cv2.resize(usable, (width_px, height_px), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)

    def to_bytes(self) -> bytes:
        """The state, for a map to keep: one line of JSON, then a 16-bit PNG of the mean above the deviation."""
        header = {"format": _FORMAT, "version": 1, "count": self._count}
        text = json.dumps(header).encode("ascii") + b"\n"
        if self._count == 0:
            return text
        stacked = np.vstack([self._mean, np.minimum(self._deviation(), _MAX_STORED_STD)])
        _, png = cv2.imencode(".png", np.clip(np.rint(stacked * _STEPS_PER_GREY), 0, 65535).astype(np.uint16))
        return text + png.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, config: VerificationConfig) -> StaticPixelMask:
        """Read what `to_bytes` wrote.

        Raises:
            InputError: other or damaged bytes.
        """
        restored = cls(config)
        line, _, png = data.partition(b"\n")
        restored._count = _read_count(line)
        if restored._count:
            stacked = _read_png(png)
            height = len(stacked) // 2
            restored._mean = stacked[:height]
            restored._squares = stacked[height:] ** 2 * restored._count
        return restored

    def _deviation(self) -> NDArray[np.float64]:
        return np.sqrt(self._squares / max(self._count, 1))


def _read_count(line: bytes) -> int:
    try:
        header = json.loads(line)
    except ValueError as error:
        raise InputError(f"static mask starts with {line[:20]!r}; expected the JSON that to_bytes writes") from error
    count = header.get("count") if isinstance(header, dict) and header.get("format") == _FORMAT else None
    if not isinstance(count, int) or isinstance(count, bool) or count < 0 or header.get("version") != 1:
        raise InputError(f"static mask says {line[:80]!r}; expected format {_FORMAT!r}, version 1 and a count")
    return count


def _read_png(png: bytes) -> NDArray[np.float64]:
    try:
        stacked = cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_UNCHANGED) if png else None
    except cv2.error:
        stacked = None
    valid = stacked is not None and stacked.dtype == np.uint16 and stacked.ndim == 2 and len(stacked) % 2 == 0
    if stacked is None or not valid or max(stacked.shape) > 2 * _LONGER_SIDE_PX:
        raise InputError("static mask holds no 16-bit picture; forget it and let a new run learn it again")
    return stacked.astype(np.float64) / _STEPS_PER_GREY
