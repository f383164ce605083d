"""A drive through a world as a source of frames, with the truth beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from progeo_edge.geometry import Camera, make_transform, rotation_exp
from progeo_edge.sources.base import SkippedFrame
from progeo_edge.types import Frame, Transform
from progeo_edge.world.trajectory import DriveStep
from progeo_edge.world.world import World


def forward_camera(
    width_px: int = 640, height_px: int = 480, *, horizontal_fov_deg: float = 75.0, baseline_m: float | None = None
) -> Camera:
    """A pinhole 1.2 m above the ground that looks forward and 4 degrees up, as robots carry them."""
    focal_px = 0.5 * width_px / np.tan(np.deg2rad(0.5 * horizontal_fov_deg))
    K = np.array([[focal_px, 0, 0.5 * (width_px - 1)], [0, focal_px, 0.5 * (height_px - 1)], [0, 0, 1.0]])
    optical_from_forward = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])
    R_base_camera = optical_from_forward @ rotation_exp([np.deg2rad(4.0), 0, 0])
    mounting = make_transform(R_base_camera, [0.3, 0.0, 1.2])
    return Camera("pinhole", width_px, height_px, K, T_base_camera=mounting, baseline_m=baseline_m)


class WorldSource:
    """Renders a drive frame by frame, whenever it is iterated.

    Args:
        world: Where.
        drive: Poses and light, from `simulate_drive`.
        camera: What the robot carries; frames are rendered at `T_world_base @ camera.T_base_camera`.
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
        camera: Camera,
        *,
        depth: bool = False,
        stereo: bool = False,
        odometry: bool = True,
        name: str = "street world",
    ) -> None:
        self.name = name
        self.camera: Camera | None = camera
        self.num_frames: int | None = len(drive)
        self.skipped: list[SkippedFrame] = []
        self.truth: Mapping[int, Transform] = {step.stamp_ns: step.T_world_base for step in drive}
        self.labels: Mapping[int, str] = {step.stamp_ns: step.label for step in drive}
        self._world, self._drive, self._eye = world, drive, camera
        self._depth, self._stereo, self._odometry = depth, stereo, odometry

    def __iter__(self) -> Iterator[Frame]:
        """Frames in the order of the drive.

        Raises:
            InputError: stereo without a baseline.
        """
        for i, step in enumerate(self._drive):
            yield self._render(i, step)

    def _render(self, i: int, step: DriveStep) -> Frame:
        T_world_camera = step.T_world_base @ self._eye.T_base_camera
        right = None
        if self._stereo:
            image, right, depth_m = self._world.render_stereo(self._eye, T_world_camera, step.lighting)
        else:
            image, depth_m = self._world.render(self._eye, T_world_camera, step.lighting)
        return Frame(
            stamp_ns=step.stamp_ns,
            image=image,
            name=f"{i:06d}",
            T_odom_base=step.T_odom_base if self._odometry else None,
            depth_m=depth_m if self._depth else None,
            right=right,
        )
