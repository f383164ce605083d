"""From nothing to the first descriptor: a fresh process each time, in turn."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from progeo_edge.benchmark.peers.frames import size_name
from progeo_edge.benchmark.peers.process import environment, last_words
from progeo_edge.benchmark.statistics import summarise
from progeo_edge.benchmark.versus import contenders
from progeo_edge.benchmark.versus.comparison import Comparison, Row
from progeo_edge.benchmark.versus.frames import CAMERA
from progeo_edge.benchmark.versus.inputs import Frames, save
from progeo_edge.benchmark.versus.interleaving import Contender, Progress, rotated
from progeo_edge.benchmark.versus.job import Job

START_TIMEOUT_S = 300.0

_COLD = "progeo_edge.benchmark.peers.cold"
_HEAVY = ("matplotlib", "rich", "typer", "jinja2", "torch", "cv2", "pydantic", "hnswlib", "sqlite3")
_IMPORTS = {
    "python alone": "",
    "progeo_edge, the runtime": (
        "from progeo_edge import LoopDetector, MapStore, load_camera, load_config, load_encoder, open_source"
    ),
    "numpy and cv2": "import numpy, cv2",
}
_REPORT = "\nimport sys; print(*(name for name in {heavy!r} if name in sys.modules))"


@dataclass
class _Starts:
    """Milliseconds of every start of one contender, and of its parts."""

    whole_ms: list[float] = field(default_factory=list)
    parts_ms: dict[str, list[float]] = field(default_factory=dict)


def compare_cold_starts(job: Job, frames: Frames, progress: Progress) -> list[Comparison]:
    """The first descriptor, and the import alone."""
    with TemporaryDirectory(prefix="progeo-bench-") as name:
        folder = Path(name)
        pixels = save(folder / "frame.npy", frames.of_size(*CAMERA)[:1])
        common = {"frames": {size_name(*CAMERA): pixels}}
        by_onnx, without_onnx = contenders.onnx_defaults(job, **common)
        by_others, without_others = contenders.offered(job, **common)
        entrants = [*contenders.ours(job, **common), *by_onnx[:1], *by_others]
        absent = without_onnx | without_others
        entrants = [one for one in entrants if one.name != contenders.TORCH_COMPILE]
        absent[contenders.TORCH_COMPILE] = "starts as torch-eager does, and then compiles for a minute"
        return [_first_descriptors(job, entrants, absent, folder, progress), _imports(job, progress)]


def _first_descriptors(
    job: Job, entrants: Sequence[Contender], absent: dict[str, str], folder: Path, progress: Progress
) -> Comparison:
    starts = {one.name: _Starts() for one in entrants}
    # The first round fills the file cache, as everything but the very first start of a robot finds it.
    for repeat in range(job.cold_repeats + 1):
        for one in rotated(entrants, repeat):
            if one.name in absent:
                continue
            reason = _start(one, job.threads, folder, starts[one.name], counted=repeat > 0)
            if reason:
                absent[one.name] = reason
        progress(f"cold start {repeat}")
    rows = tuple(
        _row(one.name, one.is_ours, starts[one.name].whole_ms, _medians(starts[one.name].parts_ms))
        for one in entrants
        if one.name not in absent
    )
    return Comparison(
        group="cold start to the first descriptor",
        case=f"a fresh process each, {job.threads} threads",
        rows=rows,
        absent=absent,
        notes=("import, load, first: its parts in ms, without the start of the interpreter; files are in the cache",),
    )


def _start(one: Contender, threads: int, folder: Path, starts: _Starts, *, counted: bool) -> str:
    """One start; the reason when it fails."""
    settings = folder / "settings.json"
    settings.write_text(json.dumps({**one.settings, "threads": threads}), encoding="utf-8")
    started = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", _COLD, one.target, str(settings)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment(threads),
            timeout=START_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"it gave no descriptor in {START_TIMEOUT_S:g} s"
    whole_ms = 1e3 * (time.perf_counter() - started)
    if done.returncode != 0 or not done.stdout:
        return last_words(done.returncode, done.stderr)
    content = json.loads(done.stdout)
    if "absent" in content:
        return str(content["absent"])
    if counted:
        starts.whole_ms.append(whole_ms)
        for name, part_ms in content["parts_ms"].items():
            starts.parts_ms.setdefault(name, []).append(part_ms)
    return ""


def _imports(job: Job, progress: Progress) -> Comparison:
    times_ms: dict[str, list[float]] = {name: [] for name in _IMPORTS}
    absent: dict[str, str] = {}
    loaded: dict[str, str] = {}
    for repeat in range(job.cold_repeats + 1):
        for name in rotated(list(_IMPORTS), repeat):
            if name in absent:
                continue
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", _IMPORTS[name] + _REPORT.format(heavy=_HEAVY)],
                capture_output=True,
                text=True,
                env=environment(job.threads),
            )
            whole_ms = 1e3 * (time.perf_counter() - started)
            if done.returncode != 0:
                absent[name] = last_words(done.returncode, done.stderr)
            elif repeat > 0:
                times_ms[name].append(whole_ms)
                loaded[name] = done.stdout.strip()
        progress(f"import {repeat}")
    rows = tuple(
        _row(name, name.startswith("progeo_edge"), times_ms[name], {"loads": loaded[name]})
        for name in _IMPORTS
        if name not in absent
    )
    return Comparison(
        group="import alone",
        case="a fresh process each, the start of the interpreter included",
        rows=rows,
        absent=absent,
        notes=(f"of {', '.join(_HEAVY)} the runtime loads: {loaded.get('progeo_edge, the runtime', '') or 'none'}",),
    )


def _row(name: str, is_ours: bool, whole_ms: Sequence[float], facts: Mapping[str, object]) -> Row:
    agreement = {part: value for part, value in facts.items() if isinstance(value, float)}
    return Row(name, is_ours, summarise(whole_ms), tuple(whole_ms), agreement, facts)


def _medians(parts_ms: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: float(np.median(values)) for name, values in parts_ms.items()}
