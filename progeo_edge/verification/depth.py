"""Keypoints -> points in metres: from a registered depth image, or from the right image of a rectified pair."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError
from progeo_edge.geometry import Camera
from progeo_edge.types import Image

_MAX_DEPTH_STEP = 0.1
"""A 3x3 neighbourhood whose depths differ by more than this share lies on an edge: either side may be meant."""

_MIN_VALID = 5
_ROW_TOLERANCE_PX = 2.0
_MIN_DISPARITY_PX = 1.0
_MAX_DISPARITY_SHARE = 0.4
_REFINE_WINDOW_PX = 15
_MAX_DISTANCE = {"orb": 64.0, "sift": 250.0}

StereoPair = tuple[NDArray[np.float32], NDArray[np.float32]]


def points_from_depth(
    keypoints_px: NDArray[np.float32], depth_m: NDArray[np.float32], shape: tuple[int, int], camera: Camera
) -> NDArray[np.float32]:
    """(N, 3) points in the optical frame, NaN where the depth is unknown or lies on an edge.

    Args:
        keypoints_px: (N, 2) pixels of the image.
        depth_m: (H, W) depth along the optical axis; 0, negative, NaN and infinity mean unknown.
        shape: (H, W) of the image.
        camera: Intrinsics at that size.

    Raises:
        InputError: the depth image has another size than the image.
    """
    depth = np.asarray(depth_m, dtype=np.float32)
    if depth.shape != shape:
        raise InputError(f"depth image has shape {depth.shape}; expected {shape}, registered to the image")
    z_m = _median_depth(np.where(np.isfinite(depth) & (depth > 0), depth, np.nan), keypoints_px)
    return _back_project(keypoints_px, z_m, camera)


def _median_depth(depth_m: NDArray[np.float32], keypoints_px: NDArray[np.float32]) -> NDArray[np.float32]:
    padded = np.pad(depth_m, 1, constant_values=np.nan)
    column, row = np.rint(keypoints_px).astype(np.int64).T + 1
    row = np.clip(row, 1, depth_m.shape[0])
    column = np.clip(column, 1, depth_m.shape[1])
    neighbours = np.stack([padded[row + dy, column + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)], axis=1)
    valid = np.isfinite(neighbours).sum(axis=1)
    ordered = np.sort(neighbours, axis=1)  # NaN sort to the end
    rows = np.arange(len(ordered))
    median = 0.5 * (ordered[rows, np.maximum(valid - 1, 0) // 2] + ordered[rows, valid // 2 * (valid > 0)])
    step = ordered[rows, np.maximum(valid - 1, 0)] - ordered[:, 0]
    reliable = (valid >= _MIN_VALID) & (step <= _MAX_DEPTH_STEP * median)
    return np.where(reliable, median, np.nan).astype(np.float32)


def points_from_stereo(
    images: tuple[Image, Image],
    keypoints_px: StereoPair,
    descriptors: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    kind: str,
    camera: Camera,
) -> NDArray[np.float32]:
    """(N, 3) points of the left keypoints in the left optical frame, NaN where no right keypoint agrees.

    Left and right keypoints are matched along the row, both ways; the disparity is then refined to sub-pixels by
    Lucas-Kanade on the working images, and refused when it leaves the row or the matched keypoint.

    Args:
        images: Left and right working image, the same size.
        keypoints_px: (N, 2) left and (M, 2) right keypoints in original pixels.
        descriptors: Their descriptors.
        kind: "orb" or "sift".
        camera: Intrinsics of the rectified left image in original pixels, with a baseline.
    """
    left_px, right_px = keypoints_px
    points = np.full((len(left_px), 3), np.nan, dtype=np.float32)
    if camera.baseline_m is None or len(left_px) == 0 or len(right_px) == 0:
        return points
    factor = camera.width_px / images[0].shape[1]
    left, right = _match_rows(keypoints_px, descriptors, kind, camera.width_px, factor)
    if len(left) == 0:
        return points
    disparity_px = _refine_disparity(images, left_px[left], right_px[right], factor)
    z_m = np.float32(camera.K[0, 0] * camera.baseline_m) / disparity_px
    points[left] = _back_project(left_px[left], z_m, camera)
    return points


def _match_rows(
    keypoints_px: StereoPair,
    descriptors: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    kind: str,
    width_px: int,
    factor: float,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    (left_px, right_px), (left_descriptors, right_descriptors) = keypoints_px, descriptors
    disparity = left_px[:, None, 0] - right_px[None, :, 0]
    allowed = np.abs(left_px[:, None, 1] - right_px[None, :, 1]) <= _ROW_TOLERANCE_PX * factor
    allowed &= (disparity > 0) & (disparity < _MAX_DISPARITY_SHARE * width_px)
    distances, nearest = _nearest_allowed(left_descriptors, right_descriptors, kind, allowed)
    _, backward = _nearest_allowed(right_descriptors, left_descriptors, kind, allowed.T)
    left = np.arange(len(left_px))
    keep = (nearest >= 0) & (distances <= _MAX_DISTANCE[kind]) & (backward[nearest] == left)
    return left[keep], nearest[keep]


def _nearest_allowed(
    a: NDArray[np.uint8], b: NDArray[np.uint8], kind: str, allowed: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """(N,) distance and index of the nearest allowed row of b; index -1 where none is allowed."""
    mask = np.ascontiguousarray(allowed, dtype=np.uint8)
    if kind == "orb":
        distances, indices = cv2.batchDistance(a, b, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=1, mask=mask)
    else:
        floats = a.astype(np.float32), b.astype(np.float32)
        distances, indices = cv2.batchDistance(*floats, cv2.CV_32F, normType=cv2.NORM_L2, K=1, mask=mask)
    return distances[:, 0].astype(np.float64), indices[:, 0].astype(np.intp)


def _refine_disparity(
    images: tuple[Image, Image], left_px: NDArray[np.float32], right_px: NDArray[np.float32], factor: float
) -> NDArray[np.float32]:
    """(N,) disparity in original pixels, NaN where the refinement is not to be trusted."""
    start = (left_px + 0.5) / np.float32(factor) - 0.5
    guess = (right_px + 0.5) / np.float32(factor) - 0.5
    end, found, _ = cv2.calcOpticalFlowPyrLK(
        images[0],
        images[1],
        start.reshape(-1, 1, 2),
        guess.reshape(-1, 1, 2).copy(),
        winSize=(_REFINE_WINDOW_PX, _REFINE_WINDOW_PX),
        maxLevel=0,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    end = end.reshape(-1, 2)
    disparity = start[:, 0] - end[:, 0]
    trusted = (found.ravel() == 1) & (np.abs(end[:, 1] - start[:, 1]) <= 1.0)
    trusted &= (np.abs(end[:, 0] - guess[:, 0]) <= 3.0) & (disparity >= _MIN_DISPARITY_PX)
    return np.where(trusted, disparity * np.float32(factor), np.nan).astype(np.float32)


def _back_project(keypoints_px: NDArray[np.float32], z_m: NDArray[np.float32], camera: Camera) -> NDArray[np.float32]:
    rays = np.column_stack([camera.normalise(keypoints_px), np.ones(len(keypoints_px))])
    return (rays * z_m[:, None]).astype(np.float32)
