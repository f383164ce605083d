"""Rendered images and synthetic features, to measure the training on without anybody's data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric

from progeo_train.config import TrainConfig
from progeo_train.data.image_table import ImageTable
from progeo_train.data.place_groups import PlaceGroups
from progeo_train.data.training_set import DataSummary, TrainingSet, open_training_set
from progeo_train.feature_file import FeatureFile
from progeo_train.models.clip_model import build_clip
from progeo_train.models.place_encoder import build_encoder, freeze
from progeo_train.models.prompts import PromptLearner
from progeo_train.run_folder import TrainingRun, open_run_folder
from progeo_train.stage1 import Stage1
from progeo_train.stage2 import Stage2

CLASSES, IMAGES_PER_CLASS = 64, 2
"""Rendered places and images of each; enough that a batch of 64 is of different places."""
SYNTHETIC_IMAGES_PER_CLASS = 20


def stage2_on_rendered_images(
    fabric: Fabric, config: TrainConfig, folder: Path, *, iterations: int
) -> tuple[TrainingRun, Stage2]:
    """A run of stage 2 over rendered JPEGs of the size that the encoder takes, with random weights.

    Args:
        fabric: Launched.
        config: Settings; places and the number of iterations are replaced.
        folder: Empty; receives the images.
        iterations: Per epoch.
    """
    values = config.model_dump()
    values["stage2"]["iterations_per_epoch"] = iterations
    values["places"]["min_images_per_class"] = IMAGES_PER_CLASS
    config = TrainConfig.model_validate(values)
    table = write_rendered_images(folder, CLASSES, IMAGES_PER_CLASS, config.model.image_size_px)
    data = open_training_set([str(table)], config, folder / "cache")
    clip = build_clip(config.model, config.model.image_size_px)
    encoder = build_encoder(clip, config.model)
    freeze(encoder, config.model)
    text = [torch.randn(data.groups.num_classes(0), encoder.spec.descriptor_dim)]
    stage = Stage2(fabric, config, encoder, [data.groups.num_classes(0)], text)
    return _run(fabric, config, data, folder), stage


def stage1_on_synthetic_features(
    fabric: Fabric, config: TrainConfig, folder: Path, groups: int, images_per_group: int
) -> tuple[TrainingRun, Stage1, FeatureFile]:
    """A run of stage 1 whose cached image features are random vectors; it reads no image.

    Args:
        fabric: Launched.
        config: Settings.
        folder: Empty; receives the features.
        groups: Number of groups.
        images_per_group: Images of each, 20 to a class.
    """
    places = synthetic_places(groups, images_per_group, SYNTHETIC_IMAGES_PER_CLASS)
    total = len(places.member_rows)
    clip = build_clip(config.model, config.stage1.image_size_px)
    features = FeatureFile.open_or_create(folder / "features", total, clip.joint_dim, "synthetic")
    rng = np.random.default_rng(0)
    for chunk in features.open_chunks():
        rows = len(features.rows_of(chunk))
        features.write_chunk(chunk, rng.normal(0, clip.joint_dim**-0.5, (rows, clip.joint_dim)).astype(np.float32))
    table = ImageTable.of(folder, [f"{row}.jpg" for row in range(total)])
    data = TrainingSet((table,), places, _summary_of(places))
    learners = [PromptLearner(clip.text, places.num_classes(group), config.prompt) for group in range(groups)]
    return _run(fabric, config, data, folder), Stage1(fabric, config, clip.text, learners), features


def _run(fabric: Fabric, config: TrainConfig, data: TrainingSet, folder: Path) -> TrainingRun:
    run_folder = open_run_folder(folder / "run", fabric, config, data.fingerprint(), resume=False, force=False)
    return TrainingRun(fabric, config, data, run_folder)


def _summary_of(places: PlaceGroups) -> DataSummary:
    groups = range(places.num_groups)
    return DataSummary(
        specs=("synthetic features",),
        num_images=len(places.member_rows),
        num_used=len(places.member_rows),
        num_without_position=0,
        num_without_heading=0,
        num_single=0,
        classes_per_group=tuple(places.num_classes(group) for group in groups),
        images_per_group=tuple(places.num_images(group) for group in groups),
        min_images_per_class=1,
    )


def synthetic_places(num_groups: int, images_per_group: int, images_per_class: int) -> PlaceGroups:
    """Classes of equal size whose rows are 0, 1, 2, ...: places without pictures."""
    classes = images_per_group // images_per_class
    total = num_groups * classes
    return PlaceGroups(
        np.arange(total * images_per_class, dtype=np.int64),
        np.arange(0, total * images_per_class + 1, images_per_class, dtype=np.int64),
        np.arange(0, total + 1, classes, dtype=np.int64),
        tuple(f"place {number}" for number in range(total)),
    )


def write_rendered_images(folder: Path, classes: int, images_per_class: int, size_px: tuple[int, int]) -> Path:
    """JPEGs with the detail of real pictures, and a table of their places, which is returned."""
    rng = np.random.default_rng(0)
    height, width = size_px
    lines = ["image,place"]
    for number in range(classes):
        base = _textured(rng, height, width)
        for image in range(images_per_class):
            name = f"{number:04d}_{image}.jpg"
            shifted = np.roll(base, (3 * image, 5 * image), axis=(0, 1))
            if not cv2.imwrite(str(folder / name), shifted, [cv2.IMWRITE_JPEG_QUALITY, 90]):
                raise OSError(f"{folder / name} could not be written")
            lines.append(f"{name},{number}")
    table = folder / "places.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def _textured(rng: np.random.Generator, height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Noise whose amplitude falls with frequency, as that of photographs does."""
    picture = np.zeros((height, width, 3), np.float32)
    for cells in _octaves(min(height, width)):
        noise = rng.normal(0, 1 / np.sqrt(cells), (cells, cells, 3)).astype(np.float32)
        picture += np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
    low, high = float(picture.min()), float(picture.max())
    return (255 * (picture - low) / (high - low)).astype(np.uint8)


def _octaves(size: int) -> Iterator[int]:
    cells = 4
    while cells <= size // 2:
        yield cells
        cells *= 2
