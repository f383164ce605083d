"""The frames that a benchmark drives through: a recording, or a rendered street where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import cv2
import numpy as np

from progeo_edge.benchmark.steps import Steps, silent
from progeo_edge.errors import InputError
from progeo_edge.geometry import Cameras
from progeo_edge.sources.base import Entry, Source, source_from_entries
from progeo_edge.sources.images import decode_image
from progeo_edge.types import Frame
from progeo_edge.world import StreetWorld, WorldSource, forward_camera, simulate_drive

FRAME_RATE_HZ = 2.5
JPEG_QUALITY = 90
MIN_QUERIES = 10
MAX_RENDERED = 400
"""The street is driven once; the drive has a few frames more."""


@dataclass(frozen=True)
class Footage:
    """Which frames of a source fill the map and which ask it.

    Without a map given, every other frame fills one, as a first lap would; those between them are the second lap. So
    every query has its place in the map, seen from a little aside, and the whole pipeline has its work to do.

    Attributes:
        source: Decodes its frames anew in every pass.
        kind: Where they come from.
        num_queries: Frames that ask, warm-up included.
        has_map: A map was given; then all frames ask.
    """

    source: Source
    kind: Literal["recording", "rendered"]
    num_queries: int
    has_map: bool

    @property
    def num_frames(self) -> int:
        """Frames of the source that take part."""
        return self.num_queries if self.has_map else 2 * self.num_queries

    @property
    def camera(self) -> Cameras | None:
        """Intrinsics where they are known."""
        return self.source.camera

    def first_lap(self) -> Iterator[Frame]:
        """Frames that fill the map; none when one was given."""
        return iter(()) if self.has_map else islice(self.source, 0, self.num_frames, 2)

    def second_lap(self) -> Iterator[tuple[Frame, float]]:
        """Frames that ask, with the milliseconds that each took to read and decode."""
        step = 1 if self.has_map else 2
        return islice(_timed(self.source), step - 1, self.num_frames, step)

    def samples(self, first: int, count: int) -> list[Frame]:
        """`count` frames that follow each other, kept in memory."""
        return list(islice(self.source, first, first + count))


def of_recording(source: Source, num_queries: int, *, has_map: bool, warmup: int) -> Footage:
    """Plan a benchmark over a recording; takes fewer queries when it is short.

    Args:
        source: The recording.
        num_queries: Frames wanted that ask, warm-up included.
        has_map: A map is given.
        warmup: Queries that are not counted.

    Raises:
        InputError: fewer than `MIN_QUERIES` queries would be left after the warm-up.
        SourceError: the source gives no frame.
    """
    step = 1 if has_map else 2
    available = sum(1 for _ in islice(source, step * num_queries))
    usable = min(num_queries, available // step)
    if usable - warmup < MIN_QUERIES:
        raise InputError(
            f"source {source.name} gives {available} frames, of which {max(usable - warmup, 0)} are left to measure; "
            f"expected at least {step * (MIN_QUERIES + warmup)} frames: name a longer recording, or fewer --warmup"
        )
    return Footage(source, "recording", usable, has_map)


def of_rendered_street(num_queries: int, *, has_map: bool, seed: int = 0, steps: Steps = silent) -> Footage:
    """Render a drive with odometry once and keep it as JPEG, so that decoding is part of every pass.

    Raises:
        InputError: more frames than the street has.
    """
    num_frames = num_queries if has_map else 2 * num_queries
    if num_frames > MAX_RENDERED:
        raise InputError(
            f"{num_queries} frames with the warm-up need {num_frames} rendered ones, and the street has "
            f"{MAX_RENDERED}; measure fewer --frames in more --rounds, or give a recording with --source"
        )
    tick = steps("rendering a street", num_frames)
    world = StreetWorld(seed)
    drive = simulate_drive(world, seed, frame_rate_hz=FRAME_RATE_HZ, max_frames=num_frames)
    rendered = WorldSource(world, drive, forward_camera())
    entries = []
    for frame in rendered:
        entries.append(_as_jpeg(frame))
        tick()
    source = source_from_entries("rendered street", entries, camera=forward_camera(), rate_hz=None)
    return Footage(source, "rendered", num_queries, has_map)


def _as_jpeg(frame: Frame) -> Entry:
    done, jpeg = cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done, "a rendered image can be written as JPEG"
    data = jpeg.tobytes()
    bare = replace(frame, image=np.zeros((1, 1, 3), np.uint8))
    return Entry(frame.stamp_ns, frame.name, lambda: replace(bare, image=decode_image(data)))


def _timed(source: Source) -> Iterator[tuple[Frame, float]]:
    frames = iter(source)
    while True:
        started_ns = time.perf_counter_ns()
        frame = next(frames, None)
        if frame is None:
            return
        yield frame, (time.perf_counter_ns() - started_ns) * 1e-6
