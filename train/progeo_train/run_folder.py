"""The folder of one stage: its config, its checkpoints, its log; and the rules for continuing in it.

OUT/stage1/config.yaml  data.txt  last.safetensors  prompts.safetensors  metrics.jsonl  tensorboard/
OUT/stage2/config.yaml  data.txt  last.safetensors  best.safetensors     metrics.jsonl  tensorboard/  worst/
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor

import progeo_edge
from progeo_edge import atomic, settings
from progeo_edge.errors import ConfigError
from progeo_train.checkpoint_file import CheckpointRecord, read_record, read_tensors, write_checkpoint
from progeo_train.config import DOCUMENTATION, TrainConfig
from progeo_train.data.training_set import TrainingSet
from progeo_train.models.place_encoder import EncoderSpec
from progeo_train.run_log import METRICS_NAME

_log = logging.getLogger(__name__)

CONFIG_NAME, LAST_NAME, BEST_NAME, PROMPTS_NAME = (
    "config.yaml",
    "last.safetensors",
    "best.safetensors",
    "prompts.safetensors",
)
FREE_TO_CHANGE = ("run.", "validation.", "stage2.epochs", "stage1.feature_batch_size")
"""Settings that may differ when a run is continued: they do not change what the steps already done have computed.

`run.seed` and `run.precision` are checked all the same.
"""
CHECKED_ALL_THE_SAME = ("run.seed", "run.precision")


@dataclass(frozen=True, slots=True)
class Step:
    """What is done: `epoch` whole epochs and `iteration` iterations of the next one."""

    epoch: int
    iteration: int

    def total(self, iterations_per_epoch: int) -> int:
        """Iterations done since the start."""
        return self.epoch * iterations_per_epoch + self.iteration


class RunFolder:
    """Checkpoints and files of one stage. Every process may read; only the first one writes.

    Args:
        path: The folder; see `open_run_folder`.
        fabric: Launched.
        config: Written into every checkpoint.
        data_fingerprint: As `config`.
    """

    def __init__(self, path: Path, fabric: Fabric, config: TrainConfig, data_fingerprint: str) -> None:
        self.path = path
        self._fabric = fabric
        self._config = config
        self._data_fingerprint = data_fingerprint

    @property
    def last(self) -> Path:
        """The checkpoint from which a run continues."""
        return self.path / LAST_NAME

    @property
    def best(self) -> Path:
        """The encoder with the best recall@1 so far."""
        return self.path / BEST_NAME

    @property
    def prompts(self) -> Path:
        """What stage 1 has learned."""
        return self.path / PROMPTS_NAME

    def read_last(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Training record and tensors of the last checkpoint; None when there is none."""
        if not self.last.is_file():
            return None
        return read_record(self.last).training, read_tensors(self.last)

    def report_unreadable(self, names: Iterable[str], epoch: int) -> None:
        """Add names to `unreadable.txt` and say so once per epoch; other images of their places took their turn."""
        path = self.path / f"unreadable.{self._fabric.global_rank}.txt"
        known = set(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else set()
        found = sorted(known | set(names))
        atomic.write_text(path, "\n".join(found) + "\n")
        _log.warning("%d images could not be read up to epoch %d; %s names them", len(found), epoch + 1, path)

    def write(
        self, path: Path, encoder: EncoderSpec | None, tensors: Mapping[str, Tensor], training: Mapping[str, Any]
    ) -> None:
        """Write a checkpoint of this run, in the first process only.

        Args:
            path: `last`, `best` or `prompts`.
            encoder: Of the tensors "model.*"; None when there are none.
            tensors: By full name.
            training: What the record states beside config, data, and versions.
        """
        if not self._fabric.is_global_zero:
            return
        record = {
            **training,
            "config": self._config.model_dump(mode="json"),
            "data_fingerprint": self._data_fingerprint,
            "versions": {"progeo_edge": progeo_edge.__version__, "torch": str(torch.__version__)},
        }
        kind: Literal["training", "model"] = "training" if path == self.last else "model"
        name = self._config.model.backbone if encoder is not None else "prompts"
        write_checkpoint(path, CheckpointRecord(kind=kind, name=name, encoder=encoder, training=record), tensors)


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What every step of a stage needs.

    Attributes:
        fabric: Launched.
        config: All settings.
        data: Images and places.
        folder: Of the stage.
    """

    fabric: Fabric
    config: TrainConfig
    data: TrainingSet
    folder: RunFolder


def check_run_folder(path: Path, config: TrainConfig, data_fingerprint: str, *, resume: bool, force: bool) -> None:
    """Check that a run may begin or continue in a folder; nothing is changed.

    Args:
        path: OUT/stage1 or OUT/stage2.
        config: Of this run.
        data_fingerprint: Of this run's images and places.
        resume: Continue an earlier run; starts a new one when there is none.
        force: Delete an earlier run.

    Raises:
        ConfigError: an earlier run is there and neither is asked, or both are; or it had other data or settings.
        ModelError: the checkpoint to continue from is damaged.
    """
    if resume and force:
        raise ConfigError("--resume continues an earlier run and --force deletes it; give one of them")
    if _holds_a_run(path) and not (resume or force):
        raise ConfigError(f"{path} holds an earlier run; --resume continues it, --force starts again")
    if resume and (path / LAST_NAME).is_file():
        _check_same_run(path / LAST_NAME, config, data_fingerprint)


def open_run_folder(
    path: Path, fabric: Fabric, config: TrainConfig, data_fingerprint: str, *, resume: bool, force: bool
) -> RunFolder:
    """Make the folder, or check that a run may continue in it; every process calls this.

    Args:
        path: As in `check_run_folder`, also the rest.
        fabric: Launched.
        config: Of this run.
        data_fingerprint: Of this run's images and places.
        resume: Continue an earlier run.
        force: Delete an earlier run.

    Raises:
        ConfigError: see `check_run_folder`.
    """
    check_run_folder(path, config, data_fingerprint, resume=resume, force=force)
    fabric.barrier()
    if fabric.is_global_zero:
        if force and _holds_a_run(path):
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path / CONFIG_NAME, settings.to_yaml(config))
    fabric.barrier()
    return RunFolder(path, fabric, config, data_fingerprint)


def _holds_a_run(path: Path) -> bool:
    """Whether something has been trained: a command that failed before leaves only its config, which may go."""
    checkpoints = any((path / name).exists() for name in (LAST_NAME, BEST_NAME, PROMPTS_NAME))
    metrics = path / METRICS_NAME
    return checkpoints or (metrics.is_file() and metrics.stat().st_size > 0)


def _check_same_run(last: Path, config: TrainConfig, data_fingerprint: str) -> None:
    training = read_record(last).training
    if training["data_fingerprint"] != data_fingerprint:
        raise ConfigError(
            f"{last} was trained on other images or places; --resume needs the same --data, --force starts again"
        )
    before, now = _flatten(training["config"]), _flatten(config.model_dump(mode="json"))
    for key in sorted(before.keys() | now.keys()):
        free = key.startswith(FREE_TO_CHANGE) and key not in CHECKED_ALL_THE_SAME
        if not free and before.get(key) != now.get(key):
            raise ConfigError(
                f"{last} was trained with {key} = {before.get(key)}, now it is {now.get(key)}; --resume needs the "
                f"same settings, --force starts again ({DOCUMENTATION} says which may change)"
            )


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{section}.{name}": value for section, inner in values.items() for name, value in inner.items()}
