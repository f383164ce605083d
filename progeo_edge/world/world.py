"""Worlds: a scene that can be seen through any camera, with exact depth."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError
from progeo_edge.geometry import Camera, check_transform, make_transform
from progeo_edge.types import Image, Transform
from progeo_edge.world.corridor import build_corridor
from progeo_edge.world.lighting import DAY, Lighting
from progeo_edge.world.renderer import QuadRenderer
from progeo_edge.world.scene import FloatArray, Scene
from progeo_edge.world.sensor import expose
from progeo_edge.world.shading import LightBaker
from progeo_edge.world.sky import grain_tile, sky_box
from progeo_edge.world.street import build_street

MAX_HALF_ANGLE_DEG = 72.0
"""A fisheye sees nothing beyond this angle off its axis: the picture is black there and the depth 0."""


class World:
    """A scene and its renderer. The same seed, pose, camera and lighting give the same picture, bit by bit."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self.scene = scene
        self.seed = seed
        rng = np.random.default_rng([seed, 77])
        sky = () if scene.indoor else sky_box(rng)
        self._renderer = QuadRenderer(scene.quads, sky, grain_tile(rng))
        self._light_maps: dict[tuple[float, ...], tuple[Image, ...]] = {}

    def render(
        self, camera: Camera, T_world_camera: Transform, lighting: Lighting = DAY
    ) -> tuple[Image, NDArray[np.float32]]:
        """What a camera sees.

        Args:
            camera: Pinhole with or without distortion, or fisheye.
            T_world_camera: (4, 4) pose of its optical frame (z forward, x right, y down).
            lighting: Light and sensor.

        Returns:
            image (H, W, 3) uint8 BGR, and depth_m (H, W) float32 along the optical axis, 0 for the sky.

        Raises:
            InputError: the pose is not rigid.
        """
        pose = check_transform(T_world_camera, "T_world_camera")
        light_maps = self._bake(lighting)
        size = (camera.width_px, camera.height_px)
        if camera.model == "pinhole" and not np.any(camera.distortion):
            view = self._renderer.render(camera.K, *size, pose, lighting, light_maps)
            return expose(view.image, lighting), view.depth_m()
        lens = _lens(_CameraKey(camera))
        view = self._renderer.render(lens.K, lens.width, lens.height, pose, lighting, light_maps)
        image = cast(
            Image, cv2.remap(view.image, lens.map_x, lens.map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        )
        return expose(image, lighting), self._exact_depth(lens, view.quad_ids, pose)

    def render_stereo(
        self, camera: Camera, T_world_camera: Transform, lighting: Lighting = DAY
    ) -> tuple[Image, Image, NDArray[np.float32]]:
        """Left image, right image and depth of the left one, of a rectified pair `camera.baseline_m` apart.

        Raises:
            InputError: the camera has no baseline.
        """
        if camera.baseline_m is None:
            raise InputError("camera has no baseline_m; give the distance to its right camera for stereo")
        image, depth_m = self.render(camera, T_world_camera, lighting)
        T_left_right = make_transform(np.eye(3), [camera.baseline_m, 0.0, 0.0])
        right, _ = self.render(camera, T_world_camera @ T_left_right, lighting.with_other_noise())
        return image, right, depth_m

    def _bake(self, lighting: Lighting) -> tuple[Image, ...]:
        key = lighting.baked_key()
        if key not in self._light_maps:
            if len(self._light_maps) >= 4:
                self._light_maps.pop(next(iter(self._light_maps)))
            baker = LightBaker(self.scene, lighting)
            self._light_maps[key] = tuple(baker.bake(quad) for quad in self.scene.quads)
        return self._light_maps[key]

    def _exact_depth(self, lens: _Lens, ids: NDArray[np.int16], T_world_camera: Transform) -> NDArray[np.float32]:
        """Which quad a pixel shows is looked up; its depth follows exactly from the quad's plane."""
        seen = cv2.remap(ids, lens.map_x, lens.map_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=-1)
        planes = self._renderer.depth_planes(T_world_camera)[seen]
        inverse = planes[..., 0] * lens.rays[..., 0] + planes[..., 1] * lens.rays[..., 1] + planes[..., 2]
        known = (seen >= 0) & (inverse > 1e-6)
        return np.where(known, 1.0 / np.where(known, inverse, 1.0), 0.0).astype(np.float32)


class StreetWorld(World):
    """Two blocks of houses with streets round them, different for every seed; see `build_street`."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(build_street(seed), seed)


def repetitive_corridor(seed: int = 0, length_m: float = 60.0) -> World:
    """A corridor whose walls and doors repeat exactly every few metres: places that pictures cannot tell apart."""
    return World(build_corridor(seed, length_m), seed)


class _CameraKey:
    """Hashes a camera by its numbers, so that the maps of one lens are computed once."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        numbers = (*camera.K.ravel().tolist(), *camera.distortion.ravel().tolist())
        self._key = (camera.model, camera.width_px, camera.height_px, numbers)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _CameraKey) and self._key == other._key


class _Lens:
    """A distorted camera as a look-up into a wider ideal pinhole."""

    def __init__(self, camera: Camera) -> None:
        x, y = np.meshgrid(np.arange(camera.width_px), np.arange(camera.height_px))
        pixels = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)
        rays = camera.normalise(pixels).reshape(camera.height_px, camera.width_px, 2)
        reach = np.tan(np.deg2rad(MAX_HALF_ANGLE_DEG))
        blind = ~(np.hypot(rays[..., 0], rays[..., 1]) < reach)
        rays[blind] = 0.0
        half = np.abs(rays).max(axis=(0, 1)) + 2.0 / camera.focal_px
        self.width, self.height = (int(np.ceil(2 * h * camera.focal_px)) for h in half)
        self.K: FloatArray = np.array(
            [[camera.focal_px, 0, 0.5 * (self.width - 1)], [0, camera.focal_px, 0.5 * (self.height - 1)], [0, 0, 1.0]]
        )
        self.rays = rays
        self.map_x = (rays[..., 0] * camera.focal_px + self.K[0, 2]).astype(np.float32)
        self.map_y = (rays[..., 1] * camera.focal_px + self.K[1, 2]).astype(np.float32)
        self.map_x[blind] = -10.0
        self.map_y[blind] = -10.0


@lru_cache(maxsize=4)
def _lens(key: _CameraKey) -> _Lens:
    return _Lens(key.camera)
