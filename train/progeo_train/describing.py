"""Images to descriptors, batch by batch: read and resize in worker processes, normalise and describe on the device."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from progeo_edge.bundle import Preprocess
from progeo_edge.errors import InputError
from progeo_edge.preprocess import to_model_input
from progeo_edge.sources.images import FrameError, read_image
from progeo_edge.types import Image

Model = Callable[[Tensor], Tensor]
PerChannel = tuple[float, float, float]


class ImageRows(Protocol):
    """A list of images: an `ImageTable`, a training set, or `PathList`."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def path(self, row: int) -> Path:
        """Where the image of a row lies."""
        ...


@dataclass(frozen=True, slots=True)
class PathList:
    """Image files as `ImageRows`."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, row: int) -> Path:
        """The file of a row."""
        return self.paths[row]


@dataclass(frozen=True, slots=True, eq=False)
class ImageForm:
    """What a model is given.

    Attributes:
        size_px: Height and width; images are squashed to it, by area where they shrink.
        mean: RGB, for values scaled to 0..1.
        std: As `mean`.
        read: Decodes a file to (H, W, 3) BGR or (H, W) grey uint8, or raises FrameError.
    """

    size_px: tuple[int, int]
    mean: PerChannel
    std: PerChannel
    read: Callable[[Path], Image] = read_image

    def preprocess(self) -> Preprocess:
        """How images are resized, before they go to the device."""
        height_px, width_px = self.size_px
        return Preprocess(
            width_px=width_px, height_px=height_px, color="rgb", layout="nchw", dtype="uint8", mean=None, std=None
        )


def batches_of(rows: range, batch_size: int) -> list[range]:
    """Cut rows into batches."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


@torch.no_grad()
def described(
    module: Model,
    paths: ImageRows,
    form: ImageForm,
    batches: Sequence[range],
    fabric: Fabric,
    dim: int,
    workers: int,
) -> Iterator[tuple[range, NDArray[np.float32]]]:
    """Read and describe batch after batch.

    Args:
        module: (B, 3, H, W) float32, normalised, to (B, D), on the device of `fabric`.
        paths: The images.
        form: What the module is given.
        batches: Rows of each batch.
        fabric: Its device and precision hold.
        dim: D.
        workers: Reading processes; 0 reads in this one.

    Yields:
        Rows and (B, D) of each batch, in order; NaN where the image cannot be read.

    Raises:
        InputError: the module gives another dimension, or values that are not finite.
    """
    loader = _loader(paths, form, batches, workers, fabric.device)
    for rows, (images, readable) in zip(batches, loader, strict=True):
        with fabric.autocast():
            found = module(_normalised(images.to(fabric.device, non_blocking=True), form.mean, form.std))
        values = found.float().cpu().numpy()
        if values.shape != (len(rows), dim):
            raise InputError(f"the model gives {values.shape} for {len(rows)} images; expected {(len(rows), dim)}")
        wrong = ~np.isfinite(values).all(axis=1) & readable.numpy()
        if wrong.any():
            path = paths.path(rows[int(np.flatnonzero(wrong)[0])])
            raise InputError(
                f"the model gives values that are not finite for {path}; check its weights and run.precision"
            )
        values[~readable.numpy()] = np.nan
        yield rows, values


def _normalised(images: Tensor, mean: PerChannel, std: PerChannel) -> Tensor:
    as_planes = [images.new_tensor(values, dtype=torch.float32).view(1, 3, 1, 1) for values in (mean, std)]
    return (images.float() / 255 - as_planes[0]) / as_planes[1]


_Read = tuple[Tensor, Tensor]


class _Images(Dataset[_Read]):
    """Rows to images (B, 3, H, W) uint8 and readable (B,); unreadable ones are black."""

    def __init__(self, paths: ImageRows, form: ImageForm) -> None:
        self._paths = paths
        self._preprocess = form.preprocess()
        self._read = form.read

    def __getitem__(self, rows: range) -> _Read:
        black = np.zeros((1, 1, 3), np.uint8)
        found = [self._read_or_none(self._paths.path(row)) for row in rows]
        images = to_model_input([black if image is None else image for image in found], self._preprocess)
        return torch.from_numpy(images), torch.tensor([image is not None for image in found])

    def _read_or_none(self, path: Path) -> Image | None:
        try:
            return self._read(path)
        except FrameError:
            return None


def _loader(
    paths: ImageRows, form: ImageForm, batches: Sequence[range], workers: int, device: torch.device
) -> DataLoader[_Read]:
    return DataLoader(
        _Images(paths, form),
        batch_size=None,
        sampler=batches,
        num_workers=min(workers, len(batches)),
        pin_memory=device.type == "cuda",
        worker_init_fn=_prepare_worker,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # without one, the loader draws from torch's global generator
    )


def _prepare_worker(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends its workers; Ctrl-C reaches them too
    cv2.setNumThreads(0)  # the workers are the parallelism


def _as_it_is(batch: object) -> object:
    return batch


@contextmanager
def evaluating(module: Model) -> Iterator[None]:
    """Evaluation mode inside; afterwards every part is back in the mode that it had."""
    if not isinstance(module, nn.Module):
        yield
        return
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
