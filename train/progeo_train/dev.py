"""`--dev`: two iterations of everything on a handful of images, to see that a config and data run end to end."""

from __future__ import annotations

import numpy as np

from progeo_train.config import TrainConfig
from progeo_train.data.place_groups import PlaceGroups

GROUPS, CLASSES, IMAGES = 2, 4, 3
MAX_SIZE_PX = 224
ITERATIONS, BATCH = 2, 4


def dev_config(config: TrainConfig) -> TrainConfig:
    """The same config with few and small epochs, small images, and without a download of weights."""
    values = config.model_dump()
    values["stage1"] |= {"epochs": GROUPS, "batch_size": CLASSES * IMAGES // ITERATIONS, "feature_batch_size": BATCH}
    values["stage2"] |= {"epochs": GROUPS, "iterations_per_epoch": ITERATIONS, "batch_size": BATCH}
    values["stage2"]["images_per_class"] = min(values["stage2"]["images_per_class"], 2)
    values["run"] |= {"workers": 0, "log_every": 1}
    values["places"]["min_images_per_class"] = min(values["places"]["min_images_per_class"], 2)
    values["validation"]["every_epochs"] = GROUPS
    values["model"]["pretrained"] = None
    values["model"]["image_size_px"] = [min(side, MAX_SIZE_PX) for side in config.model.image_size_px]
    return TrainConfig.model_validate(values)


def dev_places(groups: PlaceGroups) -> PlaceGroups:
    """The first groups, classes and images only."""
    kept_groups = range(min(GROUPS, groups.num_groups))
    classes = [(group, k) for group in kept_groups for k in range(min(CLASSES, groups.num_classes(group)))]
    members = [groups.members(group, k)[:IMAGES] for group, k in classes]
    return PlaceGroups(
        np.concatenate(members),
        _starts([len(rows) for rows in members]),
        _starts([sum(group == other for other, _ in classes) for group in kept_groups]),
        tuple(groups.class_names[int(groups.group_start[group]) + k] for group, k in classes),
    )


def _starts(sizes: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
