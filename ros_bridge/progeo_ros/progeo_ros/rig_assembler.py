"""The cameras of a rig: an assembler for each, and the images that they took at one time brought together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from progeo_edge.camera_file import load_camera, load_cameras
from progeo_edge.errors import ConfigError
from progeo_edge.geometry import Camera
from progeo_edge.moments import MOMENT_NS
from progeo_edge.sources.rate import RateSchedule
from progeo_ros.assembled import AssembledFrame, Assembler, AssemblerCounts, Pending
from progeo_ros.config import NodeConfig
from progeo_ros.frame_assembler import MAX_WAIT_NS, FrameAssembler


def open_assembler(config: NodeConfig, *, keep_all: bool = False) -> Assembler:
    """For the one camera or the rig of the settings, with the calibration of the camera file where there is one.

    Raises:
        ConfigError: the camera file cannot be read or is of other cameras, or the settings do not go together.
    """
    path, names = config.camera.file, config.input.cameras
    if not names:
        return FrameAssembler(config, load_camera(path) if path else None, keep_all=keep_all)
    if config.input.external_keyframes:
        raise ConfigError("input.external_keyframes names images of one camera; empty input.cameras, or switch it off")
    cameras = load_cameras(path) if path else None
    if isinstance(cameras, Camera) or (cameras is not None and set(names) - set(cameras)):
        raise ConfigError(f"camera file {path} has not all of {', '.join(names)} (input.cameras); name them alike")
    return RigAssembler(config, cameras, keep_all=keep_all)


class RigAssembler:
    """See `Assembler`.

    A moment waits until every camera has given its image, or is late. `input.max_rate_hz` is that of the moments.

    Args:
        config: Settings of the node, with the names of the cameras.
        cameras: From the camera file; None takes camera_info.
        keep_all: As in `FrameAssembler`.
    """

    def __init__(self, config: NodeConfig, cameras: Mapping[str, Camera] | None, *, keep_all: bool = False) -> None:
        self._config = config
        self._parts = {
            name: FrameAssembler(config, None if cameras is None else cameras[name], keep_all=keep_all, rig_camera=name)
            for name in config.input.cameras
        }
        self._held: dict[str, Pending] = {}
        self._known: dict[str, Camera] = {}
        self._generation = 0
        self._schedule = RateSchedule(config.input.max_rate_hz)
        self._last_ns: int | None = None
        self._first_arrival_ns: int | None = None
        self._now_ns = 0
        self._left_out = AssemblerCounts()

    @property
    def parts(self) -> dict[str, FrameAssembler]:
        """By "front/" for the camera "front"."""
        return {f"{name}/": part for name, part in self._parts.items()}

    @property
    def counts(self) -> AssemblerCounts:
        """Of all cameras together."""
        each = [part.counts for part in self._parts.values()] + [self._left_out]
        return AssemblerCounts(**{f.name: sum(getattr(c, f.name) for c in each) for f in fields(AssemblerCounts)})

    @property
    def last_problem(self) -> str:
        """Of the first camera that has one."""
        return next((f"{name}: {part.last_problem}" for name, part in self._parts.items() if part.last_problem), "")

    @property
    def problems(self) -> list[str]:
        """Conditions that last, a sentence each; what all cameras share is said once."""
        found = [(name, problem) for name, part in self._parts.items() for problem in part.problems]
        shared = {problem for _, problem in found if all(problem in part.problems for part in self._parts.values())}
        return [*sorted(shared), *(f"{name}: {problem}" for name, problem in found if problem not in shared)]

    @property
    def waiting_for(self) -> str:
        """Of the first camera that waits."""
        return next((f"{name}: {part.waiting_for}" for name, part in self._parts.items() if part.waiting_for), "")

    @property
    def has_camera(self) -> bool:
        """Whether the intrinsics of all are known; a rig with less has no poses."""
        return all(part.has_camera for part in self._parts.values())

    def take_events(self) -> list[str]:
        """What happened since the last call, a sentence each."""
        return [f"{name}: {event}" for name, part in self._parts.items() for event in part.take_events()]

    def decode(self, pending: Pending) -> AssembledFrame:
        """See `Assembler`."""
        return self._parts[pending.camera_name].decode(pending)

    def pop_moment(self, now_ns: int | None = None) -> tuple[Pending, ...]:
        """The next moment that is whole, or that a camera is too late for, in the order of the cameras."""
        self._now_ns = max(self._now_ns, now_ns or 0)
        self._hold()
        while self._held:
            first_ns = min(pending.stamp_ns for pending in self._held.values())
            names = [name for name in self._parts if self._is_of_moment(name, first_ns)]
            if not self._is_settled(names):
                return ()
            moment = [self._held.pop(name) for name in names]
            if self._is_wanted(first_ns, len(moment)):
                rig = self._known if len(self._known) == len(self._parts) else {}
                return tuple(replace(p, rig=dict(rig), generation=self._generation) for p in moment)
            self._hold()
        return ()

    def _is_wanted(self, stamp_ns: int, num_images: int) -> bool:
        """Whether a moment is due; what came too late for the last one belongs to it all the same."""
        since_ns = None if self._last_ns is None else stamp_ns - self._last_ns
        if since_ns is not None and since_ns < -MOMENT_NS:
            self._left_out.dropped_late += num_images
            return False
        if since_ns is not None and since_ns <= MOMENT_NS:
            return True
        if not self._schedule.is_due(stamp_ns):
            self._left_out.dropped_by_rate += num_images
            return False
        self._schedule.keep(stamp_ns)
        self._last_ns = stamp_ns
        return True

    def _hold(self) -> None:
        """Take the next complete image of every camera that has none waiting for the others."""
        generation = self._generation
        for name, part in self._parts.items():
            if name not in self._held and (pending := part.pop(self._now_ns)) is not None:
                self._take(name, pending)
        if self._generation != generation:  # what was held of the former time is gone
            self._hold()

    def _take(self, name: str, pending: Pending) -> None:
        if pending.generation > self._generation:
            self._restart(pending.generation)
        self._now_ns = max(self._now_ns, pending.arrival_ns)
        self._first_arrival_ns = self._first_arrival_ns or pending.arrival_ns
        self._held[name] = pending
        if pending.camera is not None:
            self._known[name] = pending.camera

    def _restart(self, generation: int) -> None:
        """Images of the former time have no place beside those of the new one."""
        self._left_out.dropped_by_newer += len(self._held)
        self._held.clear()
        self._generation, self._last_ns = generation, None
        self._schedule = RateSchedule(self._config.input.max_rate_hz)

    def _is_of_moment(self, name: str, first_ns: int) -> bool:
        return name in self._held and self._held[name].stamp_ns - first_ns <= MOMENT_NS

    def _is_settled(self, names: list[str]) -> bool:
        """Whether no camera can add to a moment: each has given its image, holds a later one, or is late."""
        missing = [part for name, part in self._parts.items() if name not in self._held]
        if not missing:
            return True
        arrival_ns = min(self._held[name].arrival_ns for name in names)
        starting = self._now_ns - (self._first_arrival_ns or 0) < self._config.camera.wait_s * 1e9
        if starting and not all(part.counts.received for part in missing):
            return False
        return self._now_ns - arrival_ns >= MAX_WAIT_NS
