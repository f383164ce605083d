"""From the messages of many topics to the newest complete image: pure, and without a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from progeo_edge.geometry import Camera
from progeo_edge.sources.images import FrameError
from progeo_edge.sources.rate import RateSchedule
from progeo_ros.assembled import ONE_CAMERA, AssembledFrame, AssemblerCounts, Pending
from progeo_ros.camera_setup import CameraSetup
from progeo_ros.config import NodeConfig
from progeo_ros.conversions.incoming import frame_of, header_stamp_ns, no_pose, transforms_of
from progeo_ros.decoding import decode
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
        rig_camera: Name of the camera in a rig, which keeps to input.max_rate_hz for all of them; None for one camera.
    """

    def __init__(
        self,
        config: NodeConfig,
        camera: Camera | None = None,
        *,
        keep_all: bool = False,
        rig_camera: str | None = None,
    ) -> None:
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
        self._name = rig_camera or ONE_CAMERA
        self._max_rate_hz = None if rig_camera else config.input.max_rate_hz
        self._schedule = RateSchedule(self._max_rate_hz)
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
        usable = []
        for transform in transforms_of(message):
            problem = f"tf from {transform.parent} to {transform.child}"
            if transform.is_usable:
                usable.append(transform)
                self._problems.pop(problem, None)
            else:
                self._problems[problem] = f"{problem} is left out: {no_pose(transform.pose)}"
        self._tree.add(usable, is_static=is_static)

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
        if self._keep_all:
            is_due = self._waiting and not self._missing(self._waiting[0])
            return self._pending(self._waiting.popleft()) if is_due else None
        if self._config.input.external_keyframes:
            places = range(len(self._waiting))
        else:
            places = range(len(self._waiting) - 1, -1, -1)
        place = next((i for i in places if not self._missing(self._waiting[i])), None)
        if place is None:
            return None
        image = self._waiting[place]
        del self._waiting[place]
        if not self._config.input.external_keyframes:
            self.counts.dropped_by_newer += place
            for _ in range(place):
                self._waiting.popleft()
        return self._pending(image)

    def pop_moment(self, now_ns: int | None = None) -> tuple[Pending, ...]:
        """As `pop`; see `Assembler`."""
        pending = self.pop(now_ns)
        return () if pending is None else (pending,)

    def decode(self, pending: Pending) -> AssembledFrame:
        """Pixels of a complete image. May run beside everything else.

        Raises:
            FrameError: the image cannot be decoded, is empty, or has another shape than the camera was calibrated
                for; it is counted as broken.
        """
        try:
            assembled = decode(pending, self._problems)
        except FrameError as error:
            self._broken(str(error))
            raise
        self.counts.without_depth += self._config.input.depth and assembled.frame.depth_m is None
        self.counts.without_right += self._config.input.right and assembled.frame.right is None
        return assembled

    # -- what a user should know ---------------------------------------------------------------------------------------

    @property
    def parts(self) -> dict[str, FrameAssembler]:
        """See `Assembler`."""
        return {"": self}

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
        self._first_arrival_ns = self._now_ns  # odometry and depth of the new time may be late again
        self._waiting.clear()
        self._schedule = RateSchedule(self._max_rate_hz)
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
        return next((name for name, may_wait, is_there in self._needs(image) if may_wait and not is_there()), "")

    def _needs(self, image: _Waiting) -> Iterator[tuple[str, bool, Callable[[], bool]]]:
        """What belongs to an image: its name, whether it may still be waited for, and whether it is there."""
        frames, inputs, setup, odometry = self._config.frames, self._config.input, self._setup, self._odometry
        stamp_ns, camera_frame = image.stamp_ns, self._camera_frame(image)
        starting = self._now_ns - (self._first_arrival_ns or 0) < self._config.camera.wait_s * 1e9
        patient = self._now_ns - image.arrival_ns < MAX_WAIT_NS
        mounting = f"tf from {frames.base} to {camera_frame}"
        yield "camera_info", starting, lambda: self.has_camera
        yield mounting, starting, lambda: setup.is_connected(camera_frame)
        yield mounting, patient, lambda: setup.reaches(camera_frame, stamp_ns)
        if inputs.odometry != "none":
            name = "odom" if inputs.odometry == "topic" else f"tf from {frames.odom} to {frames.base}"
            yield name, patient if odometry.has_come else starting, lambda: odometry.reaches(stamp_ns)
        if inputs.depth:
            yield "depth", patient if self._depth.has_come else starting, lambda: self._depth.reaches(stamp_ns)
        if inputs.right:
            yield "right/camera_info", starting, setup.has_baseline
            yield "right/image", patient if self._right.has_come else starting, lambda: self._right.reaches(stamp_ns)

    def _camera_frame(self, image: _Waiting) -> str:
        """frame_id of the image; some drivers fill in only that of camera_info."""
        return frame_of(image.message.header.frame_id) or self._setup.info_frame or "camera"

    def _pending(self, image: _Waiting) -> Pending:
        camera_frame = self._camera_frame(image)
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
            camera_name=self._name,
        )

    def _broken(self, problem: str) -> None:
        self.counts.broken += 1
        self.last_problem = problem
