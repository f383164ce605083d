"""How long does a bundle take per frame here, by backend, precision, threads and spin, alone and beside other work?

    python -m tools.encoder_table BUNDLE OUT [--rounds 12] [--frames 10] [--size 640x480] [--torch RN50] [--cold]

Every contender is one process that holds its encoder open. They take turns of a few frames, in an order that changes
from round to round, so that what disturbs the machine disturbs all. A time is that of `Encoder.encode` of one camera
frame, preprocessing included. Then the same beside one busy process per core, at normal priority ("loaded"). OUT.json
holds every time, OUT.md the table: p50, p99, the smallest, and how the first contender's median of a round compares,
median over the rounds (smallest to largest).

`--torch ARCHITECTURE` adds open_clip in torch eager behind PIL, as contender and first row (random weights: its
descriptors mean nothing, its time does). `--cold` measures something else: in new processes that take turns, the wall
time from the start of the interpreter to the first descriptor.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from progeo_edge.atomic import write_text
from progeo_edge.bundle import read_manifest

PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "openvino", "torch", "open_clip_torch")
SPIN = "import time\nwhile True: sum(range(1000))"


@dataclass(frozen=True)
class Contender:
    """One way to describe a frame.

    Attributes:
        backend: "onnx", "openvino" or "torch".
        precision: Graph of the bundle; torch computes in FP32.
        threads: Of one inference.
        spin: Of ONNX Runtime.
    """

    backend: str
    precision: str
    threads: int
    spin: bool = False

    @property
    def name(self) -> str:
        """As the table shows it."""
        return f"{self.backend} {self.precision}, {self.threads} threads{', spin' if self.spin else ''}"


@dataclass(frozen=True)
class Question:
    """What every contender's process is told.

    Attributes:
        bundle: Folder.
        size_px: (width, height) of a frame.
        torch: Architecture of open_clip.
    """

    bundle: str
    size_px: tuple[int, int]
    torch: str


def main() -> None:
    """Measure, write both files, print the table."""
    arguments = _parse_arguments()
    width, height = (int(part) for part in arguments.size.split("x"))
    question = Question(str(arguments.bundle), (width, height), arguments.torch or "")
    contenders = contenders_of(arguments.bundle, arguments.torch is not None, _usable_cores())
    record: dict[str, Any] = {"machine": machine(), "question": asdict(question)}
    if arguments.cold:
        record["cold_start_s"] = cold_starts(contenders, question, arguments.rounds)
        text = cold_table(record["cold_start_s"])
    else:
        for load in ("quiet", "loaded"):
            with _busy(_usable_cores() if load == "loaded" else 0):
                record[load] = measure(contenders, question, arguments.rounds, arguments.frames)
        text = "\n".join(f"{load}:\n\n{table(record[load])}\n" for load in ("quiet", "loaded"))
    write_text(arguments.out.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    write_text(arguments.out.with_suffix(".md"), text)
    print(text)


def contenders_of(bundle: Path, with_torch: bool, cores: int) -> list[Contender]:
    """All combinations that this machine can run; torch first, which the others are compared with."""
    precisions = list(read_manifest(bundle).graphs)
    threads = sorted({1, cores})
    found = [Contender("torch", "fp32", cores)] if with_torch else []
    for precision, count in itertools.product(precisions, threads):
        if _installed("onnxruntime"):
            found += [Contender("onnx", precision, count, spin) for spin in ((False, True) if count > 1 else (False,))]
        if _installed("openvino"):
            found.append(Contender("openvino", precision, count))
    return found


def measure(
    contenders: Sequence[Contender], question: Question, rounds: int, frames: int
) -> dict[str, list[list[float]]]:
    """Times in ms of every contender, one list per round."""
    times: dict[str, list[list[float]]] = {contender.name: [] for contender in contenders}
    with ExitStack() as stack:
        processes = [(one.name, stack.enter_context(_worker(one, question))) for one in contenders]
        for number in range(rounds + 1):
            turn = number % len(processes)
            for name, process in [*processes[turn:], *processes[:turn]]:
                found = _ask(process, frames)
                if number > 0:  # the first round warms up
                    times[name].append(found)
    return times


def cold_starts(contenders: Sequence[Contender], question: Question, rounds: int) -> dict[str, list[float]]:
    """Seconds from starting the interpreter to the first descriptor, one per round; at most one thread count each."""
    chosen = [one for one in contenders if one.threads == max(other.threads for other in contenders) and not one.spin]
    times: dict[str, list[float]] = {one.name: [] for one in chosen}
    for number in range(rounds + 1):
        for one in chosen:
            begin = time.perf_counter()
            with _worker(one, question) as process:
                _ask(process, 1)
                if number > 0:
                    times[one.name].append(time.perf_counter() - begin)
    return times


def table(times: dict[str, list[list[float]]]) -> str:
    """Markdown: one row per contender, compared with the first."""
    base = [statistics.median(one) for one in next(iter(times.values()))]
    lines = ["| | p50 ms | p99 ms | min ms | times as fast as the first |", "|---|---|---|---|---|"]
    for name, rounds in times.items():
        every = np.concatenate([np.asarray(one) for one in rounds])
        ratios = [first / statistics.median(one) for first, one in zip(base, rounds, strict=True)]
        p50, p99 = np.percentile(every, [50, 99])
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {name} | {p50:.1f} | {p99:.1f} | {every.min():.1f} | {spread} |")
    return "\n".join(lines)


def cold_table(times: dict[str, list[float]]) -> str:
    """Markdown: one row per contender, compared with the first."""
    base = next(iter(times.values()))
    lines = ["| | first descriptor after, s | min s | times as fast as the first |", "|---|---|---|---|"]
    for name, seconds in times.items():
        ratios = [first / one for first, one in zip(base, seconds, strict=True)]
        spread = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        lines.append(f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f} | {spread} |")
    return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    """What the times belong to."""
    model = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "absent"
    load = os.getloadavg()[0]
    return {"cpu": model, "cores": _usable_cores(), "python": platform.python_version(), "load": load, **packages}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


@contextmanager
def _worker(contender: Contender, question: Question) -> Iterator[subprocess.Popen[str]]:
    """A process that describes frames when it is asked to, and ends with the block."""
    told = json.dumps({"contender": asdict(contender), "question": asdict(question)})
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.encoder_table_worker", told],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _ask(process: subprocess.Popen[str], frames: int) -> list[float]:
    """Times in ms of so many frames."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{frames}\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError("a contender's process has ended; its message stands above")
    found: list[float] = json.loads(answer)
    return found


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """So many processes that never wait."""
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times of a bundle's encoders as a table.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path, help="OUT.json and OUT.md are written")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--frames", type=int, default=10, help="per contender and round")
    parser.add_argument("--size", default="640x480", help="of a frame, width x height")
    parser.add_argument("--torch", metavar="ARCHITECTURE", help="also open_clip in torch eager, such as RN50")
    parser.add_argument("--cold", action="store_true", help="measure cold starts instead")
    return parser.parse_args()


if __name__ == "__main__":
    main()
