"""How fast the two stages are, and what of a step of stage 2 is not the backbone's own work."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from progeo_train.feature_file import FeatureFile
from progeo_train.run_folder import Step, TrainingRun
from progeo_train.stage1 import Stage1, batches, group_features
from progeo_train.stage2 import Stage2, epoch_batches, prepare


@dataclass(frozen=True, slots=True)
class Stage2Speed:
    """Figures of one measurement; times are medians over rounds.

    Attributes:
        device: On what it ran.
        batch_size: Images per step, of this process.
        step_ms: A whole step: waiting for images, augmentation, forward, losses, backward, update.
        backbone_ms: Forward and backward of the encoder alone, on images that are there already.
        wait_ms: Of the step: waiting for images that the reading processes have not got ready.
        augment_ms: Of the step: transfer and augmentation.
        images_per_s: Of this process.
        share_outside: Share of a step that is not the backbone: 1 - backbone_ms / step_ms, median of the rounds.
        share_outside_range: Smallest and largest of the rounds.
        max_memory_mb: Of the GPU, or of the process on the CPU.
    """

    device: str
    batch_size: int
    step_ms: float
    backbone_ms: float
    wait_ms: float
    augment_ms: float
    images_per_s: float
    share_outside: float
    share_outside_range: tuple[float, float]
    max_memory_mb: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Stage1Speed:
    """Figures of one pass over all groups with cached features.

    Attributes:
        device: On what it ran.
        images: Over all groups.
        groups: Of places.
        classes: Over all groups.
        steps: That were timed.
        step_ms: Median of a step.
        load_s: Median time to read a group's features from the cache.
        images_per_s: Steps and reading together.
        max_memory_mb: Of the process.
        last_loss: Of the last step.
    """

    device: str
    images: int
    groups: int
    classes: int
    steps: int
    step_ms: float
    load_s: float
    images_per_s: float
    max_memory_mb: float
    last_loss: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure_stage2(
    run: TrainingRun, stage: Stage2, *, rounds: int = 5, steps: int = 10, progress: Callable[[], None] | None = None
) -> Stage2Speed:
    """Time whole steps and the backbone alone in turns, so that other load on the machine falls on both.

    Args:
        run: Its config needs at least (rounds + 1) * steps iterations per epoch.
        stage: Fresh.
        rounds: Pairs of blocks; one more is run first and not counted.
        steps: In a block.
        progress: Called after each block.
    """
    device = run.fabric.device
    stage.trained.train()
    loaded = iter(epoch_batches(run, Step(0, 0), 0))
    blocks: list[_Block] = []
    with stage.group_on_device(0) as (classifier, text_features):
        for number in range(rounds + 1):
            waits, augments = [], []
            start_s = _now_s(device)
            for iteration in range(number * steps, (number + 1) * steps):
                before_s = time.perf_counter()
                batch = next(loaded)
                waits.append(time.perf_counter() - before_s)
                images, labels = prepare(batch, run.config, Step(0, iteration), device)
                augments.append(_now_s(device) - before_s - waits[-1])
                stage.step(images, labels, classifier, text_features)
            step_s = (_now_s(device) - start_s) / steps
            backbone_s = _backbone_s(run, stage, images, steps)
            if number > 0:
                blocks.append(_Block(step_s, backbone_s, float(np.mean(waits)), float(np.mean(augments))))
            if progress is not None:
                progress()
    shares = [1 - block.backbone_s / block.step_s for block in blocks]
    step_s = float(np.median([block.step_s for block in blocks]))
    return Stage2Speed(
        device=_device_name(device),
        batch_size=len(images),
        step_ms=1e3 * step_s,
        backbone_ms=1e3 * float(np.median([block.backbone_s for block in blocks])),
        wait_ms=1e3 * float(np.median([block.wait_s for block in blocks])),
        augment_ms=1e3 * float(np.median([block.augment_s for block in blocks])),
        images_per_s=len(images) / step_s,
        share_outside=float(np.median(shares)),
        share_outside_range=(min(shares), max(shares)),
        max_memory_mb=_max_memory_mb(device),
    )


@dataclass(frozen=True, slots=True)
class _Block:
    step_s: float
    backbone_s: float
    wait_s: float
    augment_s: float


def _backbone_s(run: TrainingRun, stage: Stage2, images: Tensor, steps: int) -> float:
    """Seconds of one forward and backward of the encoder."""
    gradient: Tensor | None = None
    start_s = _now_s(images.device)
    for _ in range(steps):
        descriptors = stage.trained(images)
        gradient = torch.ones_like(descriptors) if gradient is None else gradient
        run.fabric.backward(descriptors, gradient)
        stage.optimizer.zero_grad(set_to_none=True)
    return (_now_s(images.device) - start_s) / steps


def measure_stage1(
    run: TrainingRun,
    stage: Stage1,
    features: FeatureFile,
    *,
    max_steps_per_group: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Stage1Speed:
    """Train one epoch of every group from the cache, as `run_stage1` does.

    Args:
        run: Data and settings.
        stage: Fresh.
        features: Of all classes' images.
        max_steps_per_group: Fewer steps than an epoch has; None takes all.
        progress: Called with the number of images after each step.
    """
    settings, groups, device = run.config.stage1, run.data.groups, run.fabric.device
    step_s: list[float] = []
    load_s: list[float] = []
    seen, loss = 0, torch.zeros(())
    for group in range(groups.num_groups):
        start_s = _now_s(device)
        images = group_features(groups, group, features, device)
        stage.start_group(group, settings.learning_rate)
        load_s.append(_now_s(device) - start_s)
        for rows in batches(len(images), settings.batch_size, 0, group)[:max_steps_per_group]:
            start_s = _now_s(device)
            chosen = torch.from_numpy(rows).to(device)
            loss = stage.step(group, images.features[chosen], images.labels[chosen])
            step_s.append(_now_s(device) - start_s)
            seen += len(rows)
            if progress is not None:
                progress(len(rows))
        stage.end_group(group)
    return Stage1Speed(
        device=_device_name(device),
        images=len(groups.member_rows),
        groups=groups.num_groups,
        classes=len(groups.class_names),
        steps=len(step_s),
        step_ms=1e3 * float(np.median(step_s)),
        load_s=float(np.median(load_s)),
        images_per_s=seen / (sum(step_s) + sum(load_s)),
        max_memory_mb=_max_memory_mb(torch.device("cpu")),
        last_loss=float(loss),
    )


def _now_s(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def _max_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
