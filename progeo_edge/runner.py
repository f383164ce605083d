"""Run a detector over a source and keep what it said: the loop behind `progeo-run`, `progeo-demo` and the replay."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

import progeo_edge
from progeo_edge.atomic import write_text
from progeo_edge.detector import LoopDetector
from progeo_edge.errors import InputError, SourceError
from progeo_edge.map_store import MapStore
from progeo_edge.outputs import KnownKeyframe, candidate_record, closure_record
from progeo_edge.sources.base import SkippedFrame, Source
from progeo_edge.types import Frame, Status, Update

logger = logging.getLogger(__name__)

Observer = Callable[[Frame, Update], None]
"""Called after every frame, when everything about it has been written."""


@dataclass
class RunSummary:
    """What a run did, as written to run.json.

    Attributes:
        source: Name of the source.
        model: Name and fingerprint of the encoder.
        profile: Profile of the config.
        num_frames: Frames read, broken ones excluded.
        num_keyframes: Keyframes stored by this run.
        num_closures: Closures accepted by this run.
        skipped: Frames that could not be used, with the reason.
        statuses: Number of frames per status.
        candidate_statuses: Number of candidates per status.
        stages_ms: Per stage p50, p90, p99, max and number, over the keyframes.
        index: Kind, size and self-checked recall of the index.
        memory: Bytes of resident memory at the start and the end, per keyframe, and of the map file.
        versions: Versions of what took part.
        truth: Comparison with ground truth where the source has it (the demo).
    """

    source: str
    model: dict[str, str]
    profile: str
    num_frames: int = 0
    num_keyframes: int = 0
    num_closures: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    candidate_statuses: dict[str, int] = field(default_factory=dict)
    stages_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    index: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    truth: dict[str, Any] = field(default_factory=dict)


def run(
    source: Source,
    detector: LoopDetector,
    out_dir: Path,
    *,
    observers: tuple[Observer, ...] = (),
    skip_until_ns: int | None = None,
) -> RunSummary:
    """Process a whole source; every keyframe is written to the map and to candidates.jsonl before the next is read.

    Args:
        source: Where the frames come from.
        detector: Writes to the map it was made with.
        out_dir: Existing folder; candidates.jsonl and closures.jsonl are appended to.
        observers: Called after every frame.
        skip_until_ns: Resume: frames up to this stamp are in the map already.

    Raises:
        SourceError: not one frame could be read.
        MapError: the map cannot be written any more; everything acknowledged is in it.
    """
    recorder = _Recorder(detector, out_dir)
    summary = _new_summary(source, detector)
    memory_before = _resident_bytes()
    rejected: list[SkippedFrame] = []
    cameras_at_end = {info.camera for info in detector.map_store.infos() if info.stamp_ns == skip_until_ns}
    with recorder:
        for frame in source:
            if skip_until_ns is not None and _was_seen(frame, skip_until_ns, cameras_at_end):
                continue
            try:
                update = detector.process(frame)
            except InputError as error:
                logger.warning("frame %s skipped: %s", frame.name or frame.stamp_ns, error)
                rejected.append(SkippedFrame(frame.name or str(frame.stamp_ns), str(error)))
                continue
            summary.num_frames += 1
            recorder.write(frame, update)
            for observer in observers:
                observer(frame, update)
    _finish(summary, recorder, detector, [*source.skipped, *rejected], memory_before)
    if summary.num_frames == 0 and skip_until_ns is None:
        raise _nothing_read(source, summary)
    write_text(out_dir / "run.json", json.dumps(asdict(summary), indent=2) + "\n")
    return summary


def _was_seen(frame: Frame, skip_until_ns: int, cameras_at_end: set[str]) -> bool:
    """A run may have been killed between the images that a rig took at one time."""
    return frame.stamp_ns < skip_until_ns or (frame.stamp_ns == skip_until_ns and frame.camera in cameras_at_end)


class _Recorder:
    """The two JSONL files of a run, and the counts of what went into them."""

    def __init__(self, detector: LoopDetector, out_dir: Path) -> None:
        self._out_dir = out_dir
        self._files: dict[str, IO[str]] = {}
        self._infos: dict[int, KnownKeyframe] = {info.id: info for info in detector.map_store.infos()}
        self.statuses: Counter[str] = Counter()
        self.candidate_statuses: Counter[str] = Counter()
        self.stages_ms: dict[str, list[float]] = {}
        self.num_keyframes = 0
        self.num_closures = 0

    def __enter__(self) -> _Recorder:
        for name in ("candidates", "closures"):
            path = self._out_dir / f"{name}.jsonl"
            _drop_torn_line(path)
            self._files[name] = path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def write(self, frame: Frame, update: Update) -> None:
        self.statuses[update.status.value] += 1
        if update.status is Status.NOT_A_KEYFRAME:
            return
        self.candidate_statuses.update(candidate.status.value for candidate in update.candidates)
        if update.keyframe is not None:
            self.num_keyframes += 1
            self._infos[update.keyframe.id] = update.keyframe
            for stage, elapsed_ms in update.timings_ms.items():
                self.stages_ms.setdefault(stage, []).append(elapsed_ms)
        closures = (*update.released, *update.closures)
        self.num_closures += len(closures)
        for closure in closures:
            self._line("closures", closure_record(closure, self._infos))
        self._line("candidates", candidate_record(frame, update, self._infos))

    def _line(self, name: str, record: Mapping[str, Any]) -> None:
        self._files[name].write(json.dumps(record, allow_nan=False) + "\n")
        self._files[name].flush()


def _drop_torn_line(path: Path) -> None:
    """A killed run may have left half a line at the end; JSONL readers would stumble over it."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


def _new_summary(source: Source, detector: LoopDetector) -> RunSummary:
    spec = detector.encoder.spec
    return RunSummary(
        source=source.name,
        model={"name": spec.name, "fingerprint": spec.fingerprint},
        profile=detector.config.profile,
        versions={
            "progeo-edge": progeo_edge.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "machine": platform.machine(),
        },
    )


def _finish(
    summary: RunSummary,
    recorder: _Recorder,
    detector: LoopDetector,
    skipped: list[SkippedFrame],
    memory_before: int,
) -> None:
    summary.num_keyframes = recorder.num_keyframes
    summary.num_closures = recorder.num_closures
    summary.skipped = [asdict(frame) for frame in skipped]
    summary.statuses = dict(recorder.statuses)
    summary.candidate_statuses = dict(recorder.candidate_statuses)
    summary.stages_ms = {stage: percentiles(values) for stage, values in recorder.stages_ms.items()}
    summary.index = detector.index_report()
    summary.memory = _memory(detector.map_store, summary.num_keyframes, memory_before)


def percentiles(values_ms: list[float]) -> dict[str, float]:
    """p50, p90, p99, max and number of a list of milliseconds."""
    p50, p90, p99 = np.percentile(values_ms, [50, 90, 99])
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99), "max": max(values_ms), "n": float(len(values_ms))}


def _memory(map_store: MapStore, num_keyframes: int, before: int) -> dict[str, float]:
    after = _resident_bytes()
    result: dict[str, float] = {"resident_before_bytes": before, "resident_after_bytes": after}
    if num_keyframes:
        result["resident_growth_per_keyframe_bytes"] = (after - before) / num_keyframes
    if map_store.path is not None and len(map_store):
        result["map_bytes"] = map_store.path.stat().st_size
        result["map_per_keyframe_bytes"] = map_store.path.stat().st_size / len(map_store)
    return result


def _resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _nothing_read(source: Source, summary: RunSummary) -> SourceError:
    reasons = "; ".join(f"{item['name']}: {item['reason']}" for item in summary.skipped[:3])
    return SourceError(f"source {source.name} gave no usable frame" + (f" ({reasons})" if reasons else ""))
