"""What comes out of the frame assembler: complete images, frames, and counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from progeo_edge.geometry import Camera, Cameras
from progeo_edge.types import Frame, Transform

if TYPE_CHECKING:
    from progeo_ros.frame_assembler import FrameAssembler

ONE_CAMERA = "cam0"
"""Name in the map of a camera that is the only one."""


@dataclass(slots=True)
class AssemblerCounts:
    """What became of the images.

    Attributes:
        received: Images that came in.
        dropped_by_rate: More than input.max_rate_hz.
        dropped_by_newer: A newer image was complete, or came before this one was.
        dropped_late: Stamp equal to or before that of an earlier image.
        not_asked_for: With input.external_keyframes: no trigger named it.
        broken: Could not be used; `last_problem` of the assembler says why.
        restarts: Stamps jumped back: a bag or simulation was started anew.
        odometry_invalid: Odometry messages with NaN or without orientation.
        without_odometry: Frames for which no pose was known.
        without_depth: Frames without the depth that was asked for.
        without_right: Frames without the right image that was asked for.
        triggers_unmatched: Keyframe triggers to which no image came.
    """

    received: int = 0
    dropped_by_rate: int = 0
    dropped_by_newer: int = 0
    dropped_late: int = 0
    not_asked_for: int = 0
    broken: int = 0
    restarts: int = 0
    odometry_invalid: int = 0
    without_odometry: int = 0
    without_depth: int = 0
    without_right: int = 0
    triggers_unmatched: int = 0

    def as_dict(self) -> dict[str, int]:
        """Names and counts."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A complete image that is not decoded yet.

    Attributes:
        message: sensor_msgs/Image or CompressedImage.
        depth: Its depth message, or None.
        right: Its right image's message, or None.
        camera: Calibration with mounting, at the size it was calibrated at; None when unknown.
        T_odom_base: Pose of `base_frame` at the stamp, or None.
        stamp_ns: Of the image.
        camera_frame: frame_id of the image.
        base_frame: Frame that all poses are of: frames.base, or the camera's optical frame.
        odom_frame: Frame of the odometry.
        arrival_ns: When the image came, by the caller's clock.
        generation: Counts up when stamps jump back or `base_frame` changes: what follows cannot belong to the same
            session.
        camera_name: As the map calls the camera.
        rig: All cameras of a rig; empty until all are known. None where there is only one camera.
    """

    message: Any
    depth: Any | None
    right: Any | None
    camera: Camera | None
    T_odom_base: Transform | None
    stamp_ns: int
    camera_frame: str
    base_frame: str
    odom_frame: str
    arrival_ns: int
    generation: int
    camera_name: str = ONE_CAMERA
    rig: Mapping[str, Camera] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class AssembledFrame:
    """A frame for the detector, with what the node has to know beside it. Attributes as in `Pending`.

    `camera` is what the detector is given: of a rig all cameras.
    """

    frame: Frame
    camera: Cameras | None
    camera_frame: str
    base_frame: str
    odom_frame: str
    arrival_ns: int
    generation: int


class Assembler(Protocol):
    """What the node works with: `FrameAssembler` for one camera, `RigAssembler` for several. The caller locks."""

    @property
    def parts(self) -> Mapping[str, FrameAssembler]:
        """Where messages go, by what stands before the names of their topics: "" or "front/"."""
        ...

    @property
    def counts(self) -> AssemblerCounts:
        """What became of the images."""
        ...

    @property
    def last_problem(self) -> str:
        """Why the last broken image was one."""
        ...

    @property
    def problems(self) -> list[str]:
        """Conditions that last, a sentence each."""
        ...

    @property
    def waiting_for(self) -> str:
        """What is missing; "" for nothing."""
        ...

    @property
    def has_camera(self) -> bool:
        """Whether intrinsics are known."""
        ...

    def take_events(self) -> list[str]:
        """What happened since the last call, a sentence each."""
        ...

    def pop_moment(self, now_ns: int | None = None) -> tuple[Pending, ...]:
        """The newest complete images of one moment, one of each camera; empty when there is none."""
        ...

    def decode(self, pending: Pending) -> AssembledFrame:
        """Pixels of a complete image. May run beside everything else."""
        ...
