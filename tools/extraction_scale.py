"""Extract and search a data set of SF-XL's size with several processes, and measure memory and time.

    python tools/extraction_scale.py FOLDER [--rows 2800000] [--dim 1024] [--processes 2] [--queries 1000]

Real: the launch as `torchrun` does it, the sharing of the rows, reading workers' code, resizing, batches, the feature
file with its marks on the disk, a SIGKILL of all processes in the middle and the second run that continues, and the
exact search in blocks by all processes. Made up: the images (8 x 8 px of noise, computed from the row's number, so
that no file is opened or decoded) and the model (one linear layer and the L2 norm). The seconds of the extraction
therefore say what everything but decoding and the network costs.

A query is a database image with noise on it. The search is right when each query finds its own image first.
FOLDER needs 4 bytes times rows times dim, 11.5 GB by default; it is deleted afterwards unless --keep is given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

IMAGE_PX = 8
MEAN, STD = (0.5, 0.5, 0.5), (0.29, 0.29, 0.29)
NOISE = 40.0
KEY = "synthetic"


@dataclass(frozen=True)
class NumberedImages:
    """Images that exist only as the numbers in their names."""

    numbers: NDArray[np.int64]
    suffix: str

    def __len__(self) -> int:
        return len(self.numbers)

    def path(self, row: int) -> Path:
        """A name that `read_synthetic` understands."""
        return Path(f"{self.numbers[row]}{self.suffix}")


def read_synthetic(path: Path) -> NDArray[np.uint8]:
    """Noise that depends on the number alone; a `.query` is the `.image` of its number with further noise."""
    pixels = _noise(f"{path.stem}.image")
    if path.suffix == ".query":
        shift = (_noise(path.name).astype(np.float64) - 127.5) / 74 * NOISE
        pixels = np.clip(pixels + shift, 0, 255).astype(np.uint8)
    return pixels


def _noise(name: str) -> NDArray[np.uint8]:
    data = hashlib.shake_128(name.encode()).digest(IMAGE_PX * IMAGE_PX * 3)
    return np.frombuffer(data, np.uint8).reshape(IMAGE_PX, IMAGE_PX, 3)


def main() -> None:
    """Run the phases in fresh processes and print what they report."""
    arguments = _parse_arguments()
    if arguments.phase:
        _work(arguments)
        return
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    size_gb = arguments.rows * arguments.dim * 4 / 1e9
    print(f"{arguments.rows} x {arguments.dim} float32 ({size_gb:.1f} GB), {arguments.processes} processes", flush=True)
    try:
        killed_at = _extract_until_killed(arguments)
        print(f"killed all processes by SIGKILL with {killed_at} rows on the disk", flush=True)
        extracted = _run_phase(arguments, "extract")
        _print_extraction(arguments, extracted, killed_at)
        _print_search(arguments, _run_phase(arguments, "search"))
    finally:
        if not arguments.keep:
            shutil.rmtree(folder / "features", ignore_errors=True)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Extract and search synthetic images with several processes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=2_800_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--kill-at", type=float, default=0.4, help="share of the rows after which all are killed")
    parser.add_argument("--keep", action="store_true", help="leave the features in FOLDER/features")
    parser.add_argument("--phase", choices=("extract", "search"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _extract_until_killed(arguments: argparse.Namespace) -> int:
    from progeo_edge.errors import SourceError
    from progeo_train.feature_file import FeatureFile

    processes = _start(arguments, "extract")
    done = 0
    while done < arguments.kill_at * arguments.rows:
        time.sleep(0.2)
        if any(process.poll() is not None for process in processes):
            break
        try:
            done = FeatureFile.open_existing(arguments.folder / "features", complete=False).num_done
        except SourceError:
            continue  # not created yet
    for process in processes:
        process.send_signal(signal.SIGKILL)
    codes = [process.wait() for process in processes]
    if codes != [-signal.SIGKILL] * len(processes):
        sys.exit(f"the processes ended with {codes} before they were killed")
    return FeatureFile.open_existing(arguments.folder / "features", complete=False).num_done


def _run_phase(arguments: argparse.Namespace, phase: str) -> list[dict[str, Any]]:
    """What each process of a phase reports."""
    if any(process.wait() for process in _start(arguments, phase)):
        sys.exit(f"a process of phase {phase} has failed")
    reports = [arguments.folder / f"{phase}.{rank}.json" for rank in range(arguments.processes)]
    return [json.loads(report.read_text()) for report in reports]


def _start(arguments: argparse.Namespace, phase: str) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    count = arguments.processes
    threads = str(max(1, (os.cpu_count() or 1) // count))
    shared = {"TORCHELASTIC_RUN_ID": "scale", "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared |= {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    command = [sys.executable, __file__, *sys.argv[1:], "--phase", phase]
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [subprocess.Popen(command, env=os.environ | shared | rank) for rank in ranks]


def _work(arguments: argparse.Namespace) -> None:
    """One process of a phase: do its share, then report."""
    import torch  # noqa: TID251 - this tool measures the training package
    from lightning_fabric import Fabric
    from torch import Tensor, nn  # noqa: TID251

    from progeo_train.extraction import describe, extract_features
    from progeo_train.feature_file import FeatureFile
    from progeo_train.sharded_search import search_features

    class Projection(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.linear = nn.Linear(3 * IMAGE_PX * IMAGE_PX, arguments.dim, bias=False)
            nn.init.normal_(self.linear.weight, generator=generator)
            self.images = 0

        def forward(self, images: Tensor) -> Tensor:
            self.images += len(images)
            return nn.functional.normalize(self.linear(images.flatten(1)))

    fabric = Fabric(accelerator="cpu", devices=arguments.processes, strategy="ddp")
    fabric.launch()
    module, form = Projection(), ((IMAGE_PX, IMAGE_PX), MEAN, STD)
    folder = arguments.folder / "features"
    start_s = time.perf_counter()
    if arguments.phase == "extract":
        images = NumberedImages(np.arange(arguments.rows), ".image")
        extract_features(
            module,
            images,
            *form,
            folder,
            KEY,
            fabric,
            dim=arguments.dim,
            batch_size=arguments.batch_size,
            read=read_synthetic,
        )
        report: dict[str, Any] = {"images": module.images}
    else:
        planted = np.linspace(0, arguments.rows - 1, arguments.queries).astype(np.int64)
        asked, exact = (
            describe(
                module,
                NumberedImages(planted, suffix),
                *form,
                fabric,
                dim=arguments.dim,
                batch_size=arguments.batch_size,
                read=read_synthetic,
            )
            for suffix in (".query", ".image")
        )
        database = FeatureFile.open_existing(folder, key=KEY)
        start_s = time.perf_counter()
        ranking = search_features(asked, database, 20, fabric)
        stored = np.concatenate([database.read_rows(row, row + 1) for row in planted.tolist()])
        report = {
            "recall_at_1": float(np.mean(ranking.rows[:, 0] == planted)),
            "similarity_of_first": float(ranking.similarities[:, 0].mean()),
            "similarity_of_second": float(ranking.similarities[:, 1].mean()),
            "largest_difference": float(np.abs(stored - exact).max()),
        }
    report["seconds"] = time.perf_counter() - start_s
    report["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    (arguments.folder / f"{arguments.phase}.{fabric.global_rank}.json").write_text(json.dumps(report))


def _print_extraction(arguments: argparse.Namespace, reports: list[dict[str, Any]], killed_at: int) -> None:
    computed = sum(report["images"] for report in reports)
    seconds = max(report["seconds"] for report in reports)
    print(f"extraction continued: {computed} rows in {seconds:.0f} s ({computed / seconds:.0f} rows/s)")
    print(f"  done before and after the kill: {killed_at} + {computed} = {killed_at + computed} of {arguments.rows}")
    print(f"  peak memory per process: {_peaks(reports)} MB", flush=True)
    if killed_at + computed != arguments.rows:
        sys.exit("rows that were done were computed again, or rows are missing")


def _print_search(arguments: argparse.Namespace, reports: list[dict[str, Any]]) -> None:
    first = reports[0]
    seconds = max(report["seconds"] for report in reports)
    print(f"search: {arguments.queries} queries, exact, in {seconds:.0f} s")
    print(f"  recall@1 of the planted neighbours: {_recalls(reports)}")
    print(f"  mean cosine of first and second: {first['similarity_of_first']:.3f}, {first['similarity_of_second']:.3f}")
    print(f"  stored rows against computed ones: largest difference {first['largest_difference']:.1e}")
    print(f"  peak memory per process: {_peaks(reports)} MB")
    if min(report["recall_at_1"] for report in reports) < 1 or first["largest_difference"] > 1e-5:
        sys.exit("the search or the stored rows are wrong")


def _recalls(reports: list[dict[str, Any]]) -> str:
    return " and ".join(f"{report['recall_at_1']:.3f}" for report in reports)


def _peaks(reports: list[dict[str, Any]]) -> str:
    return " and ".join(f"{report['peak_mb']:.0f}" for report in reports)


if __name__ == "__main__":
    main()
