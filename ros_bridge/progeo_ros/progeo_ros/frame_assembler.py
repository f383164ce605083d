"""From the messages of many topics to the newest complete image: pure, and without a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError
from progeo_edge.geometry import Camera
from progeo_edge.sources.images import FrameError
from progeo_edge.sources.rate import RateSchedule
from progeo_edge.types import Frame
from progeo_ros.assembled import AssembledFrame, AssemblerCounts, Pending
from progeo_ros.camera_setup import CameraSetup
from progeo_ros.config import NodeConfig
from progeo_ros.conversions.incoming import depth_m_of, frame_of, header_stamp_ns, image_of, transforms_of
from progeo_ros.odometry_input import OdometryInput
from progeo_ros.stamped_messages import MAX_KEPT, KeyframeTriggers, StampedMessages
from progeo_ros.transforms import RESTART_NS, TransformTree

__all__ = ["AssembledFrame", "AssemblerCounts", "FrameAssembler", "Pending"]

MAX_WAIT_NS = 500_000_000
"""How long after its arrival an image waits for odometry, depth and right image that are late."""
MAX_WAITING = 16
MAX_KEPT_OF_RECORDING = 200
"""Depth and right images that are kept for images of a recording, which may all wait for the camera's mounting."""
MAX_EVENTS = 100

P = TypeVar("P", np.uint8, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    message: Any
    stamp_ns: int
    arrival_ns: int


class FrameAssembler:
    """Brings together what belongs to one image. Not thread-safe: the caller locks, except around `decode`.

    Args:
        config: Settings of the node.
        camera: From the camera file; None takes camera_info.
        keep_all: Give every image in its order, instead of dropping for a newer one: a recording has no hurry.
    """

    def __init__(self, config: NodeConfig, camera: Camera | None = None, *, keep_all: bool = False) -> None:
        self.counts = AssemblerCounts()
        self.last_problem = ""
        self._config = config
        self._problems: dict[str, str] = {}
        self._events: deque[str] = deque(maxlen=MAX_EVENTS)
        self._tree = TransformTree()
        self._setup = CameraSetup(config, camera, self._tree, self._problems)
        self._odometry = OdometryInput(config, self._tree, self._problems)
        self._keep_all = keep_all
        max_kept = MAX_KEPT_OF_RECORDING if keep_all else MAX_KEPT
        self._depth = StampedMessages(config.input.max_offset_ms, max_kept)
        self._right = StampedMessages(config.input.max_offset_ms, max_kept)
        self._triggers = KeyframeTriggers[_Waiting]()
        self._waiting: deque[_Waiting] = deque()
        self._schedule = RateSchedule(config.input.max_rate_hz)
        self._first_arrival_ns: int | None = None
        self._now_ns = 0
        self._last_stamp_ns: int | None = None
        self._generation = 0

    # -- what comes in -------------------------------------------------------------------------------------------------

    def on_image(self, message: Any, arrival_ns: int) -> None:  # noqa: ANN401
        """sensor_msgs/Image or CompressedImage.

        Args:
            message: Not decoded here.
            arrival_ns: Of any clock, always the same one.
        """
        self.counts.received += 1
        self._now_ns = max(self._now_ns, arrival_ns)
        if self._first_arrival_ns is None:
            self._first_arrival_ns = arrival_ns
        image = _Waiting(message, header_stamp_ns(message), arrival_ns)
        if image.stamp_ns == 0:
            self._broken("the image has no stamp (zero): its driver has to set header.stamp")
        elif self._is_in_order(image.stamp_ns):
            self._last_stamp_ns = image.stamp_ns
            self._accept(image)

    def on_depth(self, message: Any) -> None:  # noqa: ANN401
        """Depth registered to the image: sensor_msgs/Image, or CompressedImage (compressedDepth)."""
        self._depth.add(message)

    def on_right(self, message: Any) -> None:  # noqa: ANN401
        """Right image of a rectified stereo pair."""
        self._right.add(message)

    def on_camera_info(self, info: Any) -> None:  # noqa: ANN401
        """sensor_msgs/CameraInfo of the image."""
        if self._setup.on_camera_info(info):
            self._events.append(f"camera_info changed: it is {info.width}x{info.height} px now")

    def on_right_camera_info(self, info: Any) -> None:  # noqa: ANN401
        """sensor_msgs/CameraInfo of the right image: states the baseline."""
        self._setup.on_right_camera_info(info)

    def on_odometry(self, message: Any) -> None:  # noqa: ANN401
        """nav_msgs/Odometry in metres."""
        if not self._odometry.on_odometry(message):
            self.counts.odometry_invalid += 1

    def on_transforms(self, message: Any, *, is_static: bool) -> None:  # noqa: ANN401
        """tf2_msgs/TFMessage of tf_static or tf."""
        self._tree.add(transforms_of(message), is_static=is_static)

    def on_keyframe_trigger(self, header: Any) -> None:  # noqa: ANN401
        """std_msgs/Header: the SLAM made a keyframe of the image with this stamp. It may come before the image."""
        found = self._triggers.on_trigger(header)
        if found is not None:
            self._wait(found)

    # -- what goes out -------------------------------------------------------------------------------------------------

    def pop(self, now_ns: int | None = None) -> Pending | None:
        """The newest image that is complete; None when there is none. Older ones are dropped.

        With input.external_keyframes it is the oldest one, and none is dropped: the SLAM asked for each.

        Args:
            now_ns: Time of the clock of `arrival_ns`; None takes the arrival of the last image.
        """
        self._now_ns = max(self._now_ns, now_ns or 0)
        complete = [i for i, image in enumerate(self._waiting) if not self._missing(image)]
        if not complete:
            return None
        if self._keep_all:
            return self._pending(self._waiting.popleft()) if complete[0] == 0 else None
        if self._config.input.external_keyframes:
            image = self._waiting[complete[0]]
            del self._waiting[complete[0]]
            return self._pending(image)
        for _ in range(complete[-1]):
            self._waiting.popleft()
            self.counts.dropped_by_newer += 1
        return self._pending(self._waiting.popleft())

    def decode(self, pending: Pending) -> AssembledFrame:
        """Pixels of a complete image. May run beside everything else.

        Raises:
            FrameError: the image cannot be decoded, is empty, or has another shape than the camera was calibrated
                for; it is counted as broken.
        """
        try:
            image = image_of(pending.message)
            _check_size(image, pending.camera)
        except FrameError as error:
            self._broken(str(error))
            raise
        depth_m = self._beside("depth", pending.depth, depth_m_of, image.shape)
        right = self._beside("right", pending.right, image_of, image.shape)
        self.counts.without_depth += self._config.input.depth and depth_m is None
        self.counts.without_right += self._config.input.right and right is None
        frame = Frame(pending.stamp_ns, image, "", pending.T_odom_base, depth_m, right)
        return AssembledFrame(
            frame,
            pending.camera,
            pending.camera_frame,
            pending.base_frame,
            pending.odom_frame,
            pending.arrival_ns,
            pending.generation,
        )

    # -- what a user should know ---------------------------------------------------------------------------------------

    @property
    def problems(self) -> list[str]:
        """Conditions that last, a sentence each: no mounting, camera_info not calibrated, odometry of another frame."""
        return list(self._problems.values())

    def take_events(self) -> list[str]:
        """What happened since the last call, a sentence each: stamps jumped back, the calibration changed."""
        events = list(self._events)
        self._events.clear()
        return events

    @property
    def waiting_for(self) -> str:
        """What the newest image still waits for, or "images"; "" when nothing is missing."""
        if not self.counts.received:
            return "images"
        return self._missing(self._waiting[-1]) if self._waiting else ""

    @property
    def has_camera(self) -> bool:
        """Whether intrinsics are known."""
        return self._setup.intrinsics() is not None

    # -- the steps -----------------------------------------------------------------------------------------------------

    def _is_in_order(self, stamp_ns: int) -> bool:
        if self._last_stamp_ns is None or stamp_ns > self._last_stamp_ns:
            return True
        back_ns = self._last_stamp_ns - stamp_ns
        if back_ns <= RESTART_NS:
            self.counts.dropped_late += 1
            return False
        self._restart(stamp_ns, back_ns)
        return True

    def _restart(self, stamp_ns: int, back_ns: int) -> None:
        """Nothing that was stamped by the former time may be paired with what comes now."""
        self.counts.restarts += 1
        self.counts.dropped_by_newer += len(self._waiting)
        self._generation += 1
        self._waiting.clear()
        self._schedule = RateSchedule(self._config.input.max_rate_hz)
        for memory in (self._depth, self._right, self._triggers, self._odometry, self._tree):
            memory.forget_after(stamp_ns)
        self._events.append(f"stamps went back by {back_ns * 1e-9:.1f} s: a bag or simulation was started anew")

    def _accept(self, image: _Waiting) -> None:
        if self._config.input.external_keyframes:
            asked_for, passed = self._triggers.on_image(image, image.stamp_ns)
            self.counts.not_asked_for += passed
            self.counts.triggers_unmatched = self._triggers.num_unmatched
            if asked_for:
                self._wait(image)
        elif self._schedule.is_due(image.stamp_ns):
            self._schedule.keep(image.stamp_ns)
            self._wait(image)
        else:
            self.counts.dropped_by_rate += 1

    def _wait(self, image: _Waiting) -> None:
        self._waiting.append(image)
        if len(self._waiting) > MAX_WAITING and not self._keep_all:
            self._waiting.popleft()
            self.counts.dropped_by_newer += 1

    def _missing(self, image: _Waiting) -> str:
        """The first thing that an image still has to wait for; "" when it is complete."""
        frames, inputs = self._config.frames, self._config.input
        stamp_ns, camera_frame = image.stamp_ns, frame_of(image.message.header.frame_id)
        starting = self._now_ns - (self._first_arrival_ns or 0) < self._config.camera.wait_s * 1e9
        patient = self._now_ns - image.arrival_ns < MAX_WAIT_NS
        odometry, depth, right = self._odometry, self._depth, self._right
        odometry_name = f"tf from {frames.odom} to {frames.base}" if inputs.odometry == "tf" else "odom"
        mounting_name = f"tf from {frames.base} to {camera_frame}"
        needs = (
            ("camera_info", self.has_camera, starting),
            (mounting_name, self._setup.is_connected(camera_frame), starting),
            (mounting_name, self._setup.reaches(camera_frame, stamp_ns), patient),
            ("right/camera_info", not inputs.right or self._setup.has_baseline(), starting),
            (odometry_name, odometry.reaches(stamp_ns), patient if odometry.has_come else starting),
            ("depth", not inputs.depth or depth.reaches(stamp_ns), patient if depth.has_come else starting),
            ("right/image", not inputs.right or right.reaches(stamp_ns), patient if right.has_come else starting),
        )
        return next((name for name, is_there, may_wait in needs if may_wait and not is_there), "")

    def _pending(self, image: _Waiting) -> Pending:
        camera_frame = frame_of(image.message.header.frame_id)
        mounting, has_changed = self._setup.settle(camera_frame, image.stamp_ns)
        if has_changed:
            self._generation += 1
            self._events.append(f"poses are of the frame {mounting.base_frame!r} from now on")
        T_odom_base = self._odometry.at(image.stamp_ns, mounting)
        self.counts.without_odometry += self._odometry.is_wanted and T_odom_base is None
        return Pending(
            message=image.message,
            depth=self._depth.nearest(image.stamp_ns) if self._config.input.depth else None,
            right=self._right.nearest(image.stamp_ns) if self._config.input.right else None,
            camera=self._setup.camera(mounting),
            T_odom_base=T_odom_base,
            stamp_ns=image.stamp_ns,
            camera_frame=camera_frame,
            base_frame=mounting.base_frame,
            odom_frame=self._odometry.odom_frame,
            arrival_ns=image.arrival_ns,
            generation=self._generation,
        )

    def _beside(
        self,
        name: str,
        message: Any | None,  # noqa: ANN401
        convert: Callable[[Any], NDArray[P]],
        shape: tuple[int, ...],
    ) -> NDArray[P] | None:
        """Depth or right image; a frame without it is still a frame."""
        if message is None:
            return None
        try:
            pixels = convert(message)
        except FrameError as error:
            self._problems[name] = f"{name} cannot be used: {error}"
            return None
        if pixels.shape[:2] != shape[:2]:
            self._problems[name] = (
                f"{name} is {pixels.shape[1]}x{pixels.shape[0]} px, the image {shape[1]}x{shape[0]}: it is not used; "
                f"register it to the image"
            )
            return None
        self._problems.pop(name, None)
        return pixels

    def _broken(self, problem: str) -> None:
        self.counts.broken += 1
        self.last_problem = problem


def _check_size(image: NDArray[np.uint8], camera: Camera | None) -> None:
    """Intrinsics scale with the size of the image, but not with its shape.

    Raises:
        FrameError: the aspect ratio differs.
    """
    if camera is None:
        return
    height_px, width_px = image.shape[:2]
    try:
        camera.for_image_size(width_px, height_px)
    except InputError as error:
        raise FrameError(str(error)) from error
