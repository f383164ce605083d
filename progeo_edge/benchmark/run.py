"""One benchmark from beginning to end: the pipeline, its parts alone, search by size, cold start, memory, energy."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.benchmark.cold_start import measure_cold_start
from progeo_edge.benchmark.energy import Meter, find_meters
from progeo_edge.benchmark.footage import Footage
from progeo_edge.benchmark.machine import run_tool
from progeo_edge.benchmark.machine_state import describe_state
from progeo_edge.benchmark.memory import forget_peak, peak_mb
from progeo_edge.benchmark.parts import encoder_parts, geometry_parts, measure_parts, num_samples
from progeo_edge.benchmark.pipeline import Drive, Pipeline
from progeo_edge.benchmark.search import HOW_GROWN, check_memory, measure_search
from progeo_edge.benchmark.series import SeriesBook
from progeo_edge.benchmark.steps import Steps, silent
from progeo_edge.bundle import Precision
from progeo_edge.config import Config
from progeo_edge.encoders import Encoder, load_encoder
from progeo_edge.encoders.backends import Backend, active_backend
from progeo_edge.map_store import MapStore
from progeo_edge.types import Frame

IDLE_S = 2.0
"""How long power is measured before the work begins."""
MAX_QUERY_DESCRIPTORS = 100


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        encoder: As for `load_encoder`.
        backend: As for `load_encoder`.
        precision: As for `load_encoder`.
        known_map: Map to recognise places of; None fills one.
        sizes: Keyframes of the maps that are searched.
        rounds: How often the same work is done.
        warmup: Frames of every round that do not count.
        cold_starts: Fresh processes; 0 leaves that out.
    """

    encoder: str
    backend: Backend
    precision: Precision | None
    known_map: Path | None
    sizes: Sequence[int]
    rounds: int
    warmup: int
    cold_starts: int


def run_benchmark(
    plan: Plan, config: Config, make_footage: Callable[[], Footage], steps: Steps = silent
) -> dict[str, Any]:
    """Measure, and give the figures of a result as plain JSON.

    Args:
        plan: What.
        config: Of the detector.
        make_footage: Opens or renders the frames; called when the encoder is known to work.
        steps: Told how far it is.

    Raises:
        ProgeoError: encoder, source or map cannot be used, or there is too little of them.
    """
    book = SeriesBook()
    encoder = load_encoder(plan.encoder, **_encoder_options(plan, config))
    try:
        check_memory(plan.sizes, encoder.spec.dimension)
        with tempfile.TemporaryDirectory(prefix="progeo-bench-") as folder:
            return _measure(plan, config, encoder, make_footage, Path(folder), book, steps)
    finally:
        encoder.close()


def _measure(
    plan: Plan,
    config: Config,
    encoder: Encoder,
    make_footage: Callable[[], Footage],
    folder: Path,
    book: SeriesBook,
    steps: Steps,
) -> dict[str, Any]:
    meters, absent_meters = find_meters()
    absent = {f"energy.{kind}": reason for kind, reason in absent_meters.items()}
    idle_watts = _idle_watts(meters)

    if plan.known_map is not None:
        # A map of another model is refused before a street is rendered for it.
        MapStore.open(plan.known_map, spec=encoder.spec, read_only=True).close()
    footage = make_footage()
    pipeline = Pipeline(encoder, footage, config, folder, plan.known_map)
    own = pipeline.fill(steps)
    can_forget_peak = forget_peak()
    drives = [
        pipeline.drive(plan.warmup, book, meters, steps, f"driving, round {number} of {plan.rounds}")
        for number in range(1, plan.rounds + 1)
    ]
    peak = peak_mb()

    samples = _samples(footage, plan.warmup)
    with ExitStack() as cleanup:
        parts, no_parts = encoder_parts(encoder, plan.encoder, [frame.image for frame in samples], cleanup)
        parts |= geometry_parts(samples, footage.camera, config)
        measure_parts(parts, len(samples), book, rounds=plan.rounds, warmup=plan.warmup, steps=steps)
    absent |= no_parts

    queries = _query_descriptors(encoder, footage)
    indices = measure_search(own, queries, plan.sizes, config.search, book, rounds=plan.rounds, steps=steps)
    if plan.cold_starts:
        measure_cold_start(
            plan.encoder,
            samples[0].image,
            book,
            repeats=plan.cold_starts,
            options=_encoder_options(plan, config),
            steps=steps,
        )
    else:
        absent["cold_start"] = "left out with --cold-starts 0"
    return {
        "encoder": _describe_encoder(encoder, plan.encoder),
        "source": _describe_source(footage, samples[0]),
        "map": {"keyframes": len(own), "given": plan.known_map is not None},
        "rounds": _describe_rounds(drives),
        "series": book.as_json(),
        "index": [asdict(facts) for facts in indices],
        "index_descriptors": f"the {len(own)} of the map, {HOW_GROWN}",
        "memory": {"peak_mb": peak, "peak_is_of": "the rounds" if can_forget_peak else "the whole process"},
        "energy": {"idle_watts": idle_watts, "watts": _mean_watts(drives)},
        "threads": _threads(),
        "state_after": describe_state(Path("/"), run_tool),
        "absent": absent,
    }


def _encoder_options(plan: Plan, config: Config) -> dict[str, Any]:
    """As every command hands them to `load_encoder`."""
    return {
        "backend": plan.backend,
        "precision": plan.precision,
        "threads": config.encoder.threads,
        "spin": config.encoder.spin,
    }


def _samples(footage: Footage, warmup: int) -> list[Frame]:
    """Consecutive frames for the parts; those of the warm-up are left out where there are enough."""
    (first,) = footage.samples(0, 1)
    count = min(num_samples(first), footage.num_frames)
    return footage.samples(min(warmup, footage.num_frames - count), count)


def _query_descriptors(encoder: Encoder, footage: Footage) -> NDArray[np.float32]:
    rows = []
    for frame, _ in footage.second_lap():
        rows.append(encoder.encode([frame.image])[0])
        if len(rows) == MAX_QUERY_DESCRIPTORS:
            break
    return np.stack(rows)


def _idle_watts(meters: Sequence[Meter]) -> dict[str, float]:
    if not meters:
        return {}
    for meter in meters:
        meter.start()
    time.sleep(IDLE_S)
    seen = {meter.name: meter.stop() for meter in meters}
    return {name: energy.joules / energy.seconds for name, energy in seen.items() if energy is not None}


def _mean_watts(drives: Sequence[Drive]) -> dict[str, float]:
    names = {name for drive in drives for name in drive.energy}
    result = {}
    for name in sorted(names):
        seen = [drive.energy[name] for drive in drives if name in drive.energy]
        result[name] = sum(energy.joules for energy in seen) / sum(energy.seconds for energy in seen)
    return result


def _describe_encoder(encoder: Encoder, path: str) -> dict[str, Any]:
    spec = encoder.spec
    return {
        "name": spec.name,
        "opened_from": Path(path).name,
        "fingerprint": spec.fingerprint,
        "dimension": spec.dimension,
        "backend": active_backend(encoder),
        "precision": getattr(encoder, "precision", None),
    }


def _describe_source(footage: Footage, frame: Frame) -> dict[str, Any]:
    height_px, width_px = frame.image.shape[:2]
    return {
        "name": Path(footage.source.name).name,
        "kind": footage.kind,
        "width_px": width_px,
        "height_px": height_px,
        "channels": 1 if frame.image.ndim == 2 else frame.image.shape[2],
        "has_odometry": frame.T_odom_base is not None,
        "has_depth": frame.depth_m is not None or frame.right is not None,
        "has_camera": footage.camera is not None,
    }


def _describe_rounds(drives: Sequence[Drive]) -> dict[str, Any]:
    statuses: Counter[str] = Counter()
    candidate_statuses: Counter[str] = Counter()
    for drive in drives:
        statuses += drive.statuses
        candidate_statuses += drive.candidate_statuses
    return {
        "count": len(drives),
        "frames_per_round": drives[0].num_frames,
        "keyframes_per_round": drives[0].num_keyframes,
        "frames_per_second": [drive.num_frames / drive.seconds for drive in drives],
        "statuses": dict(statuses),
        "candidate_statuses": dict(candidate_statuses),
    }


def _threads() -> dict[str, Any]:
    """What limits the threads of the libraries; of an encoder, its own options do."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {"opencv": cv2.getNumThreads(), **{name: os.environ.get(name) for name in names}}
