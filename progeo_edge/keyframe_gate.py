"""Which frames become keyframes: the robot must have moved, or the view must have changed."""

from __future__ import annotations

import numpy as np

from progeo_edge.config import KeyframeConfig
from progeo_edge.geometry import invert, rotation_angle
from progeo_edge.types import Descriptor, Frame, Keyframe, Transform


class KeyframeGate:
    """Compares a frame with the last keyframe: by odometry when both have it, else by time and similarity."""

    def __init__(self, config: KeyframeConfig) -> None:
        self._config = config
        self._stamp_ns: int | None = None
        self._T_odom_base: Transform | None = None
        self._descriptor: Descriptor | None = None

    def has_moved(self, frame: Frame) -> bool:
        """Cheap test before encoding. Without odometry it says whether enough time has passed."""
        if self._config.every_frame or self._stamp_ns is None:
            return True
        elapsed_s = (frame.stamp_ns - self._stamp_ns) * 1e-9
        if frame.T_odom_base is None or self._T_odom_base is None:
            return elapsed_s >= self._config.min_interval_s
        T_last_base = invert(self._T_odom_base) @ frame.T_odom_base
        translation_m = float(np.linalg.norm(T_last_base[:3, 3]))
        rotation_deg = float(np.degrees(rotation_angle(T_last_base[:3, :3])))
        if translation_m >= self._config.min_translation_m or rotation_deg >= self._config.min_rotation_deg:
            return True
        creeping = translation_m >= self._config.creep_m
        return creeping and elapsed_s >= self._config.max_interval_s

    def view_has_changed(self, frame: Frame, descriptor: Descriptor) -> bool:
        """Test after encoding, for robots without odometry: a parked camera keeps seeing the same image."""
        if self._config.every_frame or self._descriptor is None or self._T_odom_base is not None:
            return True
        return frame.T_odom_base is not None or float(descriptor @ self._descriptor) < self._config.max_similarity

    def keep(self, frame: Frame | Keyframe, descriptor: Descriptor) -> None:
        """The frame became a keyframe."""
        self._stamp_ns, self._T_odom_base, self._descriptor = frame.stamp_ns, frame.T_odom_base, descriptor
