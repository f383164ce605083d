"""Which frames become keyframes: the robot must have moved, or the view must have changed."""

from __future__ import annotations

import numpy as np

from progeo_edge.config import KeyframeConfig
from progeo_edge.geometry import rotation_angle
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
        creeping = _distance_m(self._T_odom_base, frame.T_odom_base) >= self._config.creep_m
        is_a_step = self._is_a_step(self._T_odom_base, frame.T_odom_base)
        return is_a_step or (creeping and elapsed_s >= self._config.max_interval_s)

    def view_has_changed(self, frame: Frame, descriptor: Descriptor) -> bool:
        """Test after encoding: a parked camera keeps seeing the same image, though its odometry may tremble."""
        if self._config.every_frame or self._descriptor is None:
            return True
        if self._T_odom_base is not None and frame.T_odom_base is not None:
            if self._is_a_step(self._T_odom_base, frame.T_odom_base):
                return True
        elif self._T_odom_base is not None or frame.T_odom_base is not None:
            return True
        return float(descriptor @ self._descriptor) < self._config.max_similarity

    def keep(self, frame: Frame | Keyframe, descriptor: Descriptor) -> None:
        """The frame became a keyframe."""
        self._stamp_ns, self._T_odom_base, self._descriptor = frame.stamp_ns, frame.T_odom_base, descriptor

    def _is_a_step(self, T_odom_last: Transform, T_odom_base: Transform) -> bool:
        """Far enough that the robot has moved, whatever the view says."""
        turned_deg = float(np.degrees(rotation_angle(T_odom_last[:3, :3].T @ T_odom_base[:3, :3])))
        has_driven = _distance_m(T_odom_last, T_odom_base) >= self._config.min_translation_m
        return has_driven or turned_deg >= self._config.min_rotation_deg


def _distance_m(T_odom_a: Transform, T_odom_b: Transform) -> float:
    return float(np.linalg.norm(T_odom_b[:3, 3] - T_odom_a[:3, 3]))
