"""Stage 1 of ProGEO: learn four words per place against a frozen CLIP (arXiv 2406.01906, section III).

The image features are computed once and lie on the disk. A step takes a batch of them, computes the text features of
their places, and pulls both together by a supervised contrastive loss in both directions. Only the words change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.progress import Progress
from torch import Tensor

from progeo_train.config import TrainConfig
from progeo_train.data.place_groups import PlaceGroups
from progeo_train.feature_file import FeatureFile
from progeo_train.losses import supervised_contrastive
from progeo_train.models.prompts import PromptLearner
from progeo_train.models.text_tower import TextTower
from progeo_train.optimizer_state import optimizer_tensors, restore_optimizer
from progeo_train.processes import average_gradient, gathered_rows
from progeo_train.run_folder import RunFolder, Step, TrainingRun
from progeo_train.run_log import Log
from progeo_train.schedule import group_of_epoch, stage1_learning_rate
from progeo_train.step_means import StepMeans

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GroupFeatures:
    """Image features of one group's readable images: (M, D) float32 and labels (M,) int64, on the training device."""

    features: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def group_features(groups: PlaceGroups, group: int, file: FeatureFile, device: torch.device) -> GroupFeatures:
    """Read a group's slice of the cached features, whose rows are in the order of `groups.member_rows`."""
    first_class, last_class = (int(value) for value in groups.group_start[group : group + 2])
    starts = groups.class_start[first_class : last_class + 1]
    labels = np.repeat(np.arange(last_class - first_class), np.diff(starts))
    readable = file.readable[starts[0] : starts[-1]]
    features = np.asarray(file.features[starts[0] : starts[-1]], np.float32)[readable]
    return GroupFeatures(torch.from_numpy(features).to(device), torch.from_numpy(labels[readable]).to(device))


class Stage1:
    """The prompts of every group, an optimiser for each, and the step that trains them.

    Args:
        fabric: Launched.
        config: All settings.
        text: CLIP's frozen text tower.
        learners: One for each group, on the CPU.
    """

    def __init__(self, fabric: Fabric, config: TrainConfig, text: TextTower, learners: Sequence[PromptLearner]) -> None:
        self._fabric = fabric
        self._config = config
        self.learners = tuple(learners)
        self.optimizers = tuple(
            torch.optim.Adam([learner.class_tokens], lr=config.stage1.learning_rate) for learner in learners
        )
        self._text = text.to(fabric.device).eval()

    def start_group(self, group: int, learning_rate: float) -> None:
        """Bring a group's prompts to the training device and set its learning rate."""
        self._move(group, self._fabric.device)
        self.optimizers[group].param_groups[0]["lr"] = learning_rate

    def end_group(self, group: int) -> None:
        """Let a group's prompts wait on the CPU."""
        self._move(group, torch.device("cpu"))

    def step(self, group: int, features: Tensor, labels: Tensor) -> Tensor:
        """Forward, backward and update for the whole batch; every process is given the same one.

        Args:
            group: Whose prompts are trained.
            features: (B, D) float32 image features.
            labels: (B,) int64 classes of the group.

        Returns:
            The loss, a scalar on the training device.
        """
        learner, optimizer = self.learners[group], self.optimizers[group]
        optimizer.zero_grad(set_to_none=True)
        classes, position = torch.unique(labels, return_inverse=True)
        text = self._text_features(learner, classes)[position]
        temperature = self._config.stage1.temperature
        # Rows of one class are the same text, so the text-to-image term counts a class once per image of it.
        loss = supervised_contrastive(features, text, labels, labels, temperature)
        loss = loss + supervised_contrastive(text, features, labels, labels, temperature)
        self._fabric.backward(loss)
        tokens = learner.class_tokens
        average_gradient(self._fabric, tokens)
        optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def class_text_features(self, group: int, batch_size: int = 256) -> Tensor:
        """Text features of every class of a group: (C, D) float32 on the CPU."""
        learner, device = self.learners[group], self._fabric.device
        self._move(group, device)
        parts = []
        for first in range(0, learner.num_classes, batch_size):
            labels = torch.arange(first, min(first + batch_size, learner.num_classes), device=device)
            with self._fabric.autocast():
                parts.append(self._text(learner(labels)).float().cpu())
        self.end_group(group)
        return torch.cat(parts)

    def _text_features(self, learner: PromptLearner, classes: Tensor) -> Tensor:
        """(U, D): each process computes its share of the classes, all get the whole with gradients."""
        world, rank = self._fabric.world_size, self._fabric.global_rank
        share = -(-len(classes) // world)
        padded = torch.cat([classes, classes[:1].expand(share * world - len(classes))])
        with self._fabric.autocast():
            own = self._text(learner(padded[rank * share : (rank + 1) * share]))
        return gathered_rows(self._fabric, own.float())[: len(classes)]

    def _move(self, group: int, device: torch.device) -> None:
        learner, optimizer = self.learners[group], self.optimizers[group]
        learner.to(device)
        for name in ("exp_avg", "exp_avg_sq"):
            state = optimizer.state.get(learner.class_tokens, {})
            if name in state:
                state[name] = state[name].to(device)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint needs."""
        found: dict[str, Tensor] = {}
        for group, (learner, optimizer) in enumerate(zip(self.learners, self.optimizers, strict=True)):
            found[f"prompts.{group}"] = learner.class_tokens.detach()
            state = optimizer_tensors(optimizer, [f"prompts.{group}"])
            found |= {f"optimizer.{name}": value for name, value in state.items()}
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take what `tensors` gave."""
        state = {
            name.removeprefix("optimizer."): value for name, value in tensors.items() if name.startswith("optimizer.")
        }
        for group, (learner, optimizer) in enumerate(zip(self.learners, self.optimizers, strict=True)):
            with torch.no_grad():
                learner.class_tokens.copy_(tensors[f"prompts.{group}"])
            own = {name: value for name, value in state.items() if name.startswith(f"prompts.{group}/")}
            restore_optimizer(optimizer, [f"prompts.{group}"], own)


def run_stage1(run: TrainingRun, stage: Stage1, features: FeatureFile, log: Log, progress: Progress) -> Path:
    """Train from where the folder stands to the last epoch.

    Args:
        run: What to train on.
        stage: Fresh; takes the state of the folder's last checkpoint.
        features: Of the images of all classes, in the order of `member_rows`.
        log: Receives one line per epoch.
        progress: Shows a bar per epoch.

    Returns:
        The file of prompts and text features that stage 2 takes.
    """
    settings, folder = run.config.stage1, run.folder
    start = _restore(stage, folder)
    log.start_at(start.epoch)
    saved_s = time.monotonic()
    for epoch in range(start.epoch, settings.epochs):
        log.scalars("stage1", epoch + 1, _run_epoch(run, stage, features, epoch, progress))
        if time.monotonic() - saved_s > run.config.run.checkpoint_every_s or epoch + 1 == settings.epochs:
            folder.write(folder.last, None, stage.tensors(), {"stage": 1, "epoch": epoch + 1, "iteration": 0})
            saved_s = time.monotonic()
    _write_prompts(run, stage)
    return folder.prompts


def _run_epoch(
    run: TrainingRun, stage: Stage1, features: FeatureFile, epoch: int, progress: Progress
) -> dict[str, float]:
    settings, groups, device = run.config.stage1, run.data.groups, run.fabric.device
    group = group_of_epoch(epoch, groups.num_groups)
    rate = stage1_learning_rate(epoch, settings.epochs, groups.num_groups, settings.learning_rate)
    images = group_features(groups, group, features, device)
    task = progress.add_task(f"stage 1, epoch {epoch + 1}/{settings.epochs}", total=len(images))
    means = StepMeans()
    stage.start_group(group, rate)
    for rows in batches(len(images), settings.batch_size, run.config.run.seed, epoch):
        chosen = torch.from_numpy(rows).to(device)
        means.add({"loss": stage.step(group, images.features[chosen], images.labels[chosen])})
        progress.advance(task, len(rows))
    stage.end_group(group)
    progress.remove_task(task)
    return {**means.take(run.fabric), "learning_rate": rate, "group": group}


def _write_prompts(run: TrainingRun, stage: Stage1) -> None:
    tensors = {f"prompts.{group}": learner.class_tokens.detach() for group, learner in enumerate(stage.learners)}
    tensors |= {f"text_features.{group}": stage.class_text_features(group) for group in range(len(stage.learners))}
    run.folder.write(run.folder.prompts, None, tensors, {"stage": 1, "places": run.data.groups.fingerprint()})
    run.fabric.barrier()


def batches(count: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """A permutation of 0..count-1 in batches, the last one smaller; a function of (seed, epoch) alone."""
    order = np.random.default_rng([seed, 1, epoch]).permutation(count)
    return [order[first : first + batch_size] for first in range(0, count, batch_size)]


def _restore(stage: Stage1, folder: RunFolder) -> Step:
    found = folder.read_last()
    if found is None:
        return Step(0, 0)
    training, tensors = found
    stage.restore(tensors)
    return Step(training["epoch"], training["iteration"])
