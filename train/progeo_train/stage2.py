"""Stage 2 of ProGEO: tune the image encoder under the prompts of the places (arXiv 2406.01906, section III).

One group of places per epoch. A batch is one image each of `batch_size` places; its loss is the cross-entropy over
CosFace logits, plus a label-smoothed cross-entropy over the products of image features and the text features of all
places of the group, plus (optionally) a soft-margin triplet loss.

Everything that is drawn is a function of (seed, epoch, iteration, sample), so that a resumed run, and a run of
several processes, see the same pictures as an uninterrupted one in one process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.progress import Progress
from torch import Tensor, nn

from progeo_train.augmentation import augment
from progeo_train.checkpoint_file import MODEL_PREFIX, model_tensors
from progeo_train.config import Stage2Config, TrainConfig
from progeo_train.data.image_loader import Batch, make_loader
from progeo_train.data.sampling import ClassDraws
from progeo_train.losses import CosFace, smoothed_cross_entropy, soft_triplet
from progeo_train.models.place_encoder import EncoderSpec, PlaceEncoder
from progeo_train.optimizer_state import optimizer_tensors, restore_optimizer
from progeo_train.processes import average_gradient, gathered_rows
from progeo_train.run_folder import Step, TrainingRun
from progeo_train.run_log import Log
from progeo_train.schedule import group_of_epoch
from progeo_train.step_means import StepMeans
from progeo_train.validation import ValidationSet, validate

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepLoss:
    """Terms of one step's loss, each already weighted; scalars on the training device.

    Attributes:
        total: What is minimised.
        place: Cross-entropy over CosFace logits.
        text: Label-smoothed cross-entropy over image times text features; None without the text term.
        triplet: Batch size times the soft-margin triplet loss; None without it.
    """

    total: Tensor
    place: Tensor
    text: Tensor | None
    triplet: Tensor | None

    def scalars(self) -> dict[str, Tensor]:
        """The terms that take part, by name."""
        terms = {"loss": self.total, "place": self.place, "text": self.text, "triplet": self.triplet}
        return {name: value.detach() for name, value in terms.items() if value is not None}


def stage2_loss(
    fabric: Fabric,
    descriptors: Tensor,
    labels: Tensor,
    classifier: CosFace,
    text_features: Tensor | None,
    config: Stage2Config,
) -> StepLoss:
    """The loss of one batch.

    Args:
        fabric: Of the processes that share the batch.
        descriptors: (B, D) float32, of this process.
        labels: (B,) int64 classes of the group.
        classifier: Of the group.
        text_features: (C, D) float32 of the group's classes; None leaves the text term out.
        config: Weights and constants.
    """
    place = nn.functional.cross_entropy(classifier(descriptors, labels), labels)
    total, text, triplet = place, None, None
    if text_features is not None:
        logits = descriptors @ text_features.T
        text = config.text_weight * smoothed_cross_entropy(logits, labels, config.label_smoothing)
        total = total + text
    if config.triplet:
        # Positives and negatives are sought in the whole batch, so every process computes this term over all of it.
        whole, whole_labels = gathered_rows(fabric, descriptors), gathered_rows(fabric, labels)
        triplet = len(whole) * soft_triplet(whole, whole_labels)
        total = total + triplet
    return StepLoss(total, place, text, triplet)


class Stage2:
    """Encoder, one classifier per group, their optimiser, and the step that trains them.

    Args:
        fabric: Launched.
        config: All settings.
        encoder: Fresh or pretrained; its lower layers are already frozen.
        classes_per_group: Number of classes of each group.
        text_features: Per group (C, D) float32 on the CPU; None leaves the text term out.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: TrainConfig,
        encoder: PlaceEncoder,
        classes_per_group: Sequence[int],
        text_features: Sequence[Tensor] | None,
    ) -> None:
        stage = config.stage2
        self.spec: EncoderSpec = encoder.spec
        self._fabric = fabric
        self._config = config
        self._text_features = text_features
        self.classifiers = nn.ModuleList(
            CosFace(encoder.spec.descriptor_dim, count, stage.cosface_scale, stage.cosface_margin)
            for count in classes_per_group
        )
        trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        # One Adam for all: it keeps its state per parameter and passes over classifiers without a gradient.
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            [
                {"params": trainable, "lr": stage.learning_rate},
                {"params": list(self.classifiers.parameters()), "lr": stage.classifier_learning_rate},
            ]
        )
        self.encoder: PlaceEncoder = _share_batch_norm(fabric, encoder, config)
        self.trained = fabric.setup_module(self.encoder)
        wrapped = fabric.setup_optimizers(self.optimizer)
        assert not isinstance(wrapped, tuple)
        self._wrapped_optimizer = wrapped

    def parameter_names(self) -> list[str]:
        """A name per parameter of the optimiser, in its order; the keys of its state in a checkpoint."""
        encoder = [f"encoder.{name}" for name, value in self.encoder.named_parameters() if value.requires_grad]
        return encoder + [f"classifiers.{name}" for name, _ in self.classifiers.named_parameters()]

    @contextmanager
    def group_on_device(self, group: int) -> Iterator[tuple[CosFace, Tensor | None]]:
        """Classifier and text features of a group on the training device; the other groups wait on the CPU."""
        classifier = self.classifiers[group]
        assert isinstance(classifier, CosFace)
        device = self._fabric.device
        self._move(classifier, device)
        text = None if self._text_features is None else self._text_features[group].to(device)
        try:
            yield classifier, text
        finally:
            classifier.zero_grad(set_to_none=True)
            self._move(classifier, torch.device("cpu"))

    def step(self, images: Tensor, labels: Tensor, classifier: CosFace, text_features: Tensor | None) -> StepLoss:
        """Forward, backward and update for one batch of augmented, normalised images."""
        self._wrapped_optimizer.zero_grad(set_to_none=True)
        descriptors = self.trained(images)
        loss = stage2_loss(self._fabric, descriptors, labels, classifier, text_features, self._config.stage2)
        self._fabric.backward(loss.total)
        # The encoder's gradients are averaged by its wrapper; a classifier comes and goes with its group.
        average_gradient(self._fabric, classifier.weight)
        self._wrapped_optimizer.step()
        return loss

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint needs."""
        classifiers = {f"classifiers.{name}": value for name, value in self.classifiers.state_dict().items()}
        state = optimizer_tensors(self.optimizer, self.parameter_names())
        return model_tensors(self.encoder) | classifiers | {f"optimizer.{name}": value for name, value in state.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `tensors` gave."""
        self.encoder.load_state_dict(_part(tensors, MODEL_PREFIX))
        self.classifiers.load_state_dict(_part(tensors, "classifiers."))
        restore_optimizer(self.optimizer, self.parameter_names(), _part(tensors, "optimizer."))

    def _move(self, classifier: CosFace, device: torch.device) -> None:
        classifier.weight.data = classifier.weight.data.to(device)
        state = self.optimizer.state.get(classifier.weight, {})
        for name in ("exp_avg", "exp_avg_sq"):
            if name in state:
                state[name] = state[name].to(device)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _share_batch_norm(fabric: Fabric, encoder: PlaceEncoder, config: TrainConfig) -> PlaceEncoder:
    """Batch norms over the whole batch where torch can; it cannot on the CPU."""
    has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
    if fabric.world_size == 1 or config.model.frozen_batch_norm or not has_batch_norm:
        return encoder
    if fabric.device.type == "cpu":
        _log.warning(
            "batch norms see the batch of one process on the CPU, so results depend on the number of processes; "
            "model.frozen_batch_norm=true makes them equal"
        )
        return encoder
    shared: PlaceEncoder = nn.SyncBatchNorm.convert_sync_batchnorm(encoder)  # type: ignore[no-untyped-call]
    return shared


def run_stage2(
    run: TrainingRun, stage: Stage2, validation: Sequence[ValidationSet], log: Log, progress: Progress
) -> Path:
    """Train from where the folder stands to the last epoch.

    Returns:
        The best checkpoint by mean recall@1, or the last one when nothing is validated.
    """
    config, folder = run.config, run.folder
    settings = config.stage2
    start, best = _restore(run, stage)
    log.start_at(start.total(settings.iterations_per_epoch))
    for epoch in range(start.epoch, settings.epochs):
        first = start.iteration if epoch == start.epoch else 0
        _run_epoch(run, stage, Step(epoch, first), best, log, progress)
        done = Step(epoch + 1, 0)
        if validation and ((epoch + 1) % config.validation.every_epochs == 0 or epoch + 1 == settings.epochs):
            best = _validate(run, stage, done, validation, best, log)
        _save(run, stage, done, best)
    run.fabric.barrier()
    # A run that had ended before a validation set was named has no best.
    return folder.best if validation and folder.best.is_file() else folder.last


def _run_epoch(run: TrainingRun, stage: Stage2, start: Step, best: float | None, log: Log, progress: Progress) -> None:
    config, settings = run.config, run.config.stage2
    group = group_of_epoch(start.epoch, run.data.groups.num_groups)
    title = f"stage 2, epoch {start.epoch + 1}/{settings.epochs}"
    total, size = settings.iterations_per_epoch, settings.batch_size
    task = progress.add_task(title, total=total * size, completed=start.iteration * size)
    stage.trained.train()
    means, unreadable, saved_s = StepMeans(), set[str](), time.monotonic()
    with stage.group_on_device(group) as (classifier, text_features):
        for iteration, batch in enumerate(epoch_batches(run, start, group), start.iteration):
            images, labels = prepare(batch, config, Step(start.epoch, iteration), run.fabric.device)
            means.add(stage.step(images, labels, classifier, text_features).scalars())
            unreadable.update(batch.unreadable)
            progress.advance(task, size)
            done = Step(start.epoch, iteration + 1)
            # Averages are taken where checkpoints may be, so that a continued run writes the same lines.
            if done.iteration % config.run.log_every == 0 or done.iteration == total:
                log.scalars("stage2", done.total(total), {**means.take(run.fabric), "epoch": start.epoch + 1})
                if time.monotonic() - saved_s > config.run.checkpoint_every_s and done.iteration < total:
                    _save(run, stage, done, best)
                    saved_s = time.monotonic()
    progress.remove_task(task)
    if unreadable:
        run.folder.report_unreadable(unreadable, start.epoch)


def epoch_batches(run: TrainingRun, start: Step, group: int) -> Iterable[Batch]:
    """The batches of an epoch from an iteration on, this process's share of each."""
    settings = run.config.stage2
    draws = ClassDraws(
        run.data.groups, group, run.config.run.seed, start.epoch, settings.batch_size, settings.images_per_class
    )
    loader: Iterable[Batch] = make_loader(
        run.data,
        draws,
        run.config.model.image_size_px,
        first_iteration=start.iteration,
        iterations=settings.iterations_per_epoch - start.iteration,
        rank=run.fabric.global_rank,
        world_size=run.fabric.world_size,
        workers=run.config.run.workers,
        device=run.fabric.device,
    )
    return loader


def prepare(batch: Batch, config: TrainConfig, step: Step, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch on the device: augmented, normalised images (B, 3, H, W) float32, and labels (B,) int64.

    The images lie channels last in memory, where convolutions are faster, in mixed precision above all.
    """
    images = augment(
        batch.images.to(device, non_blocking=True),
        batch.samples,
        seed=config.run.seed,
        epoch=step.epoch,
        iteration=step.iteration,
        config=config.augmentation,
        mean=config.model.mean,
        std=config.model.std,
    )
    return images.contiguous(memory_format=torch.channels_last), batch.labels.to(device, non_blocking=True)


def _validate(
    run: TrainingRun, stage: Stage2, done: Step, sets: Sequence[ValidationSet], best: float | None, log: Log
) -> float:
    """Measure, and keep the encoder when it is the best; every process takes part."""
    settings = run.config.validation
    found = validate(stage.encoder, stage.spec, sets, run.fabric, settings, run.config.run.workers)
    step = done.total(run.config.stage2.iterations_per_epoch)
    log.scalars("validation", step, found.scalars() | {"epoch": done.epoch})
    if run.fabric.is_global_zero:
        found.write_worst(run.folder.path / "worst", done.epoch, log, step)
    if best is not None and found.mean_recall_at_1 <= best:
        return best
    record = {"stage": 2, "epoch": done.epoch, "iteration": done.iteration, "recall": found.recall}
    run.folder.write(run.folder.best, stage.spec, model_tensors(stage.encoder), record)
    return found.mean_recall_at_1


def _save(run: TrainingRun, stage: Stage2, done: Step, best: float | None) -> None:
    record = {
        "stage": 2,
        "epoch": done.epoch,
        "iteration": done.iteration,
        "best_recall_at_1": best,
        # The scale of fp16's losses is the one thing that is neither a weight nor a function of the step.
        "precision": run.fabric.strategy.precision.state_dict(),
    }
    run.folder.write(run.folder.last, stage.spec, stage.tensors(), record)


def _restore(run: TrainingRun, stage: Stage2) -> tuple[Step, float | None]:
    found = run.folder.read_last()
    if found is None:
        return Step(0, 0), None
    training, tensors = found
    stage.restore(tensors)
    run.fabric.strategy.precision.load_state_dict(training["precision"])
    return Step(training["epoch"], training["iteration"]), training["best_recall_at_1"]
