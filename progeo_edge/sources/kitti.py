"""KITTI odometry sequences.

Format: https://www.cvlibs.net/datasets/kitti/eval_odometry.php
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError, SourceError
from progeo_edge.geometry import Camera, check_transform, make_transform
from progeo_edge.sources.base import Entry, LazySource, SkippedFrame, source_from_entries
from progeo_edge.sources.folder import find_images
from progeo_edge.sources.images import FrameError, read_image
from progeo_edge.sources.listing import parse_stamp_ns
from progeo_edge.sources.poses import base_pose, read_fields, read_numbers
from progeo_edge.types import Frame, Image, Transform

logger = logging.getLogger(__name__)

_RIGHT_OF = {"image_0": "image_1", "image_2": "image_3"}


def find_left_folder(folder: Path) -> Path | None:
    """The folder of the left camera, grey before colour; or the one given, when it is one."""
    if folder.name in _RIGHT_OF and (folder.parent / "times.txt").is_file():
        return folder
    if not (folder / "times.txt").is_file():
        return None
    return next((folder / name for name in _RIGHT_OF if (folder / name).is_dir()), None)


def open_kitti(
    folder: Path, *, rate_hz: float | None = None, poses: Path | None = None, camera: Camera | None = None
) -> LazySource:
    """Left images (image_0, or else image_2), with the right ones, calib.txt and poses where present.

    The base is the optical frame of camera 0, to which the pose file refers, unless `camera` has another
    `T_base_camera`. For image_2 calib.txt gives the offset to camera 0. The poses are ground truth, without drift.

    Args:
        folder: A sequence ("sequences/00"), or its image_0 or image_2 to choose the camera.
        rate_hz: Keep at most this many frames per second.
        poses: Twelve numbers per line; None looks for ../../poses/<sequence>.txt and for poses.txt in the sequence.
        camera: Intrinsics, baseline and mounting; None reads calib.txt.

    Raises:
        SourceError: no images, or times, calibration or poses that cannot be read.
    """
    left = find_left_folder(folder)
    if left is None:
        raise SourceError(f"{folder} is no KITTI sequence; expected times.txt beside image_0 or image_2")
    sequence = left.parent
    files = find_images(left)
    if not files:
        raise SourceError(f"{left} holds no images; expected 000000.png and so on")
    stamps = [fields[0] for _, fields in read_fields(sequence / "times.txt")]
    calibrated = None
    if (sequence / "calib.txt").is_file():
        calibrated = _read_camera(sequence / "calib.txt", left.name, _image_size_px(files))
    camera = camera or calibrated
    pose_file = poses or _find_poses(sequence)
    T_all = [] if pose_file is None else _base_poses(_read_poses(pose_file), calibrated, camera)
    right = sequence / _RIGHT_OF.get(left.name, "")
    right_folder = right if right != sequence and right.is_dir() else None
    entries = [_entry(file, position, stamps, T_all, right_folder) for position, file in enumerate(files)]
    return source_from_entries(str(folder), entries, camera=camera, rate_hz=rate_hz)


def _entry(
    file: Path, position: int, stamps: Sequence[str], T_all: Sequence[Transform | None], right: Path | None
) -> Entry | SkippedFrame:
    index = int(file.stem) if file.stem.isdecimal() else position
    if index >= len(stamps):
        return SkippedFrame(file.name, f"times.txt has {len(stamps)} lines and none for it")
    try:
        stamp_ns = parse_stamp_ns(stamps[index], 10**9)
    except ValueError as error:
        return SkippedFrame(file.name, str(error))
    T_odom_base = T_all[index] if index < len(T_all) else None

    def load() -> Frame:
        image = read_image(file)
        right_image = None if right is None else _read_right(right / file.name, image)
        return Frame(stamp_ns, image, file.name, T_odom_base, right=right_image, camera=file.parent.name)

    return Entry(stamp_ns, file.name, load)


def _read_right(path: Path, left: Image) -> Image | None:
    """A frame without its right image is still a frame."""
    try:
        right = read_image(path)
    except FrameError as error:
        logger.warning("%s: right image left out: %s", path, error)
        return None
    if right.shape[:2] != left.shape[:2]:
        logger.warning("%s: right image left out: its shape is %s, the left is %s", path, right.shape, left.shape)
        return None
    return right


def _find_poses(sequence: Path) -> Path | None:
    resolved = sequence.resolve()
    places = (resolved.parent.parent / "poses" / f"{resolved.name}.txt", resolved / "poses.txt")
    return next((place for place in places if place.is_file()), None)


def _read_poses(path: Path) -> list[Transform | None]:
    """Pose of camera 0 of every line; None where it is not finite and rigid."""
    poses: list[Transform | None] = []
    first_error = ""
    for row in read_numbers(path, 12):
        try:
            poses.append(check_transform(np.vstack([row.reshape(3, 4), [0.0, 0.0, 0.0, 1.0]]), "the pose"))
        except InputError as error:
            poses.append(None)
            first_error = first_error or str(error)
    num_lost = sum(pose is None for pose in poses)
    if num_lost:
        logger.warning("%s: %d of %d poses left out; the first: %s", path, num_lost, len(poses), first_error)
    return poses


def _base_poses(
    T_odom_cam0: Sequence[Transform | None], calibrated: Camera | None, camera: Camera | None
) -> list[Transform | None]:
    """Poses of camera 0 to poses of the base, by way of the camera whose images are read."""
    T_cam0_camera = np.eye(4) if calibrated is None else calibrated.T_base_camera
    return [None if T is None else base_pose(T @ T_cam0_camera, camera) for T in T_odom_cam0]


def _read_camera(path: Path, name: str, size_px: tuple[int, int]) -> Camera:
    """K, baseline and offset to camera 0 from the projections P = K [I | t] of the rectified cameras."""
    projections = _read_projections(path)
    left, right = f"P{name[-1]}", f"P{int(name[-1]) + 1}"
    if left not in projections:
        raise SourceError(f"{path} holds no line '{left}:'; it is needed for {name}")
    K = projections[left][:, :3]
    if not np.all(np.isfinite(projections[left])) or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise SourceError(f"{path}: {left} is no projection of a camera: {projections[left].tolist()}")
    offset_m = np.linalg.solve(K, projections[left][:, 3])
    baseline_m = None
    if right in projections:
        baseline_m = float(offset_m[0] - np.linalg.solve(K, projections[right][:, 3])[0])
    return Camera(
        "pinhole",
        *size_px,
        K.copy(),
        T_base_camera=make_transform(np.eye(3), -offset_m),
        baseline_m=baseline_m if baseline_m and baseline_m > 0 else None,
    )


def _read_projections(path: Path) -> dict[str, NDArray[np.float64]]:
    projections = {}
    for number, (key, *fields) in read_fields(path):
        if not key.startswith("P"):
            continue
        try:
            projections[key.rstrip(":")] = np.array(fields, dtype=np.float64).reshape(3, 4)
        except ValueError as error:
            raise SourceError(f"{path}, line {number}: expected 12 numbers after {key!r}: {error}") from None
    return projections


def _image_size_px(files: Sequence[Path]) -> tuple[int, int]:
    """Size of the first image that can be read; calib.txt does not state it."""
    for file in files:
        try:
            height_px, width_px = read_image(file).shape[:2]
        except FrameError:
            continue
        return width_px, height_px
    raise SourceError(f"none of the {len(files)} images of {files[0].parent} can be read")
