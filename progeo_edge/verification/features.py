"""Image -> local features: ORB or RootSIFT, spread over the image, with 3D points when depth or stereo is there."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import VerificationConfig
from progeo_edge.errors import InputError
from progeo_edge.geometry import Camera
from progeo_edge.types import Image, LocalFeatures, ScaleSource
from progeo_edge.verification.depth import points_from_depth, points_from_stereo

ORB_PATCH_PX = 31
"""Diameter that ORB describes, at the scale of its pyramid level."""

_LEVELS = 8
_OVERSAMPLING = 3
_FAST_THRESHOLD_DIM = 5
"""Low, as the strongest are chosen afterwards: at 20 a dim hall at 160x120 gives 150 keypoints, at 5 1200."""

_FAST_THRESHOLD_RICH = 10
"""At 20, quicker still, the errors of poses in metres grew on a rendered street: their 90th percentile by 15 %."""

_STRONG = 20
_RICH = 0.65
_RICH_CELLS = 1 / 3
_RICH_CELL = 3
"""A picture is rich when it shows this share of `max_features` as corners above the threshold of strong ones, and this
share of its grid cells holds so many of them. Its pyramid then has more than enough above the second threshold, and the
weaker ones would be found in vain. One rich corner of a dull picture is not enough: the rest must be covered too."""

_SIFT_CONTRAST = 0.01
_GRID_COLUMNS = 16


class FeatureExtractor:
    """Finds and describes keypoints at a fixed working size, so that thresholds in pixels mean the same everywhere."""

    def __init__(self, config: VerificationConfig) -> None:
        """Args: config: detector, number of features and working size."""
        self._config = config
        self._detector = _make_detector(config)
        self._probe = cv2.FastFeatureDetector.create(_STRONG)

    def extract(
        self,
        image: Image,
        *,
        camera: Camera | None = None,
        depth_m: NDArray[np.float32] | None = None,
        right: Image | None = None,
        mask: NDArray[np.uint8] | None = None,
    ) -> LocalFeatures:
        """Local features of one image.

        The image is resized so that its longer side is `working_size_px`; small images are enlarged, since ORB's
        31-pixel patch would otherwise cover a fifth of a 160x120 picture. Keypoints are returned in original pixels.

        Args:
            image: (H, W, 3) BGR or (H, W) grey, uint8.
            camera: Intrinsics; without them `depth_m` and `right` cannot give points and are ignored.
            depth_m: (H, W) depth along the optical axis in metres, 0 or NaN where unknown.
            right: Right image of a rectified pair, same size; used when `depth_m` is None and the camera has a
                baseline.
            mask: (H, W) uint8, 255 where keypoints may lie; None for everywhere.

        Returns:
            Features, zero of them for a blank image.

        Raises:
            InputError: wrong dtype or shape, or a camera calibrated for another aspect ratio.
        """
        grey = to_grey(image)
        height, width = grey.shape
        scale = self._config.working_size_px / max(height, width)
        working = _resize(grey, scale)
        mask_working = _resize_mask(mask, grey.shape, working.shape)
        keypoints, descriptors = self._describe(working, self._detect(working, mask_working))
        positions_px = _original_pixels(keypoints, self._config.detector, grey.shape, working.shape)
        sizes_px = _each("size", keypoints) / np.float32(scale)
        points_m, source = None, ScaleSource.NONE
        if camera is not None and depth_m is not None:
            camera = camera.for_image_size(width, height)
            points_m, source = points_from_depth(positions_px, depth_m, (height, width), camera), ScaleSource.DEPTH
        elif camera is not None and camera.baseline_m is not None and right is not None:
            camera = camera.for_image_size(width, height)
            points_m = self._stereo_points(working, right, grey.shape, positions_px, descriptors, camera)
            source = ScaleSource.STEREO
        return LocalFeatures(
            kind=self._config.detector,
            keypoints_px=positions_px,
            sizes_px=sizes_px,
            descriptors=descriptors,
            image_size_px=(width, height),
            points_m=points_m,
            point_scale_source=source,
        )

    def _detect(self, working: Image, mask: NDArray[np.uint8] | None) -> list[cv2.KeyPoint]:
        if min(working.shape) < ORB_PATCH_PX:
            return []
        if isinstance(self._detector, cv2.ORB):
            self._detector.setFastThreshold(self._fast_threshold(working, mask))
        return _spread(self._detector.detect(working, mask), working.shape, self._config.max_features)

    def _fast_threshold(self, working: Image, mask: NDArray[np.uint8] | None) -> int:
        """Half a millisecond of looking saves two of the nine that a rich picture takes."""
        corners = self._probe.detect(working, mask)
        if len(corners) < _RICH * self._config.max_features:
            return _FAST_THRESHOLD_DIM
        per_cell = np.bincount(_cells(corners, working.shape))
        num_cells = _GRID_COLUMNS**2 * working.shape[0] / working.shape[1]
        is_rich = np.count_nonzero(per_cell >= _RICH_CELL) >= _RICH_CELLS * num_cells
        return _FAST_THRESHOLD_RICH if is_rich else _FAST_THRESHOLD_DIM

    def _describe(
        self, working: Image, keypoints: Sequence[cv2.KeyPoint]
    ) -> tuple[Sequence[cv2.KeyPoint], NDArray[np.uint8]]:
        width = 32 if self._config.detector == "orb" else 128
        if not keypoints:
            return [], np.zeros((0, width), dtype=np.uint8)
        described, descriptors = self._detector.compute(working, list(keypoints))
        if not described:
            return [], np.zeros((0, width), dtype=np.uint8)
        if self._config.detector == "sift":
            return described, _root_sift(np.asarray(descriptors, dtype=np.float32))
        return described, np.asarray(descriptors, dtype=np.uint8)

    def _stereo_points(
        self,
        working: Image,
        right: Image,
        shape: tuple[int, ...],
        positions_px: NDArray[np.float32],
        descriptors: NDArray[np.uint8],
        camera: Camera,
    ) -> NDArray[np.float32]:
        right_grey = to_grey(right)
        if right_grey.shape != shape:
            raise InputError(
                f"right image is {right_grey.shape[1]}x{right_grey.shape[0]} but the left one is {shape[1]}x{shape[0]};"
                " give both images of a rectified pair in the same size"
            )
        right_working = _resize(right_grey, self._config.working_size_px / max(shape))
        right_keypoints, right_descriptors = self._describe(right_working, self._detect(right_working, None))
        right_px = _original_pixels(right_keypoints, self._config.detector, shape, working.shape)
        return points_from_stereo(
            (working, right_working),
            (positions_px, right_px),
            (descriptors, right_descriptors),
            self._config.detector,
            camera,
        )


def to_grey(image: Image) -> Image:
    """(H, W) uint8 grey of an (H, W, 3) BGR or (H, W) image.

    Raises:
        InputError: any other shape or dtype, or an image without pixels.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = getattr(image, "dtype", type(image).__name__)
        raise InputError(f"image is of type {found}; expected a uint8 array, convert deeper images first")
    if image.size == 0 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise InputError(f"image has shape {image.shape}; expected (H, W, 3) BGR or (H, W) grey with pixels in it")
    if image.ndim == 3 and image.shape[2] == 3:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
    return np.ascontiguousarray(image.reshape(image.shape[:2]))


def _make_detector(config: VerificationConfig) -> cv2.Feature2D:
    if config.detector == "orb":
        return cv2.ORB.create(
            nfeatures=_OVERSAMPLING * config.max_features,
            nlevels=_LEVELS,
            fastThreshold=_FAST_THRESHOLD_DIM,
            patchSize=ORB_PATCH_PX,
        )
    return cv2.SIFT.create(nfeatures=_OVERSAMPLING * config.max_features, contrastThreshold=_SIFT_CONTRAST)


def _resize(grey: Image, scale: float) -> Image:
    height, width = grey.shape
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(grey, size, interpolation=interpolation), dtype=np.uint8)


def _resize_mask(
    mask: NDArray[np.uint8] | None, shape: tuple[int, ...], working_shape: tuple[int, ...]
) -> NDArray[np.uint8] | None:
    if mask is None:
        return None
    if mask.shape != shape or mask.dtype != np.uint8:
        raise InputError(f"mask is {mask.dtype} {mask.shape}; expected uint8 {shape}, the size of the image")
    resized = cv2.resize(mask, (working_shape[1], working_shape[0]), interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, dtype=np.uint8)


def _spread(keypoints: Sequence[cv2.KeyPoint], shape: tuple[int, ...], count: int) -> list[cv2.KeyPoint]:
    """The strongest of every grid cell first, then every cell's second, and so on, until `count` are taken."""
    if len(keypoints) <= count:
        return list(keypoints)
    strongest_first = np.argsort(-_each("response", keypoints), kind="stable")
    cells = _cells(keypoints, shape)[strongest_first]
    by_cell = np.argsort(cells, kind="stable")
    starts = np.concatenate([[0], np.flatnonzero(np.diff(cells[by_cell])) + 1])
    lengths = np.diff(np.append(starts, len(by_cell)))
    rank = np.empty(len(keypoints), dtype=np.uint16)
    rank[by_cell] = np.minimum(np.arange(len(by_cell)) - np.repeat(starts, lengths), 65_535)
    chosen = strongest_first[np.argsort(rank, kind="stable")[:count]]
    return [keypoints[index] for index in chosen]


def _cells(keypoints: Sequence[cv2.KeyPoint], shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """(N,) grid cell of each keypoint; 16 bits, which are sorted by radix, several times faster."""
    cell_px = shape[1] / _GRID_COLUMNS
    columns, rows = np.floor(np.asarray(cv2.KeyPoint.convert(keypoints)) / cell_px).astype(np.uint16).T
    return np.asarray(rows * np.uint16(_GRID_COLUMNS) + columns, dtype=np.uint16)


def _each(attribute: str, keypoints: Sequence[cv2.KeyPoint]) -> NDArray[np.float32]:
    """(N,) one attribute of all keypoints."""
    return np.fromiter(map(attrgetter(attribute), keypoints), dtype=np.float32, count=len(keypoints))


def _root_sift(descriptors: NDArray[np.float32]) -> NDArray[np.uint8]:
    """RootSIFT (Arandjelovic and Zisserman, Three things everyone should know, 2012) in the 0-255 range of SIFT."""
    shares = descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-7)
    return np.asarray(np.clip(np.rint(512.0 * np.sqrt(shares)), 0, 255), dtype=np.uint8)


def _original_pixels(
    keypoints: Sequence[cv2.KeyPoint], kind: str, shape: tuple[int, ...], working_shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Working pixels to original ones; pixel centres lie at integers, so the half pixel moves too."""
    if not keypoints:
        return np.zeros((0, 2), dtype=np.float32)
    factor = np.array([shape[1] / working_shape[1], shape[0] / working_shape[0]], dtype=np.float32)
    working_px = np.array(cv2.KeyPoint.convert(list(keypoints)), dtype=np.float32)
    if kind == "orb":  # OpenCV multiplies positions by the scale of their pyramid level and forgets that half pixel
        level_scale = _each("size", keypoints) / np.float32(ORB_PATCH_PX)
        working_px += np.float32(0.5) * (level_scale[:, None] - np.float32(1.0))
    return np.asarray((working_px + 0.5) * factor - 0.5, dtype=np.float32)
