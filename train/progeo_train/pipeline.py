"""From a config, data and a folder to trained prompts and a trained encoder: what the commands run."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.progress import Progress
from torch import Tensor

from progeo_edge import atomic
from progeo_edge.errors import ConfigError, ModelError, SourceError
from progeo_train.checkpoint_file import read_record, read_tensors
from progeo_train.config import RunConfig, TrainConfig
from progeo_train.data.training_set import TrainingSet
from progeo_train.extraction import extract_features, images_key
from progeo_train.feature_file import FeatureFile
from progeo_train.models.architectures import check_image_size, find_architecture
from progeo_train.models.clip_model import ClipModel, build_clip
from progeo_train.models.place_encoder import build_encoder, check_joint_dimension, encoder_spec, freeze
from progeo_train.models.prompts import PromptLearner
from progeo_train.run_folder import PROMPTS_NAME, RunFolder, TrainingRun, check_run_folder, open_run_folder
from progeo_train.run_log import Log, RunLog, SilentLog
from progeo_train.stage1 import Stage1, run_stage1
from progeo_train.stage2 import Stage2, run_stage2
from progeo_train.validation import ValidationSet

_log = logging.getLogger(__name__)

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True, slots=True)
class Job:
    """What both stages are given.

    Attributes:
        fabric: Launched.
        config: All settings.
        data: Images and places.
        out: Folder of the whole training; each stage has its own in it.
        cache: Folder for what can be computed again.
        resume: Continue what is in `out`.
        force: Replace what is in `out`.
        progress: Started.
    """

    fabric: Fabric
    config: TrainConfig
    data: TrainingSet
    out: Path
    cache: Path
    resume: bool
    force: bool
    progress: Progress


def launch_fabric(run: RunConfig, *, accelerator: str = "auto", devices: int | None = None, nodes: int = 1) -> Fabric:
    """Start the processes of a training.

    Under `torchrun`, the processes are there already and its numbers hold; otherwise Fabric starts `devices` of them.

    Args:
        run: Precision.
        accelerator: "auto", "cpu" or "cuda".
        devices: Processes on this machine; None takes every GPU, or one process on the CPU.
        nodes: Machines; each must run the same command (see Fabric's documentation for its environment variables).

    Raises:
        ConfigError: the precision needs a device that is not there.
    """
    on_gpu = accelerator == "cuda" or (accelerator == "auto" and torch.cuda.is_available())
    if run.precision == "fp16" and not on_gpu:
        raise ConfigError("run.precision is fp16, which needs a GPU; set run.precision=bf16 or fp32 on the CPU")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    count = devices or (torch.cuda.device_count() if on_gpu else 1)
    fabric = Fabric(
        accelerator="cuda" if on_gpu else "cpu",
        devices=count,
        num_nodes=nodes,
        strategy="ddp" if count * nodes > 1 else "auto",
        precision=PRECISIONS[run.precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def train_stage1(job: Job) -> Path:
    """Learn the prompts; returns the file that stage 2 takes."""
    folder = _open_folder(job, "stage1")
    clip = _build_clip(job.config, job.config.stage1.image_size_px)
    # Before the features, which may take hours: a template that cannot be read is noticed here.
    learners = _learners(job, clip)
    features = _clip_features(job, clip)
    stage = Stage1(job.fabric, job.config, clip.text, learners)
    with closing(_open_log(job, folder)) as log:
        run = TrainingRun(job.fabric, job.config, job.data, folder)
        return run_stage1(run, stage, features, log, job.progress)


def check_stage2(job: Job) -> None:
    """Refuse what stage 2 would refuse, before hours are spent on stage 1; for runs with the text term.

    Raises:
        ConfigError: the descriptor dimension or the input size does not fit, or the folder holds another run.
    """
    model = job.config.model
    architecture = find_architecture(model.backbone)
    check_image_size(architecture.config, model.image_size_px)
    check_joint_dimension(encoder_spec(model).descriptor_dim, architecture.joint_dim)
    check_run_folder(job.out / "stage2", job.config, job.data.fingerprint(), resume=job.resume, force=job.force)


def train_stage2(job: Job, prompts: Path | None, validation: Sequence[ValidationSet]) -> Path:
    """Tune the encoder; returns its best checkpoint.

    Args:
        job: What to train on.
        prompts: File of stage 1; None looks in `job.out`. Not read when the text term has no weight.
        validation: Sets whose mean recall@1 decides which encoder is the best; none keeps the last.

    Raises:
        ModelError: the prompts are missing, or of other places.
        ConfigError: the descriptor dimension is not that of the text features.
    """
    config = job.config
    text_features = _read_text_features(job, prompts) if config.stage2.text_weight > 0 else None
    folder = _open_folder(job, "stage2")
    encoder = build_encoder(_build_clip(config, config.model.image_size_px), config.model)
    freeze(encoder, config.model)
    if text_features is not None:
        check_joint_dimension(encoder.spec.descriptor_dim, text_features[0].shape[1])
    torch.manual_seed(config.run.seed)
    groups = job.data.groups
    stage = Stage2(
        job.fabric, config, encoder, [groups.num_classes(group) for group in range(groups.num_groups)], text_features
    )
    with closing(_open_log(job, folder)) as log:
        run = TrainingRun(job.fabric, config, job.data, folder)
        return run_stage2(run, stage, validation, log, job.progress)


def _build_clip(config: TrainConfig, size_px: tuple[int, int]) -> ClipModel:
    torch.manual_seed(config.run.seed)
    return build_clip(config.model, size_px)


def _learners(job: Job, clip: ClipModel) -> list[PromptLearner]:
    generator = torch.Generator().manual_seed(job.config.run.seed)
    groups = job.data.groups
    return [
        PromptLearner(clip.text, groups.num_classes(group), job.config.prompt, generator)
        for group in range(groups.num_groups)
    ]


def _open_folder(job: Job, stage: str) -> RunFolder:
    folder = open_run_folder(
        job.out / stage, job.fabric, job.config, job.data.fingerprint(), resume=job.resume, force=job.force
    )
    if job.fabric.is_global_zero:
        atomic.write_text(folder.path / "data.txt", job.data.summary.describe() + "\n")
    return folder


def _open_log(job: Job, folder: RunFolder) -> Log:
    return RunLog(folder.path) if job.fabric.is_global_zero else SilentLog()


@dataclass(frozen=True, slots=True)
class _MemberImages:
    """The images of all classes, class after class, so that a group's features are one slice of the file."""

    data: TrainingSet

    def __len__(self) -> int:
        return len(self.data.groups.member_rows)

    def path(self, row: int) -> Path:
        return self.data.path(int(self.data.groups.member_rows[row]))


def _clip_features(job: Job, clip: ClipModel) -> FeatureFile:
    """Image features of the frozen CLIP for every image of every class, from the cache where it has them."""
    config = job.config
    images = _MemberImages(job.data)
    visual = clip.visual.eval().to(job.fabric.device)
    task = job.progress.add_task("features of the frozen CLIP", total=len(images))
    features = extract_features(
        visual,
        images,
        config.stage1.image_size_px,
        config.model.mean,
        config.model.std,
        job.cache / "clip_features",
        _features_key(job, clip, images),
        job.fabric,
        dim=clip.joint_dim,
        batch_size=config.stage1.feature_batch_size,
        workers=config.run.workers,
        progress=lambda count: job.progress.advance(task, count),
    )
    job.progress.remove_task(task)
    visual.cpu()
    return features


def _features_key(job: Job, clip: ClipModel, images: _MemberImages) -> str:
    """Changes with the images (name, size, time of change), their order, the weights and the preprocessing."""
    model = job.config.model
    preprocessing = repr((job.config.stage1.image_size_px, model.mean, model.std, job.config.run.precision))
    return images_key(images, job.data.fingerprint(), clip.weights_fingerprint(), preprocessing)


def _read_text_features(job: Job, prompts: Path | None) -> list[Tensor]:
    path = prompts or job.out / "stage1" / PROMPTS_NAME
    if not path.is_file():
        raise ModelError(
            f"{path} is not there; run stage 1 first, name its file with --prompts, or leave the image-text term out "
            "with --set stage2.text_weight=0"
        )
    training, groups = read_record(path).training, job.data.groups
    if training.get("places") != groups.fingerprint():
        raise ModelError(
            f"prompts {path} were learned for other places; use the --data and places.* of that run, or run stage 1 "
            "again"
        )
    tensors = read_tensors(path, "text_features.")
    if len(tensors) != groups.num_groups:
        raise SourceError(f"prompts {path} hold {len(tensors)} groups, the data {groups.num_groups}; run stage 1 again")
    return [tensors[str(group)] for group in range(groups.num_groups)]
