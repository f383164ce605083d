"""The cameras of a rig as one source: one source per camera, their frames in the order of their stamps."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np

from progeo_edge.errors import SourceError
from progeo_edge.geometry import Camera, Cameras
from progeo_edge.sources.base import LazySource, SkippedFrame
from progeo_edge.types import Frame


class RigSource:
    """Frames of several sources, each named after its camera; images of one stamp in the order of the cameras.

    Args:
        name: Shown in reports.
        sources: By the name of the camera.
        prefix: Put the name of the camera before that of the frame, where sources name their frames alike.

    Raises:
        SourceError: only some of the cameras have a calibration, or two of them one mounting.
    """

    def __init__(self, name: str, sources: Mapping[str, LazySource], *, prefix: bool = False) -> None:
        self.name = name
        self.camera: Cameras | None = _cameras_of(name, sources)
        counts = [source.num_frames for source in sources.values()]
        self.num_frames = None if None in counts else sum(count or 0 for count in counts)
        self._sources = sources
        self._prefix = prefix

    @property
    def skipped(self) -> list[SkippedFrame]:
        """Frames left out so far, by camera."""
        return [
            replace(skipped, name=self._name(camera, skipped.name))
            for camera, source in self._sources.items()
            for skipped in source.skipped
        ]

    def __iter__(self) -> Iterator[Frame]:
        """Decode frame by frame, one of each camera ahead.

        Raises:
            SourceError: as the sources of the cameras.
        """
        streams = [self._frames(camera, source) for camera, source in self._sources.items()]
        return heapq.merge(*streams, key=lambda frame: frame.stamp_ns)

    def _frames(self, camera: str, source: LazySource) -> Iterator[Frame]:
        for frame in source:
            yield replace(frame, camera=camera, name=self._name(camera, frame.name))

    def _name(self, camera: str, name: str) -> str:
        return f"{camera}/{name}" if self._prefix else name


def calibration_of(given: Cameras | None, camera: str, source: str) -> Camera | None:
    """What the user says about one camera of a rig; None when nothing is said.

    Raises:
        SourceError: the calibration is of one camera, or of a rig without this one.
    """
    if given is None:
        return None
    if isinstance(given, Camera):
        raise SourceError(
            f"{source} has a camera {camera!r} among others, the calibration is of one; give that of a rig"
        )
    if camera not in given:
        raise SourceError(f"{source} has a camera {camera!r}, the calibration has {', '.join(given)}; name them alike")
    return given[camera]


def single_calibration(given: Cameras | None, source: str) -> Camera | None:
    """What the user says about the only camera of a source.

    Raises:
        SourceError: the calibration is of a rig.
    """
    if given is None or isinstance(given, Camera):
        return given
    raise SourceError(
        f"the calibration is of a rig ({', '.join(given)}), but {source} is read as one camera; name its cameras "
        "(cameras, image_topic or the column camera), or give the calibration of one"
    )


def _cameras_of(name: str, sources: Mapping[str, LazySource]) -> Cameras | None:
    cameras = {camera: source.camera for camera, source in sources.items()}
    known = {camera: calibration for camera, calibration in cameras.items() if calibration is not None}
    if not known:
        return None
    if len(known) < len(cameras):
        lacking = ", ".join(camera for camera in cameras if camera not in known)
        raise SourceError(f"{name}: {lacking} has no calibration, {', '.join(known)} has; give that of the whole rig")
    for (a, one), (b, other) in combinations(known.items(), 2):
        if np.allclose(one.T_base_camera, other.T_base_camera, atol=1e-6):
            raise SourceError(
                f"{name}: cameras {a} and {b} stand at one place and look one way; give T_base_camera of each"
            )
    return known


def by_camera(option: str, value: str | Mapping[str, str]) -> str | dict[str, str]:
    """An option that may be told camera by camera: a mapping, or text such as "front=/front/image,rear=/rear/image".

    Raises:
        SourceError: a part without a camera, or a camera twice.
    """
    if not isinstance(value, str):
        return dict(value)
    if "=" not in value:
        return value
    result: dict[str, str] = {}
    for part in value.split(","):
        camera, equals, topic = (piece.strip() for piece in part.partition("="))
        if not (camera and equals and topic) or camera in result:
            raise SourceError(f"{option} {value!r} is not understood at {part!r}; expected front=TOPIC,rear=TOPIC")
        result[camera] = topic
    return result


def camera_names(cameras: str | Iterable[str]) -> list[str]:
    """Names of cameras: a list, or text such as "front,rear".

    Raises:
        SourceError: no name, or one twice.
    """
    names = [name.strip() for name in cameras.split(",")] if isinstance(cameras, str) else list(cameras)
    if not names or not all(names) or len(set(names)) < len(names):
        raise SourceError(f"cameras {cameras!r} are not understood; expected different names such as front,rear")
    return names
