"""A drive through a world as a source of frames, with the truth beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from progeo_edge.geometry import Camera, Cameras, make_transform, rotation_exp
from progeo_edge.sources.base import SkippedFrame
from progeo_edge.types import Frame, Transform
from progeo_edge.world.trajectory import DriveStep
from progeo_edge.world.world import World

_NOISE_SEEDS_PER_CAMERA = 1_000_000_000


def forward_camera(
    width_px: int = 640, height_px: int = 480, *, horizontal_fov_deg: float = 75.0, baseline_m: float | None = None
) -> Camera:
    """A pinhole 1.2 m above the ground that looks forward and 4 degrees up, as robots carry them."""
    return camera_towards(0.0, width_px, height_px, horizontal_fov_deg=horizontal_fov_deg, baseline_m=baseline_m)


def camera_towards(
    heading_deg: float,
    width_px: int = 640,
    height_px: int = 480,
    *,
    horizontal_fov_deg: float = 75.0,
    baseline_m: float | None = None,
) -> Camera:
    """As `forward_camera`, turned to the left by an angle: 90 looks left, 180 backwards from the robot's rear."""
    focal_px = 0.5 * width_px / np.tan(np.deg2rad(0.5 * horizontal_fov_deg))
    K = np.array([[focal_px, 0, 0.5 * (width_px - 1)], [0, focal_px, 0.5 * (height_px - 1)], [0, 0, 1.0]])
    optical_from_forward = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])
    R_base_forward = rotation_exp([0, 0, np.deg2rad(heading_deg)])
    R_base_camera = R_base_forward @ optical_from_forward @ rotation_exp([np.deg2rad(4.0), 0, 0])
    mounting = make_transform(R_base_camera, R_base_forward @ [0.3, 0.0, 1.2])
    return Camera("pinhole", width_px, height_px, K, T_base_camera=mounting, baseline_m=baseline_m)


class WorldSource:
    """Renders a drive frame by frame, whenever it is iterated.

    Args:
        world: Where.
        drive: Poses and light, from `simulate_drive`.
        camera: What the robot carries; frames are rendered at `T_world_base @ camera.T_base_camera`. Of a rig the
            cameras by name: every step gives a frame of each, in this order.
        depth: Give `depth_m` with every frame.
        stereo: Give the right image with every frame; the camera must have a baseline.
        odometry: Give `T_odom_base` with every frame.
        name: Shown in reports.

    Attributes:
        truth: stamp_ns to T_world_base.
        labels: stamp_ns to what the robot is doing there.
    """

    def __init__(
        self,
        world: World,
        drive: Sequence[DriveStep],
        camera: Cameras,
        *,
        depth: bool = False,
        stereo: bool = False,
        odometry: bool = True,
        name: str = "street world",
    ) -> None:
        self.name = name
        self.camera: Cameras | None = camera
        self._eyes = {"cam0": camera} if isinstance(camera, Camera) else dict(camera)
        self.num_frames: int | None = len(drive) * len(self._eyes)
        self.skipped: list[SkippedFrame] = []
        self.truth: Mapping[int, Transform] = {step.stamp_ns: step.T_world_base for step in drive}
        self.labels: Mapping[int, str] = {step.stamp_ns: step.label for step in drive}
        self._world, self._drive = world, drive
        self._depth, self._stereo, self._odometry = depth, stereo, odometry

    def __iter__(self) -> Iterator[Frame]:
        """Frames in the order of the drive.

        Raises:
            InputError: stereo without a baseline.
        """
        for i, step in enumerate(self._drive):
            for number, (name, eye) in enumerate(self._eyes.items()):
                yield self._render(i, step, name, eye, number)

    def _render(self, i: int, step: DriveStep, camera: str, eye: Camera, number: int) -> Frame:
        T_world_camera = step.T_world_base @ eye.T_base_camera
        # Sensors do not share their noise; the first one's is that of a robot with one camera.
        lighting = replace(step.lighting, noise_seed=step.lighting.noise_seed + number * _NOISE_SEEDS_PER_CAMERA)
        right = None
        if self._stereo:
            image, right, depth_m = self._world.render_stereo(eye, T_world_camera, lighting)
        else:
            image, depth_m = self._world.render(eye, T_world_camera, lighting)
        return Frame(
            stamp_ns=step.stamp_ns,
            image=image,
            name=f"{i:06d}" if isinstance(self.camera, Camera) else f"{camera}/{i:06d}",
            T_odom_base=step.T_odom_base if self._odometry else None,
            depth_m=depth_m if self._depth else None,
            right=right,
            camera=camera,
        )
