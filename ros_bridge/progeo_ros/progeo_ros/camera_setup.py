"""Which camera the images come from, and which frame poses are of: from camera_info, the camera file and tf."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from progeo_edge.geometry import Camera, invert, make_transform, rotation_angle
from progeo_edge.sources.bag_camera import R_BASE_FORWARD_CAMERA, baseline_from_right_info
from progeo_edge.types import Transform
from progeo_ros.config import NodeConfig
from progeo_ros.conversions.incoming import camera_of, frame_of
from progeo_ros.transforms import TransformTree

MOVED_M = 0.005
MOVED_RAD = float(np.radians(0.5))
"""A mounting that changes by more than this is a moving one (pan and tilt, a lift)."""

T_BASE_FORWARD_CAMERA = make_transform(R_BASE_FORWARD_CAMERA, np.zeros(3))


@dataclass(frozen=True, slots=True, eq=False)
class Mounting:
    """How the camera sits on the robot.

    Attributes:
        camera_frame: frame_id of the images.
        base_frame: Frame that all poses are of: frames.base, or the camera's optical frame where the mounting is
            unknown or moves.
        T_base_camera: Pose of the optical frame in `base_frame`.
        is_known: False when there is no transform from frames.base to the camera; odometry of the base then moves
            with a camera that is taken to look forward.
    """

    camera_frame: str
    base_frame: str
    T_base_camera: Transform
    is_known: bool


class CameraSetup:
    """Follows camera_info and the mounting.

    Args:
        config: Settings of the node.
        camera: From the camera file; None takes camera_info.
        tree: The frames of tf.
        problems: Where conditions that a user should know of are noted, by a key, and removed when they are over.

    Attributes:
        info_frame: frame_id of camera_info; "" before there is any.
    """

    def __init__(
        self, config: NodeConfig, camera: Camera | None, tree: TransformTree, problems: MutableMapping[str, str]
    ) -> None:
        self._config = config
        self._from_file = camera
        self._tree = tree
        self._problems = problems
        self.info_frame = ""
        self._info: Any = None
        self._info_values: tuple[object, ...] | None = None
        self._baseline_m: float | None = None
        self._camera: Camera | None = None
        self._mounting: Mounting | None = None

    def on_camera_info(self, info: Any) -> bool:  # noqa: ANN401
        """Take over a calibration; most messages repeat the one before. True when a different one replaced it."""
        values = _values(info)
        if values == self._info_values:
            return False
        replaced = self._info_values is not None
        self.info_frame = frame_of(info.header.frame_id)
        self._info, self._info_values, self._camera = info, values, None
        if self.intrinsics() is None:
            self._problems["camera_info"] = (
                f"camera_info is not usable (distortion model {info.distortion_model!r}, fx {_K(info)[0]:g}, "
                f"{info.width}x{info.height}): calibrate the camera, or set camera.file; closures have no pose"
            )
        else:
            self._problems.pop("camera_info", None)
        return replaced

    def on_right_camera_info(self, info: Any) -> None:  # noqa: ANN401
        """Take over the baseline of a rectified stereo pair."""
        baseline_m = baseline_from_right_info(info)
        if baseline_m is None:
            self._problems["baseline"] = "right/camera_info states no baseline (P[3] is not negative): no stereo"
        elif baseline_m != self._baseline_m:
            self._problems.pop("baseline", None)
            self._baseline_m, self._camera = baseline_m, None

    def intrinsics(self) -> Camera | None:
        """Calibration, without mounting; None until there is a usable one."""
        if self._from_file is not None:
            return self._from_file
        if self._info is None:
            return None
        if self._camera is None:
            self._camera = camera_of(self._info, rectified=self._config.camera.rectified, T_base_camera=np.eye(4))
        return self._camera

    def has_baseline(self) -> bool:
        """Whether a right image can give metres."""
        camera = self.intrinsics()
        return self._baseline_m is not None or (camera is not None and camera.baseline_m is not None)

    def camera(self, mounting: Mounting) -> Camera | None:
        """Calibration with mounting and baseline."""
        camera = self.intrinsics()
        if camera is None:
            return None
        baseline_m = camera.baseline_m if camera.baseline_m is not None else self._baseline_m
        return replace(camera, T_base_camera=mounting.T_base_camera, baseline_m=baseline_m)

    # -- mounting ------------------------------------------------------------------------------------------------------

    def find_mounting(self, camera_frame: str, stamp_ns: int) -> Mounting | None:
        """How the camera sits at a stamp, where this is known; None where it is not, or not yet."""
        base = self._config.frames.base
        if camera_frame == base:
            return Mounting(camera_frame, base, np.eye(4), True)
        if self._from_file is not None and not np.array_equal(self._from_file.T_base_camera, np.eye(4)):
            return Mounting(camera_frame, base, self._from_file.T_base_camera, True)
        T_base_camera = self._tree.at(base, camera_frame, stamp_ns)
        if T_base_camera is None:
            return None
        return Mounting(camera_frame, base, T_base_camera, True)

    def settle(self, camera_frame: str, stamp_ns: int) -> tuple[Mounting, bool]:
        """The mounting for an image, and whether the frame that poses are of changed with it.

        A mounting that stands still is kept as it was found first, so that all poses of a session are of the same
        frame. One that moves makes the optical frame the base.
        """
        found, kept = self.find_mounting(camera_frame, stamp_ns), self._mounting
        if kept is None or kept.camera_frame != camera_frame:
            self._mounting = found or self._optical(camera_frame, is_known=False)
        elif found is not None and not kept.is_known:
            self._mounting = found
        elif found is not None and kept.base_frame == found.base_frame and _has_moved(kept, found):
            self._mounting = self._optical(camera_frame, is_known=True)
        assert self._mounting is not None
        self._note_mounting(self._mounting)
        return self._mounting, kept is not None and kept.base_frame != self._mounting.base_frame

    def is_connected(self, camera_frame: str) -> bool:
        """Whether the mounting is stated anywhere."""
        return self._is_given(camera_frame) or self._tree.is_connected(self._config.frames.base, camera_frame)

    def reaches(self, camera_frame: str, stamp_ns: int) -> bool:
        """Whether later messages of tf cannot change the mounting at a stamp."""
        if self._is_given(camera_frame) or not self.is_connected(camera_frame):
            return True
        return self._tree.reaches(self._config.frames.base, camera_frame, stamp_ns)

    def _is_given(self, camera_frame: str) -> bool:
        """Without tf: the camera is the base, or the camera file states where it sits."""
        in_file = self._from_file is not None and not np.array_equal(self._from_file.T_base_camera, np.eye(4))
        return in_file or camera_frame == self._config.frames.base

    def _optical(self, camera_frame: str, *, is_known: bool) -> Mounting:
        return Mounting(camera_frame, camera_frame, np.eye(4), is_known)

    def _note_mounting(self, mounting: Mounting) -> None:
        base, camera_frame = self._config.frames.base, mounting.camera_frame
        if mounting.base_frame == base:
            self._problems.pop("mounting", None)
        elif mounting.is_known:
            self._problems["mounting"] = (
                f"the camera moves on the robot (tf from {base!r} to {camera_frame!r} changes): poses are of the "
                f"optical frame {camera_frame!r}"
            )
        else:
            self._problems["mounting"] = (
                f"tf has no transform from {base!r} (frames.base) to {camera_frame!r} (frame_id of the images): poses "
                f"are of the optical frame, and the odometry is taken to be of a base whose camera looks forward; "
                f"publish the transform or set frames.base"
            )


def _has_moved(kept: Mounting, found: Mounting) -> bool:
    change = invert(kept.T_base_camera) @ found.T_base_camera
    return bool(np.linalg.norm(change[:3, 3]) > MOVED_M) or rotation_angle(change[:3, :3]) > MOVED_RAD


def _values(info: Any) -> tuple[object, ...]:  # noqa: ANN401
    """All that a camera is made from, as plain values that can be compared."""
    numbers = [_K(info), info.D if hasattr(info, "D") else info.d, info.P if hasattr(info, "P") else info.p]
    roi = info.roi
    return (
        *(int(info.width), int(info.height), str(info.distortion_model)),
        *(int(roi.width), int(roi.height), int(roi.x_offset), int(roi.y_offset)),
        *(np.asarray(values, dtype=np.float64).tobytes() for values in numbers),
    )


def _K(info: Any) -> Any:  # noqa: ANN401
    return info.K if hasattr(info, "K") else info.k
