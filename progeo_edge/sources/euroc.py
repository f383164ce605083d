"""EuRoC MAV sequences in ASL format.

Format: https://projects.asl.ethz.ch/datasets/doku.php?id=kmavvisualinertialdatasets
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from progeo_edge.errors import InputError, SourceError
from progeo_edge.geometry import Camera, Cameras, check_transform
from progeo_edge.sources.base import Entry, LazySource, SkippedFrame, source_from_entries
from progeo_edge.sources.images import read_image
from progeo_edge.sources.listing import parse_stamp_ns
from progeo_edge.sources.poses import PoseTrack, read_fields, read_numbers
from progeo_edge.sources.rig import RigSource, calibration_of, single_calibration
from progeo_edge.types import Frame

logger = logging.getLogger(__name__)

GROUND_TRUTH = Path("state_groundtruth_estimate0") / "data.csv"

_MODELS: dict[str, Literal["pinhole", "fisheye"]] = {
    "radial-tangential": "pinhole",
    "radtan": "pinhole",
    "equidistant": "fisheye",
}


def find_camera_folder(folder: Path) -> Path | None:
    """The folder with cam0's data.csv, of a sequence, of its mav0, or of the camera itself."""
    for place in (folder / "mav0" / "cam0", folder / "cam0", folder):
        if (place / "data.csv").is_file() and (place / "data").is_dir():
            return place
    return None


def open_euroc(
    folder: Path,
    *,
    rate_hz: float | None = None,
    camera: Cameras | None = None,
    cameras: Sequence[str] | None = None,
) -> LazySource | RigSource:
    """Images of cam0, or of the cameras named, with calibration, and the ground truth as odometry where present.

    The base is the body (IMU) frame: `T_BS` of sensor.yaml is `T_base_camera`, and state_groundtruth_estimate0 gives
    `T_odom_base`, without drift. cam1 is no right image of cam0: the pair is not rectified, and `Frame.right` must be.

    Args:
        folder: The sequence, its mav0, or its cam0 (any camera folder with data.csv, data/ and sensor.yaml).
        rate_hz: Keep at most this many frames per second and camera.
        camera: Intrinsics and `T_base_camera`; None reads sensor.yaml.
        cameras: Folders of the cameras to read as a rig, such as cam0 and cam1; None reads one camera.

    Raises:
        SourceError: data.csv, sensor.yaml or the ground truth cannot be read.
    """
    place = find_camera_folder(folder)
    if place is None:
        raise SourceError(f"{folder} holds no data.csv beside a folder data; expected it there or in mav0/cam0")
    if cameras is None:
        return _open_camera(str(folder), place, rate_hz, single_calibration(camera, str(folder)))
    sources = {}
    for name in cameras:
        if not (place.parent / name / "data.csv").is_file():
            raise SourceError(f"{place.parent} has no camera {name} with a data.csv; check its spelling")
        calibration = calibration_of(camera, name, str(folder))
        sources[name] = _open_camera(f"{folder} {name}", place.parent / name, rate_hz, calibration)
    return RigSource(str(folder), sources, prefix=True)


def _open_camera(name: str, place: Path, rate_hz: float | None, camera: Camera | None) -> LazySource:
    if camera is None and (place / "sensor.yaml").is_file():
        camera = _read_sensor(place / "sensor.yaml")
    track = _read_track(place.parent / GROUND_TRUTH)
    entries = [_entry(place, fields, number, track) for number, fields in read_fields(place / "data.csv")]
    return source_from_entries(name, entries, camera=camera, rate_hz=rate_hz)


def _entry(place: Path, fields: list[str], number: int, track: PoseTrack | None) -> Entry | SkippedFrame:
    try:
        stamp_ns = parse_stamp_ns(fields[0], 1)
    except ValueError as error:
        return SkippedFrame(f"line {number}", str(error))
    name = fields[1] if len(fields) > 1 else f"{fields[0]}.png"

    def load() -> Frame:
        return Frame(
            stamp_ns,
            read_image(place / "data" / name),
            name,
            None if track is None else track.at(stamp_ns),
            camera=place.name,
        )

    return Entry(stamp_ns, name, load)


def _read_track(path: Path) -> PoseTrack | None:
    """Rows of stamp, position, quaternion with w first."""
    if not path.is_file():
        return None
    stamps_ns = []
    for number, fields in read_fields(path):
        try:
            stamps_ns.append(parse_stamp_ns(fields[0], 1))
        except ValueError as error:
            raise SourceError(f"{path}, line {number}: {error}") from None
    poses = read_numbers(path, 8)[:, [1, 2, 3, 5, 6, 7, 4]]
    return PoseTrack(stamps_ns, poses, str(path)) if len(poses) else None


def _read_sensor(path: Path) -> Camera:
    try:
        values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        fu, fv, cu, cv = (float(value) for value in values["intrinsics"])
        width_px, height_px = (int(value) for value in values["resolution"])
        model = _MODELS[values["distortion_model"]]
        distortion = np.array(values["distortion_coefficients"], dtype=np.float64)
        T_BS = np.array(values["T_BS"]["data"], dtype=np.float64).reshape(4, 4)
        T_base_camera = check_transform(T_BS, "T_BS")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError, InputError) as error:
        raise SourceError(
            f"{path} is no camera calibration of EuRoC ({type(error).__name__}: {error}); mend it or give a camera"
        ) from error
    K = np.array([[fu, 0.0, cu], [0.0, fv, cv], [0.0, 0.0, 1.0]])
    return Camera(model, width_px, height_px, K, distortion, T_base_camera)
