"""Reads the images of each batch, in worker processes, in the order that the draws state.

What a batch holds depends on the draws and the files alone: not on the number of workers, nor on the iteration that a
run starts at, nor on how many processes share the batch.
"""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from progeo_edge.bundle import Preprocess
from progeo_edge.errors import ConfigError, SourceError
from progeo_edge.preprocess import to_model_input
from progeo_edge.sources.images import FrameError, read_image
from progeo_train.data.place_groups import PlaceGroups
from progeo_train.data.sampling import ClassDraws, Draw

logger = logging.getLogger(__name__)

PREFETCHED_BATCHES = 2
_SHARED_MEMORY = Path("/dev/shm")


class ImagePaths(Protocol):
    """A training set or an image table: where the image of a row lies."""

    def path(self, row: int) -> Path:
        """File of a row."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The images of one iteration that this process reads.

    Attributes:
        images: (B, 3, H, W) uint8 RGB.
        labels: (B,) int64, class within the group.
        samples: (B,) int64, index in the global batch.
        unreadable: Files that could not be read and were replaced; a file may stand in several batches.
    """

    images: Tensor
    labels: Tensor
    samples: Tensor
    unreadable: list[str]

    def pin_memory(self) -> Batch:
        """Copy into page-locked memory, from where a GPU fetches without waiting; the loader calls it."""
        return replace(
            self,
            images=self.images.pin_memory(),
            labels=self.labels.pin_memory(),
            samples=self.samples.pin_memory(),
        )


class ImageLoader:
    """Iterable over the batches `first_iteration` to `first_iteration + iterations - 1` of an epoch."""

    def __init__(self, batches: _Batches, first_iteration: int, iterations: int, workers: int, pin: bool) -> None:
        self._batches = batches
        self._order = range(first_iteration, first_iteration + iterations)
        self._workers = min(workers, iterations)
        self._pin = pin

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        """Read the batches in order; workers live until the last one, or until the iterator is dropped.

        Raises:
            SourceError: no image of the group can be read.
        """
        loader: DataLoader[Batch | str] = DataLoader(
            self._batches,
            batch_size=None,
            sampler=self._order,
            num_workers=self._workers,
            prefetch_factor=PREFETCHED_BATCHES if self._workers else None,
            pin_memory=self._pin,
            worker_init_fn=_prepare_worker,
            generator=torch.Generator(),  # without one, the loader draws from torch's global generator
        )
        for batch in loader:
            if isinstance(batch, str):
                raise SourceError(batch)
            yield batch


def make_loader(
    training_set: ImagePaths,
    draws: ClassDraws,
    size_px: tuple[int, int],
    *,
    first_iteration: int = 0,
    iterations: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> ImageLoader:
    """Loader of one epoch, or of the rest of one.

    An image that cannot be read (missing, empty, truncated, not an image; see progeo_edge.sources.images) is replaced
    by the next readable member of its class, and when there is none by one of the next class that has one, with that
    class's label. Such files are named in `Batch.unreadable`. A file that decodes, but shows nothing of use, is not
    noticed.

    Args:
        training_set: Where the images lie.
        draws: Which images make each batch.
        size_px: Height and width; images are squashed to it as the runtime does, by area where they shrink.
        first_iteration: Where to begin; the batches from there on are those of an uninterrupted run.
        iterations: Batches to read.
        rank: This process among those that share each batch: it reads samples [rank * B / w, (rank + 1) * B / w).
        world_size: Those processes, w.
        workers: Reading processes; 0 reads in this one.
        device: Where the images go; pinned memory is used for CUDA alone.

    Raises:
        ConfigError: the batch cannot be shared evenly.
    """
    if draws.batch_size % world_size:
        raise ConfigError(
            f"batch_size {draws.batch_size} cannot be shared by {world_size} processes; "
            "make it a multiple of their number"
        )
    share = draws.batch_size // world_size
    batches = _Batches(training_set, draws, slice(rank * share, (rank + 1) * share), input_form(size_px))
    if workers:
        _warn_of_small_shared_memory(workers * PREFETCHED_BATCHES * share * 3 * size_px[0] * size_px[1])
    return ImageLoader(batches, first_iteration, iterations, workers, torch.device(device).type == "cuda")


def input_form(size_px: tuple[int, int]) -> Preprocess:
    """How training images are read: RGB planes of uint8, squashed to (height, width)."""
    return Preprocess(
        height_px=size_px[0], width_px=size_px[1], color="rgb", layout="nchw", dtype="uint8", mean=None, std=None
    )


def read_model_input(path: Path, form: Preprocess) -> NDArray[np.uint8]:
    """Read one image: (3, H, W) uint8 RGB.

    Raises:
        FrameError: missing, empty, truncated, or not an image.
    """
    planes: NDArray[np.uint8] = to_model_input([read_image(path)], form)[0]
    return planes


class _Batches(Dataset["Batch | str"]):
    """Iteration to batch, or to the message of the error that ends the epoch.

    The message is returned, not raised: torch would wrap an exception of a worker in its traceback.
    """

    def __init__(self, paths: ImagePaths, draws: ClassDraws, share: slice, form: Preprocess) -> None:
        self._paths = paths
        self._draws = draws
        self._share = share
        self._form = form

    def __getitem__(self, iteration: int) -> Batch | str:
        draws = self._draws.batch(iteration)[self._share]
        images = np.empty((len(draws), 3, self._form.height_px, self._form.width_px), np.uint8)
        labels = np.empty(len(draws), np.int64)
        unreadable: list[str] = []
        for place, draw in enumerate(draws):
            found = self._read_or_replace(draw, unreadable)
            if found is None:
                return self._nothing_readable(unreadable)
            images[place], labels[place] = found
        samples = torch.tensor([draw.sample for draw in draws], dtype=torch.int64)
        return Batch(torch.from_numpy(images), torch.from_numpy(labels), samples, unreadable)

    def _read_or_replace(self, draw: Draw, unreadable: list[str]) -> tuple[NDArray[np.uint8], int] | None:
        """Image and label of a draw, or of its replacement; None when the group holds nothing readable."""
        for row, label in _candidates(self._draws.groups, self._draws.group, draw):
            path = self._paths.path(row)
            try:
                return read_model_input(path, self._form), label
            except FrameError:
                unreadable.append(str(path))
        return None

    def _nothing_readable(self, unreadable: list[str]) -> str:
        number = self._draws.groups.num_images(self._draws.group)
        return (
            f"none of the {number} images of group {self._draws.group} can be read, such as {unreadable[0]}; "
            "check that the folder of the images is mounted and that the files are images"
        )


def _candidates(groups: PlaceGroups, group: int, draw: Draw) -> Iterator[tuple[int, int]]:
    """Rows and labels to try: the draw, the rest of its class from there on, then the classes after it, all around."""
    num_classes = groups.num_classes(group)
    for step in range(num_classes):
        label = (draw.label + step) % num_classes
        rows = groups.members(group, label)
        if step == 0:
            rows = np.roll(rows, -int(np.flatnonzero(rows == draw.row)[0]))
        for row in rows.tolist():
            yield row, label


def _prepare_worker(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process ends its workers; Ctrl-C reaches them too
    cv2.setNumThreads(0)  # the workers are the parallelism
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # unreadable files are named in the batch


def _warn_of_small_shared_memory(needed_bytes: int) -> None:
    """Workers pass batches through shared memory, which containers often limit to 64 MB; beyond it they are killed."""
    if _SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(_SHARED_MEMORY).free) < needed_bytes:
        logger.warning(
            "%s has %.0f MB free, and the workers need about %.0f MB for the images under way; give the container "
            "more (docker run --shm-size=8g), or set fewer run.workers",
            _SHARED_MEMORY,
            free / 1e6,
            needed_bytes / 1e6,
        )
