"""Random changes of images: every operation against torchvision's with the same parameters, and what is drawn."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as reference
from torchvision.transforms import RandomResizedCrop

from progeo_train.augmentation import BRIGHTNESS, CONTRAST, HUE, SATURATION, Draws, apply, augment, draw, normalise
from progeo_train.config import IMAGENET_MEAN, IMAGENET_STD, AugmentationConfig

SIZE_PX = (40, 48)
WHOLE = (0, 0, *SIZE_PX)
ADJUST = {
    BRIGHTNESS: reference.adjust_brightness,
    CONTRAST: reference.adjust_contrast,
    SATURATION: reference.adjust_saturation,
    HUE: reference.adjust_hue,
}
UNCHANGED = AugmentationConfig(brightness=0, contrast=0, saturation=0, hue=0, min_crop_area=1)


def pictures(count, size_px=SIZE_PX, seed=0):
    """Noise over a gradient, with stretches of grey, black and white."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 3, *size_px), dtype=np.uint8)
    images[:, :, :8] = images[:, :1, :8]
    images[:, :, 8:10], images[:, :, 10:12] = 0, 255
    return torch.from_numpy(images)


def draws(count, order=(0, 1, 2, 3), factors=(1.0, 1.0, 1.0), hue=0.0, box=WHOLE):
    return Draws(
        order=np.tile(np.array(order), (count, 1)),
        factors=np.tile(np.array(factors, float), (count, 1)),
        hue_turns=np.full(count, hue),
        boxes_px=np.tile(np.array(box), (count, 1)),
    )


def changed(images, given):
    """Without the normalisation."""
    return apply(images, given, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def by_torchvision(images, given):
    """One image after the other, as published."""
    results = []
    for row, image in enumerate(images.float() / 255):
        parameter = [*given.factors[row], given.hue_turns[row]]
        for operation in given.order[row]:
            image = ADJUST[operation](image, float(parameter[operation]))
        results.append(reference.resized_crop(image, *map(int, given.boxes_px[row]), list(image.shape[-2:])))
    return torch.stack(results)


@pytest.mark.parametrize("operation", [BRIGHTNESS, CONTRAST, SATURATION])
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
def test_one_blend_is_torchvisions(operation, factor):
    images, factors = pictures(2), [1.0, 1.0, 1.0]
    factors[operation] = factor
    expected = ADJUST[operation](images.float() / 255, factor)
    torch.testing.assert_close(changed(images, draws(2, factors=factors)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("turn", [-0.5, -0.2, 1e-3, 0.25, 0.5])
def test_turning_the_hue_is_torchvisions(turn):
    images = pictures(2)
    expected = reference.adjust_hue(images.float() / 255, turn)
    torch.testing.assert_close(changed(images, draws(2, hue=turn)), expected, atol=2e-6, rtol=0)


def test_turning_the_hue_is_that_of_the_colour_circle():
    images, turn = pictures(1, (20, 12)), 0.3
    found = changed(images, draws(1, hue=turn, box=(0, 0, 20, 12)))
    for pixel, turned in zip(images.flatten(2)[0].T.tolist(), found.flatten(2)[0].T.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in pixel))
        assert turned == pytest.approx(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), abs=2e-6)


@pytest.mark.parametrize("box", [WHOLE, (0, 0, 30, 30), (10, 18, 30, 30), (3, 5, 29, 41), (39, 47, 1, 1)])
@pytest.mark.parametrize("antialias", [True, False])
def test_the_crop_is_torchvisions(box, antialias):
    images = pictures(2)
    expected = reference.resized_crop(images.float() / 255, *box, list(SIZE_PX), antialias=antialias)
    torch.testing.assert_close(changed(images, draws(2, box=box)), expected, atol=2e-5, rtol=0)


def test_the_chain_in_every_order_is_torchvisions():
    count = 48
    images = pictures(count)
    given = draw(np.arange(count), SIZE_PX, seed=3, epoch=1, iteration=2, config=AugmentationConfig())
    assert len(np.unique(given.order, axis=0)) > 15
    found = changed(images, given)
    torch.testing.assert_close(found, by_torchvision(images, given), atol=5e-5, rtol=0)
    one_by_one = [augment_one(images, given, row) for row in range(count)]
    torch.testing.assert_close(torch.cat(one_by_one), found, atol=1e-6, rtol=0)


def augment_one(images, given, row):
    one = Draws(*(getattr(given, name)[row : row + 1] for name in ("order", "factors", "hue_turns", "boxes_px")))
    return changed(images[row : row + 1], one)


def test_augment_applies_what_is_drawn_and_normalises():
    images, samples = pictures(3), torch.tensor([5, 0, 9])
    found = augmented(images, samples)
    given = draw(samples.numpy(), SIZE_PX, seed=0, epoch=0, iteration=0, config=AugmentationConfig())
    expected = reference.normalize(by_torchvision(images, given), IMAGENET_MEAN, IMAGENET_STD)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=3e-4, rtol=0)


def augmented(images, samples, config=None, *, seed=0, epoch=0, iteration=0):
    return augment(
        images,
        samples,
        seed=seed,
        epoch=epoch,
        iteration=iteration,
        config=config or AugmentationConfig(),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


@pytest.mark.parametrize("size_px", [SIZE_PX, (64, 64), (16, 90), (90, 16)])
def test_nothing_to_change_is_plain_normalisation(size_px):
    images = pictures(4, size_px)
    found = augmented(images, torch.arange(4), UNCHANGED)
    assert torch.equal(found, normalise(images, IMAGENET_MEAN, IMAGENET_STD))


def test_normalise_is_the_formula_and_leaves_its_input():
    images = pictures(2)
    before = images.clone()
    mean, std = np.array(IMAGENET_MEAN)[:, None, None], np.array(IMAGENET_STD)[:, None, None]
    np.testing.assert_allclose(
        normalise(images, IMAGENET_MEAN, IMAGENET_STD), (images.numpy() / 255 - mean) / std, atol=1e-6
    )
    augmented(images, torch.arange(2))
    assert torch.equal(images, before)


def test_channels_last_images_are_welcome():
    images = pictures(3)
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augmented(last, torch.arange(3)), augmented(images, torch.arange(3)))


def test_an_empty_share_is_an_empty_batch():
    assert augmented(pictures(0), torch.arange(0)).shape == (0, 3, *SIZE_PX)


def test_two_processes_see_the_pictures_of_one():
    images = pictures(6)
    whole = augmented(images, torch.arange(6))
    parts = [augmented(images[:3], torch.arange(3)), augmented(images[3:], torch.arange(3, 6))]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"iteration": 1}])
def test_every_step_draws_anew(change):
    where = {"seed": 0, "epoch": 0, "iteration": 0}
    one = draw(np.arange(4), SIZE_PX, **where, config=AugmentationConfig())
    again = draw(np.arange(4), SIZE_PX, **where, config=AugmentationConfig())
    other = draw(np.arange(4), SIZE_PX, **(where | change), config=AugmentationConfig())
    np.testing.assert_array_equal(one.factors, again.factors)
    assert (one.factors != other.factors).all() and (one.hue_turns != other.hue_turns).all()
    assert len(np.unique(one.hue_turns)) == 4


def test_draws_are_uniform_over_their_ranges():
    count = 4000
    config = AugmentationConfig(brightness=0.7, contrast=1.5, saturation=0.2, hue=0.1, min_crop_area=0.5)
    found = draw(np.arange(count), (512, 512), seed=1, epoch=0, iteration=0, config=config)
    values = np.column_stack([found.factors, found.hue_turns])
    low, high = np.array([0.3, 0.0, 0.8, -0.1]), np.array([1.7, 2.5, 1.2, 0.1])
    shares = (values - low) / (high - low)
    assert shares.min() >= 0 and shares.max() <= 1
    for decile in range(1, 10):
        np.testing.assert_allclose((shares < decile / 10).mean(axis=0), decile / 10, atol=0.035)
    _, times = np.unique(found.order, axis=0, return_counts=True)
    assert len(times) == 24
    assert (abs(times - count / 24) < 5 * math.sqrt(count / 24)).all()


@pytest.mark.parametrize("size_px", [(512, 512), (480, 640)])
def test_boxes_follow_torchvisions_distribution(size_px):
    count = 3000
    found = draw(np.arange(count), size_px, seed=1, epoch=0, iteration=0, config=AugmentationConfig()).boxes_px
    torch.manual_seed(0)
    image = torch.empty(3, *size_px)
    expected = [RandomResizedCrop.get_params(image, [0.5, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    assert (found[:, :2] >= 0).all() and (found[:, :2] + found[:, 2:] <= size_px).all()
    spread = np.std(expected, axis=0)
    assert (abs(found.mean(axis=0) - np.mean(expected, axis=0)) < 5 * spread * math.sqrt(2 / count)).all()
    np.testing.assert_allclose(found.std(axis=0), spread, rtol=0.08)
    area = found[:, 2] * found[:, 3] / (size_px[0] * size_px[1])
    assert area.min() > 0.495 and area.max() <= 1


@pytest.mark.parametrize(("size_px", "box"), [((30, 90), (0, 25, 30, 40)), ((90, 30), (25, 0, 40, 30))])
def test_without_a_fitting_box_the_central_one_is_taken(size_px, box):
    config = AugmentationConfig(min_crop_area=0.95)
    found = draw(np.arange(3), size_px, seed=0, epoch=0, iteration=0, config=config).boxes_px
    assert (found == box).all()
    assert box == RandomResizedCrop.get_params(torch.empty(3, *size_px), [0.95, 1.0], [3 / 4, 4 / 3])
