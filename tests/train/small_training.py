"""A training of seconds: tiny images of coloured places, a tiny CLIP with living weights, and a job over both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from rich.progress import Progress
from safetensors.torch import save_file

from progeo_edge import settings
from progeo_train.config import TrainConfig
from progeo_train.data.training_set import TrainingSet, open_training_set
from progeo_train.models.clip_model import build_clip
from progeo_train.pipeline import Job, launch_fabric
from progeo_train.run_log import METRICS_NAME, training_progress
from tests.train.tiny_models import SIZE_PX, liven, tiny_config

PLACES, IMAGES, GROUPS = 9, 3, 3
CSV_NAME = "places.csv"

Kind = Literal["resnet", "vit"]


def write_images(folder: Path, broken: tuple[str, ...] = ()) -> Path:
    """Write 9 places of 3 images each and their table; returns the table.

    Three places lie in each region, so that there are three groups of three places. The folder is a validation set too.

    Args:
        folder: Created.
        broken: Names of images that hold no image, such as "4-1.png" for the second image of the fifth place.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(5)
    lines = ["image,place,region"]
    for place in range(PLACES):
        pattern = random.integers(0, 256, (6, 6, 3))
        for number in range(IMAGES):
            noisy = np.clip(pattern + random.normal(0, 20, pattern.shape), 0, 255).astype(np.uint8)
            name = f"{place}-{number}.png"
            cv2.imwrite(str(folder / name), cv2.resize(noisy, (48, 48), interpolation=cv2.INTER_NEAREST))
            if name in broken:
                (folder / name).write_bytes(b"no image")
            lines.append(f"{name},place {place},region {place // GROUPS}")
    table = folder / CSV_NAME
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def write_weights(path: Path, kind: Kind = "resnet", seed: int = 0) -> Path:
    """Write weights of a tiny CLIP whose features differ between images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = build_clip(tiny_config(kind), (SIZE_PX, SIZE_PX))
    liven(clip.visual, seed=seed)
    tensors = {name: value.detach().contiguous().clone() for name, value in clip.model.state_dict().items()}
    save_file(tensors, path)
    return path


def small_config(kind: Kind = "resnet", *assignments: str, weights: Path | None = None) -> TrainConfig:
    """Settings of a training of seconds: 6 epochs of stage 1, 3 epochs of 4 iterations of stage 2, a line per step.

    Args:
        kind: Which tiny model.
        assignments: Further settings, as "section.name=value".
        weights: Of `write_weights`; None leaves them random.
    """
    model = tiny_config(kind, pretrained=None if weights is None else str(weights), quick_gelu=False)
    values: dict[str, dict[str, Any]] = {
        "model": model.model_dump(),
        "places": {"groups": GROUPS, "min_images_per_class": 2},
        "stage1": {"image_size_px": (SIZE_PX, SIZE_PX), "epochs": 6, "batch_size": 4, "feature_batch_size": 4},
        "stage2": {"epochs": 3, "iterations_per_epoch": 4, "batch_size": 4, "learning_rate": 1e-3},
        "validation": {"batch_size": 9},
        "run": {"workers": 0, "log_every": 1, "checkpoint_every_s": 0},
    }
    return settings.validate(TrainConfig, settings.merge_layers([values, settings.read_assignments(assignments)]), "")


def write_config(path: Path, config: TrainConfig) -> Path:
    """Write settings as the commands read them."""
    path.write_text(settings.to_yaml(config), encoding="utf-8")
    return path


def one_process() -> Fabric:
    """A launched Fabric of this process alone."""
    return launch_fabric(TrainConfig().run, accelerator="cpu", devices=1)


def quiet() -> Progress:
    """A progress bar that shows nothing."""
    return training_progress(shown=False)


def small_job(
    config: TrainConfig,
    table: Path,
    out: Path,
    *,
    fabric: Fabric | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Job:
    """A job on the images of a table, in this process unless a Fabric is given."""
    cache = out / "cache"
    data = small_data(config, table, cache)
    return Job(fabric or one_process(), config, data, out, cache, resume, force, progress or quiet())


def small_data(config: TrainConfig, table: Path, cache: Path) -> TrainingSet:
    """The images of a table."""
    return open_training_set([str(table)], config, cache)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / METRICS_NAME).read_text(encoding="utf-8").splitlines()]
