"""All parts of a job, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.benchmark.machine import describe_machine
from progeo_edge.benchmark.peers.frames import size_name
from progeo_edge.benchmark.result_file import BenchmarkResult, new_result
from progeo_edge.benchmark.versus.cold_start import compare_cold_starts
from progeo_edge.benchmark.versus.comparison import Comparison
from progeo_edge.benchmark.versus.frames import CAMERA, compare_frames, describe_frames
from progeo_edge.benchmark.versus.indexes import compare_indexes
from progeo_edge.benchmark.versus.inputs import Frames, read_descriptors, rendered_frames, save, source_frames
from progeo_edge.benchmark.versus.interleaving import Progress
from progeo_edge.benchmark.versus.job import Job
from progeo_edge.benchmark.versus.matching import compare_matchers

NUM_DESCRIBED = 300
"""Frames of a source that are described for the index, when no file of descriptors is given."""

Finished = Callable[[Comparison], None]


def run_job(job: Job, progress: Progress, finished: Finished) -> BenchmarkResult:
    """Compare everything that the job asks for.

    Args:
        job: What to compare.
        progress: Told what is being done.
        finished: Told of every comparison when it is done.

    Raises:
        ProgeoError: a model, a source or a file of descriptors cannot be used.
    """
    machine = describe_machine()
    comparisons: list[Comparison] = []

    def keep(done: Sequence[Comparison]) -> None:
        comparisons.extend(done)
        for one in done:
            finished(one)

    needs_frames = not set(job.parts) <= {"index"}
    frames = _frames(job) if needs_frames else Frames("none", ())
    progress("frames are ready")
    if not {"frame", "encoder", "resize"}.isdisjoint(job.parts):
        keep(compare_frames(job, frames, progress))
    if "matcher" in job.parts:
        keep(compare_matchers(job, frames, progress))
    if "cold" in job.parts:
        keep(compare_cold_starts(job, frames, progress))
    if "index" in job.parts:
        keep(compare_indexes(job, _real_descriptors(job, progress), progress))
    return new_result("vs", _options(job), machine, {"comparisons": [one.as_json() for one in comparisons]})


def _frames(job: Job) -> Frames:
    return rendered_frames(job.num_frames) if job.source is None else source_frames(job.source, job.num_frames)


def _real_descriptors(job: Job, progress: Progress) -> tuple[str, NDArray[np.float32]] | None:
    if job.descriptors is not None:
        return f"descriptors of {job.descriptors.name}", read_descriptors(job.descriptors)
    if job.source is None:
        return None
    frames = source_frames(job.source, NUM_DESCRIBED)
    with TemporaryDirectory(prefix="progeo-bench-") as name:
        pixels = save(Path(name) / f"{size_name(*CAMERA)}.npy", frames.of_size(*CAMERA))
        _, descriptors = describe_frames(job, pixels, len(frames.images), progress)
    return f"descriptors of {frames.origin}", descriptors


def _options(job: Job) -> dict[str, Any]:
    """As plain JSON, files by their names only."""
    named = {name: None if path is None else path.name for name, path in _paths(job).items()}
    return {
        "model": Path(job.model).name,
        "parts": list(job.parts),
        **named,
        "architecture": job.architecture,
        "precisions": list(job.precisions),
        "backends": list(job.backends),
        "threads": job.threads,
        "rounds": job.pace.rounds,
        "block": job.pace.block,
        "num_frames": job.num_frames,
        "num_database": job.num_database,
        "sizes": list(job.sizes),
        "build_limit_s": job.build_limit_s,
        "cold_repeats": job.cold_repeats,
        "compiled": job.compiled,
        "extra_peers": dict(job.extra_peers),
    }


def _paths(job: Job) -> dict[str, Path | None]:
    return {"source": job.source, "descriptors": job.descriptors, "checkpoint": job.checkpoint}
