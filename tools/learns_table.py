"""Does it learn? Recall@1 of a compact encoder trained from scratch, with and without the text term, as a table.

    python -m tools.learns_table ../shared/data OUT [--seeds 0 1 2] [--epochs 32] [--iterations 50] [--jobs 2]

Trains on DATA/train (places made by tools/training_tables.py) and judges on DATA/dev, on which nothing is trained. Per
seed: the random weights that training starts from; stage 2 without the text term; stage 1 and stage 2. What is there
from an earlier call is continued or kept. Each training runs in one thread, `--jobs` of them side by side.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch  # noqa: TID251 - a tool of the training

from progeo_edge.encoders import load_encoder
from progeo_edge.evaluation.protocols import RetrievalSet, describe_set, rank_set
from progeo_edge.evaluation.retrieval import judge_retrieval
from progeo_train.checkpoint_file import CheckpointRecord, model_tensors, write_checkpoint
from progeo_train.config import load_config
from progeo_train.models.clip_model import build_clip
from progeo_train.models.place_encoder import build_encoder
from tools.dev_table import dev_sets

TABLES = ("ie_tower_indoor", "camvid_driving", "postech_road", "agh_campus_buildings")
DATA_SETTINGS = ("places.window_s=4", "places.min_gap_s=8", "places.groups=16", "places.min_images_per_class=2")
RUN_SETTINGS = ("run.precision=bf16", "run.workers=0", "run.checkpoint_every_s=60")
VARIANTS = {"random weights": None, "stage 2 without text": 0.0, "both stages": 1.0}


def main() -> None:
    """Train what is missing, then judge everything."""
    arguments = _parse_arguments()
    tables = arguments.out / "tables"
    script = Path(__file__).with_name("training_tables.py")
    size = str(arguments.size_px)
    subprocess.run(
        [sys.executable, str(script), str(arguments.data / "train"), str(tables), "--size-px", size], check=True
    )
    settings = (
        *DATA_SETTINGS,
        *RUN_SETTINGS,
        f"stage2.epochs={arguments.epochs}",
        f"stage2.iterations_per_epoch={arguments.iterations}",
        f"model.image_size_px=[{size},{size}]",
        f"stage1.image_size_px=[{size},{size}]",
        *arguments.set,
    )
    jobs = [(name, seed) for seed in arguments.seeds for name in VARIANTS]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        checkpoints = list(pool.map(lambda job: _train(job[0], job[1], arguments.out, tables, settings), jobs))
    _print_table(dict(zip(jobs, checkpoints, strict=True)), dev_sets(arguments.data / "dev"), arguments.seeds)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Recall@1 of a compact encoder trained from scratch.")
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--size-px", type=int, default=96)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="one more setting, as section.name=value")
    return parser.parse_args()


def _train(name: str, seed: int, out: Path, tables: Path, settings: Sequence[str]) -> Path:
    """Checkpoint of one variant and seed."""
    folder = out / f"{name.replace(' ', '-')}-{seed}"
    text_weight = VARIANTS[name]
    settings = (*settings, f"run.seed={seed}")
    if text_weight is None:
        return _write_random(folder.with_suffix(".safetensors"), settings)
    command = [sys.executable, "-m", "progeo_train.cli.main", "all", "compact", "--out", str(folder), "--resume"]
    command += [part for table in TABLES for part in ("--data", str(tables / f"{table}.csv"))]
    command += [part for item in (*settings, f"stage2.text_weight={text_weight}") for part in ("--set", item)]
    start_s = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{folder}: {done.stderr}")
    print(f"{folder.name}: {(time.monotonic() - start_s) / 60:.1f} min", flush=True)
    return folder / "stage2" / "last.safetensors"


def _write_random(path: Path, settings: Sequence[str]) -> Path:
    """The encoder that a training of these settings starts from."""
    config = load_config("compact", settings)
    torch.manual_seed(config.run.seed)
    encoder = build_encoder(build_clip(config.model, config.model.image_size_px), config.model)
    write_checkpoint(path, CheckpointRecord(kind="model", name="random", encoder=encoder.spec), model_tensors(encoder))
    return path


def _print_table(checkpoints: dict[tuple[str, int], Path], sets: dict[str, RetrievalSet], seeds: Sequence[int]) -> None:
    print(f"\n| recall@1, percent; mean (smallest to largest of {len(seeds)} seeds) | {' | '.join(sets)} | mean |")
    print(f"|---|{'---|' * (len(sets) + 1)}")
    for name in VARIANTS:
        rows = np.array([_recalls(checkpoints[name, seed], sets) for seed in seeds])
        rows = np.concatenate([rows, rows.mean(axis=1, keepdims=True)], axis=1)
        cells = [f"{column.mean():.1f} ({column.min():.1f} to {column.max():.1f})" for column in rows.T]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _recalls(checkpoint: Path, sets: dict[str, RetrievalSet]) -> list[float]:
    encoder = load_encoder(checkpoint)
    found = []
    for images in sets.values():
        ranking = rank_set(images, describe_set(images, encoder))
        found.append(100 * (judge_retrieval(ranking, images.truth, resamples=1).recall[1].value or 0.0))
    encoder.close()
    return found


if __name__ == "__main__":
    main()
