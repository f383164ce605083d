"""Run by test_training_processes.py: a command that is killed twice, and two processes that train together.

All in one program, since importing torch takes most of the time.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from pathlib import Path

import torch
from lightning_fabric import Fabric

from progeo_train.cli import main as command
from progeo_train.config import TrainConfig
from progeo_train.pipeline import train_stage1, train_stage2
from progeo_train.run_log import METRICS_NAME
from progeo_train.validation import parse_validation_spec
from tests.train.small_training import CSV_NAME, Kind, small_config, small_job
from tests.train.two_processes import in_two_processes

VARIANTS: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "vit": ("vit", ()),
    "vit with triplets": ("vit", ("stage2.triplet=true", "stage2.images_per_class=2")),
    "resnet": ("resnet", ("model.frozen_batch_norm=true",)),
    "resnet with triplets": (
        "resnet",
        ("model.frozen_batch_norm=true", "stage2.triplet=true", "stage2.images_per_class=2"),
    ),
}
STAGE1_KILL, STAGE2_KILL = 10, 22
DEADLINE_S = 60


def variant_config(folder: Path, name: str) -> TrainConfig:
    """Settings of a variant; its weights lie in the folder."""
    kind, assignments = VARIANTS[name]
    return small_config(kind, "stage2.learning_rate=1e-4", *assignments, weights=folder / f"{kind}.safetensors")


def train_variants(folder: Path, out: Path, fabric: Fabric | None = None) -> None:
    """Stage 1 of each backbone, and stage 2 of each variant with the prompts of stage 1 of one process."""
    table = folder / "images" / CSV_NAME
    for kind in ("vit", "resnet"):
        train_stage1(small_job(variant_config(folder, kind), table, out / kind, fabric=fabric))
    sets = [parse_validation_spec(str(table.parent), 25.0)]
    for name, (kind, _) in VARIANTS.items():
        prompts = folder / "one" / kind / "stage1" / "prompts.safetensors"
        train_stage2(small_job(variant_config(folder, name), table, out / name, fabric=fabric), prompts, sets)


def command_line(folder: Path, out: Path) -> list[str]:
    """The command that is killed."""
    table = folder / "images" / CSV_NAME
    data = ["--data", str(table), "--out", str(out), "--accelerator", "cpu"]
    return ["progeo-train", "all", str(folder / "config.yaml"), *data]


def run_until_killed(arguments: list[str], metrics: Path, lines: int) -> None:
    """Start the command and end it by SIGKILL once its metrics have so many lines."""
    process = multiprocessing.get_context("fork").Process(target=_run_command, args=(arguments,))
    process.start()
    end_s = time.monotonic() + DEADLINE_S
    while process.is_alive() and time.monotonic() < end_s:
        if metrics.is_file() and metrics.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"the command ended with {process.exitcode} before it could be killed"


def _run_command(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    sys.argv = arguments
    command.main()


def main() -> None:
    folder = Path(sys.argv[1])
    out = folder / "killed"
    stage1, stage2 = (out / stage / METRICS_NAME for stage in ("stage1", "stage2"))
    run_until_killed(command_line(folder, out), stage1, STAGE1_KILL)
    (folder / "lines1.txt").write_text(str(stage1.read_bytes().count(b"\n")))
    run_until_killed([*command_line(folder, out), "--resume"], stage2, STAGE2_KILL)
    (folder / "lines2.txt").write_text(str(stage2.read_bytes().count(b"\n")))
    in_two_processes(lambda fabric: train_variants(folder, folder / "two", fabric))


if __name__ == "__main__":
    main()
