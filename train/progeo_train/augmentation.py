"""Random changes of training images on the training device: colours, then a crop that is resized back.

Definitions are torchvision's ColorJitter and RandomResizedCrop, with other parameters for every image of a batch. The
parameters are a function of (seed, epoch, iteration, sample), so that a resumed run, and any number of processes, see
the same pictures.

Brightness, contrast and saturation are one operation: a blend of the image with black, with its mean grey, or with
its grey version. So a batch takes three blends, with other coefficients per image, and one turn of the hue before,
between or after them, whatever the orders that were drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from progeo_train.config import AugmentationConfig, PerChannel

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
GREY_WEIGHTS = (0.2989, 0.587, 0.114)
ASPECT_RANGE = (3 / 4, 4 / 3)
CROP_TRIES = 10

_STREAM = 0x61756775  # keeps these numbers apart from others drawn with the same seed
_FLOATS_PER_IMAGE = 4 + 4 + 2 * CROP_TRIES + 2


@dataclass(frozen=True, slots=True)
class Draws:
    """What happens to each image of a batch.

    Attributes:
        order: (B, 4) int64, the operations in the order in which they are applied: BRIGHTNESS, CONTRAST, SATURATION
            and HUE, each once.
        factors: (B, 3) float64 of brightness, contrast and saturation; 1 changes nothing.
        hue_turns: (B,) float64 in [-0.5, 0.5], share of the hue circle.
        boxes_px: (B, 4) int64: top, left, height and width of the crop.
    """

    order: NDArray[np.int64]
    factors: NDArray[np.float64]
    hue_turns: NDArray[np.float64]
    boxes_px: NDArray[np.int64]


def augment(
    images: Tensor,
    samples: Tensor,
    *,
    seed: int,
    epoch: int,
    iteration: int,
    config: AugmentationConfig,
    mean: PerChannel,
    std: PerChannel,
) -> Tensor:
    """Change each image at random and normalise it.

    Args:
        images: (B, 3, H, W) uint8 RGB.
        samples: (B,) int64 place of each image in the whole batch of all processes.
        seed: Of the run.
        epoch: From 0.
        iteration: Of the epoch, from 0.
        config: Strengths; with all of them 0 and a crop area of 1 the result equals `normalise`.
        mean: RGB, for values scaled to 0..1.
        std: As `mean`.

    Returns:
        (B, 3, H, W) float32 on the device of `images`.
    """
    height_px, width_px = images.shape[-2:]
    draws = draw(
        samples.cpu().numpy(), (height_px, width_px), seed=seed, epoch=epoch, iteration=iteration, config=config
    )
    # On a CPU one image at a time stays in the cache; on a GPU the fewest kernels win.
    at_once = 1 if images.device.type == "cpu" else len(images)
    parts = [
        apply(images[first : first + at_once], _rows(draws, first, at_once), mean, std)
        for first in range(0, len(images), at_once)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else normalise(images, mean, std)


@torch.no_grad()
def apply(images: Tensor, draws: Draws, mean: PerChannel, std: PerChannel) -> Tensor:
    """Colours, crop, normalisation, with given parameters.

    Args:
        images: (B, 3, H, W) uint8 RGB.
        draws: For B images.
        mean: RGB, for values scaled to 0..1.
        std: As `mean`.

    Returns:
        (B, 3, H, W) float32.
    """
    changed = _jitter(_to_unit_range(images), draws)
    return _normalise(_crop(changed, draws.boxes_px), mean, std)


def normalise(images: Tensor, mean: PerChannel, std: PerChannel) -> Tensor:
    """Scale to 0..1, subtract the mean and divide by the standard deviation: (B, 3, H, W) uint8 to float32."""
    return _normalise(_to_unit_range(images), mean, std)


def draw(
    samples: NDArray[np.int64],
    size_px: tuple[int, int],
    *,
    seed: int,
    epoch: int,
    iteration: int,
    config: AugmentationConfig,
) -> Draws:
    """Parameters of a batch.

    Args:
        samples: (B,) place of each image in the whole batch of all processes.
        size_px: Height and width of the images.
        seed: Of the run.
        epoch: From 0.
        iteration: Of the epoch, from 0.
        config: Strengths.
    """
    uniform = _uniform(samples, seed, epoch, iteration)
    strengths = np.array([config.brightness, config.contrast, config.saturation])
    low, high = np.maximum(0.0, 1.0 - strengths), 1.0 + strengths
    return Draws(
        order=np.argsort(uniform[:, :4], axis=1),
        factors=low + (high - low) * uniform[:, 4:7],
        hue_turns=config.hue * (2.0 * uniform[:, 7] - 1.0),
        boxes_px=_draw_boxes(uniform[:, 8:], size_px, config.min_crop_area),
    )


def _uniform(samples: NDArray[np.int64], seed: int, epoch: int, iteration: int) -> NDArray[np.float64]:
    """(B, n) numbers in [0, 1): a counter-based generator gives each image a stretch of its own."""
    key = np.random.SeedSequence((seed, _STREAM)).generate_state(2, np.uint64)
    uniform = np.empty((len(samples), _FLOATS_PER_IMAGE))
    for row, sample in enumerate(samples.tolist()):
        counter = np.array([0, sample, iteration, epoch], np.uint64)
        uniform[row] = np.random.Generator(np.random.Philox(key=key, counter=counter)).random(_FLOATS_PER_IMAGE)
    return uniform


def _draw_boxes(uniform: NDArray[np.float64], size_px: tuple[int, int], min_area: float) -> NDArray[np.int64]:
    """Area uniform, aspect log-uniform, the first of ten tries that fits, else the largest central box.

    Unlike torchvision's, a smallest area of 1 means the whole image, also where its aspect is out of range.
    """
    image_height, image_width = size_px
    if min_area == 1.0:
        return np.tile(np.array([0, 0, image_height, image_width], np.int64), (len(uniform), 1))
    tries, corner = uniform[:, : 2 * CROP_TRIES].reshape(-1, CROP_TRIES, 2), uniform[:, 2 * CROP_TRIES :]
    area = image_height * image_width * (min_area + (1.0 - min_area) * tries[..., 0])
    log_low, log_high = math.log(ASPECT_RANGE[0]), math.log(ASPECT_RANGE[1])
    aspect = np.exp(log_low + (log_high - log_low) * tries[..., 1])
    height, width = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    fits = (height > 0) & (height <= image_height) & (width > 0) & (width <= image_width)
    first, row = fits.argmax(axis=1), np.arange(len(fits))
    height, width = height[row, first], width[row, first]
    top, left = (np.floor(corner * np.stack([image_height - height + 1, image_width - width + 1], axis=1))).T
    boxes = np.stack([top, left, height, width], axis=1).astype(np.int64)
    boxes[~fits.any(axis=1)] = _central_box(size_px)
    return boxes


def _central_box(size_px: tuple[int, int]) -> tuple[int, int, int, int]:
    height, width = size_px
    if width / height < ASPECT_RANGE[0]:
        height = round(width / ASPECT_RANGE[0])
    elif width / height > ASPECT_RANGE[1]:
        width = round(height * ASPECT_RANGE[1])
    return (size_px[0] - height) // 2, (size_px[1] - width) // 2, height, width


def _rows(draws: Draws, first: int, count: int) -> Draws:
    rows = slice(first, first + count)
    return Draws(draws.order[rows], draws.factors[rows], draws.hue_turns[rows], draws.boxes_px[rows])


def _jitter(images: Tensor, draws: Draws) -> Tensor:
    """Three blends and one turn of the hue per image, in its order; `images` (B, 3, H, W) in 0..1 is overwritten."""
    blends = draws.order[draws.order != HUE].reshape(-1, 3)
    factors = np.take_along_axis(draws.factors, blends, axis=1)
    others = 1.0 - factors
    coefficients = np.stack([factors, others * (blends == CONTRAST), others * (blends == SATURATION)])
    on_device = torch.from_numpy(coefficients.astype(np.float32)).to(images.device, non_blocking=True)
    blends_before_hue = (draws.order == HUE).argmax(axis=1)
    for step in range(4):
        images = _turn_some_hues(images, np.flatnonzero((blends_before_hue == step) & (draws.hue_turns != 0)), draws)
        if step < 3 and (factors[:, step] != 1).any():
            own, mean_grey, grey = on_device[:, :, step, None, None, None]
            needs_grey = bool(coefficients[1:, :, step].any())
            _blend(images, own, *((mean_grey, grey) if needs_grey else (None, None)))
    return images


def _blend(images: Tensor, own: Tensor, mean_grey: Tensor | None, grey: Tensor | None) -> None:
    """Blend `images` with the mean of their grey versions and with their grey versions; clamp; in place.

    The shares of the three are (B, 1, 1, 1); None for both of the last means zero.
    """
    if mean_grey is None or grey is None:
        images.mul_(own).clamp_(0.0, 1.0)
        return
    shade = images[:, 0:1] * GREY_WEIGHTS[0]
    shade.add_(images[:, 1:2], alpha=GREY_WEIGHTS[1]).add_(images[:, 2:3], alpha=GREY_WEIGHTS[2])
    mean_shade = shade.mean(dim=(1, 2, 3), keepdim=True)
    images.mul_(own).add_(shade.mul_(grey).add_(mean_shade * mean_grey)).clamp_(0.0, 1.0)


def _turn_some_hues(images: Tensor, rows: NDArray[np.intp], draws: Draws) -> Tensor:
    if not len(rows):
        return images
    turns = torch.from_numpy(draws.hue_turns[rows].astype(np.float32)).to(images.device, non_blocking=True)
    turns = turns[:, None, None, None]
    if len(rows) == len(images):
        return _turn_hue(images, turns)
    index = torch.from_numpy(rows).to(images.device, non_blocking=True)
    return images.index_copy_(0, index, _turn_hue(images.index_select(0, index), turns))


def _turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of HSV; value and chroma stay, so largest and smallest channel keep their values.

    Args:
        images: (B, 3, H, W) in 0..1.
        turns: (B, 1, 1, 1), share of the circle.
    """
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    largest = torch.maximum(torch.maximum(red, green), blue)
    smallest = torch.minimum(torch.minimum(red, green), blue)
    chroma = largest - smallest
    # The hue in sixths of the circle: 0 red, 2 green, 4 blue.
    is_red, is_green = largest == red, largest == green
    difference = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    start = torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))
    hue = difference.div_(chroma.clamp(min=torch.finfo(chroma.dtype).tiny)).add_(start).add_(6.0 * turns)
    hue.sub_(hue.div(6.0).floor_().mul_(6.0))
    turned = torch.empty_like(images)
    torch.sub(hue, 3.0, out=turned[:, 0:1]).abs_().sub_(1.0)
    for channel, centre in ((1, 2.0), (2, 4.0)):
        torch.sub(hue, centre, out=turned[:, channel : channel + 1]).abs_().neg_().add_(2.0)
    return turned.clamp_(0.0, 1.0).mul_(chroma).add_(smallest)


def _crop(images: Tensor, boxes_px: NDArray[np.int64]) -> Tensor:
    """Each image's box, resized to the whole image: bilinear, pixel centres at half-integers, edges repeated.

    A box never exceeds the image, so nothing shrinks and torchvision's antialiasing would change nothing.
    """
    height, width = images.shape[-2:]
    if (boxes_px == (0, 0, height, width)).all():
        return images
    rows = torch.from_numpy(_source_coordinates(boxes_px[:, 0], boxes_px[:, 2], height))
    columns = torch.from_numpy(_source_coordinates(boxes_px[:, 1], boxes_px[:, 3], width))
    both = torch.cat([rows, columns], dim=1).to(images.device, non_blocking=True)
    rows, columns = both[:, :height, None], both[:, None, height:]
    shape = (len(images), height, width)
    grid = torch.stack([columns.expand(shape), rows.expand(shape)], dim=-1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _source_coordinates(first: NDArray[np.int64], length: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """(B, size) where each output pixel lies in the source, -1..1 from edge to edge, kept inside the box's pixels."""
    inside = (np.arange(size) + 0.5) / size * length[:, None] - 0.5
    source = first[:, None] + np.clip(inside, 0, length[:, None] - 1)
    coordinates: NDArray[np.float32] = ((2.0 * source + 1.0) / size - 1.0).astype(np.float32)
    return coordinates


def _to_unit_range(images: Tensor) -> Tensor:
    return images.to(torch.float32, memory_format=torch.contiguous_format, copy=True).div_(255.0)


def _normalise(images: Tensor, mean: PerChannel, std: PerChannel) -> Tensor:
    """`images` (B, 3, H, W) in 0..1 is overwritten."""
    constants = torch.tensor([mean, std], device=images.device)[:, :, None, None]
    return images.sub_(constants[0]).div_(constants[1])
