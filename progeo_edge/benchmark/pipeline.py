"""The whole pipeline as a robot runs it, driven several times over the same frames."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from progeo_edge.benchmark.energy import Energy, Meter
from progeo_edge.benchmark.footage import Footage
from progeo_edge.benchmark.memory import growth_kb_per_step, resident_mb
from progeo_edge.benchmark.series import SeriesBook
from progeo_edge.benchmark.steps import Steps, silent
from progeo_edge.config import Config
from progeo_edge.detector import LoopDetector
from progeo_edge.encoders import Encoder
from progeo_edge.errors import InputError
from progeo_edge.map_store import MapStore

DEFAULTS = {"budget": {"deadline_ms": 0.0}, "keyframe": {"every_frame": True}}
"""Settings of a benchmark: every frame is a keyframe, so that each has all the work to do, and no deadline cuts it, so
that each round does the same."""


@dataclass
class Drive:
    """What one round was like, warm-up excluded.

    Attributes:
        num_frames: Frames driven.
        num_keyframes: Those that were stored.
        seconds: Wall time, decoding included.
        statuses: Frames by status.
        candidate_statuses: Candidates by status.
        energy: By name of the meter.
        map_growth_kb: What the map file grew by, per keyframe.
    """

    num_frames: int = 0
    num_keyframes: int = 0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    candidate_statuses: Counter[str] = field(default_factory=Counter)
    energy: dict[str, Energy] = field(default_factory=dict)
    map_growth_kb: float = 0.0


class Pipeline:
    """Drives rounds, each in a session of its own on a fresh copy of one map.

    Args:
        encoder: Image to descriptor.
        footage: The frames.
        config: Of the detector.
        folder: Existing, for the maps; its disk is part of the measurement.
        known_map: Map to recognise places of; None fills one with the footage's first lap.
    """

    def __init__(
        self, encoder: Encoder, footage: Footage, config: Config, folder: Path, known_map: Path | None = None
    ) -> None:
        self._encoder, self._footage, self._config, self._folder = encoder, footage, config, folder
        self._map = folder / "first_lap.progeo" if known_map is None else known_map
        self._is_filled = known_map is not None

    def fill(self, steps: Steps = silent) -> NDArray[np.float32]:
        """Drive the first lap where no map was given, and give the (N, D) descriptors of the map.

        Raises:
            InputError: the map is empty afterwards, so that there is nothing to search.
            MapError: the map cannot be used, or belongs to another model.
        """
        if not self._is_filled:
            self._drive_first_lap(steps("first lap", self._footage.num_queries))
            self._is_filled = True
        with MapStore.open(self._map, spec=self._encoder.spec, read_only=True) as store:
            _, descriptors = store.descriptors()
        if not len(descriptors):
            raise InputError(
                f"no frame of {self._footage.source.name} became a keyframe, so there is nothing to search; check that "
                "its pictures show something, or give a --map"
            )
        return np.asarray(descriptors, dtype=np.float32)

    def drive(
        self, warmup: int, book: SeriesBook, meters: Sequence[Meter] = (), steps: Steps = silent, name: str = "driving"
    ) -> Drive:
        """Drive the second lap once, and add a round to the series "pipeline.*".

        Args:
            warmup: First frames that are driven but not counted.
            book: Takes the series.
            meters: Run over the frames that count.
            steps: Told of every frame.
            name: What this round is called there.
        """
        path = self._folder / "second_lap.progeo"
        with MapStore.open(self._map, spec=self._encoder.spec, read_only=True) as known:
            known.copy_to(path)
        try:
            with MapStore.open(path, spec=self._encoder.spec) as store:
                detector = LoopDetector(self._encoder, store, self._footage.camera, self._config, session="benchmark")
                tick = steps(name, self._footage.num_queries)
                drive = self._drive_second_lap(detector, warmup, book, meters, tick)
        finally:
            for suffix in ("", "-wal", "-shm", ".hnsw"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
        return drive

    def _drive_first_lap(self, tick: Callable[[], None]) -> None:
        with MapStore.create(
            self._map, self._encoder.spec, descriptor_dtype=self._config.store.descriptor_dtype
        ) as store:
            detector = LoopDetector(self._encoder, store, self._footage.camera, self._config, session="first lap")
            for frame in self._footage.first_lap():
                detector.process(frame)
                tick()

    def _drive_second_lap(
        self,
        detector: LoopDetector,
        warmup: int,
        book: SeriesBook,
        meters: Sequence[Meter],
        tick: Callable[[], None],
    ) -> Drive:
        drive, stages, resident = Drive(), _Stages(), []
        started_s, size_before = 0.0, 0
        for position, (frame, decode_ms) in enumerate(self._footage.second_lap()):
            if position == warmup:
                for meter in meters:
                    meter.start()
                size_before = _bytes_on_disk(detector.map_store.path)
                started_s = time.perf_counter()
            before_ns = time.perf_counter_ns()
            update = detector.process(frame)
            process_ms = (time.perf_counter_ns() - before_ns) * 1e-6
            if position >= warmup:
                drive.num_frames += 1
                drive.num_keyframes += update.keyframe is not None
                drive.statuses[update.status.value] += 1
                drive.candidate_statuses.update(candidate.status.value for candidate in update.candidates)
                stages.add(decode_ms, process_ms, update.timings_ms)
                resident.append(resident_mb())
            tick()
        drive.seconds = time.perf_counter() - started_s
        for meter in meters:
            energy = meter.stop()
            if energy is not None:
                drive.energy[meter.name] = energy
        grown = _bytes_on_disk(detector.map_store.path) - size_before
        drive.map_growth_kb = grown / max(drive.num_keyframes, 1) / 1e3
        stages.into(book)
        _add_growth([value for value in resident if value is not None], drive, book)
        for name, energy in drive.energy.items():
            book.add_round(f"energy.{name}", [energy.joules / drive.num_frames], "J/frame")
        return drive


class _Stages:
    """Milliseconds by stage of one round, in the order in which the stages run."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {"decode": []}
        self._totals: list[float] = []

    def add(self, decode_ms: float, process_ms: float, timings_ms: Mapping[str, float]) -> None:
        self._values["decode"].append(decode_ms)
        for name, elapsed_ms in timings_ms.items():
            if name != "total":
                self._values.setdefault(name, []).append(elapsed_ms)
        self._totals.append(decode_ms + process_ms)

    def into(self, book: SeriesBook) -> None:
        for name, values in self._values.items():
            book.add_round(f"pipeline.{name}", values)
        book.add_round("pipeline.total", self._totals)


def _add_growth(resident: list[float], drive: Drive, book: SeriesBook) -> None:
    growth = growth_kb_per_step(resident)
    if growth is not None and drive.num_keyframes:
        book.add_round("growth.memory", [growth * drive.num_frames / drive.num_keyframes], "KB/keyframe")
    book.add_round("growth.map_file", [drive.map_growth_kb], "KB/keyframe")


def _bytes_on_disk(path: Path | None) -> int:
    """Of a map with its log, which SQLite merges only now and then."""
    if path is None:
        return 0
    files = [path, Path(f"{path}-wal")]
    return sum(file.stat().st_size for file in files if file.exists())
