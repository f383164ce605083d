from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progeo_edge.shrinking import Plan, plan, shrink

LENGTHS = st.integers(1, 1400)


def picture(height, width, seed=0):
    """Soft colours with hard edges and noise: every frequency is there."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
    image[:: height // 9] //= 2
    image[:, :: width // 16] //= 2
    return np.clip(image + rng.integers(-20, 21, image.shape), 0, 255).astype(np.uint8)


def area(row, target):
    """(target,) exact averages over the areas that the pixels of the smaller row cover."""
    edges = np.linspace(0, len(row), target + 1)
    sums = np.interp(edges, np.arange(len(row) + 1), np.concatenate([[0.0], np.cumsum(row, dtype=float)]))
    return np.diff(sums) / np.diff(edges)


@settings(max_examples=80, deadline=None)
@given(LENGTHS, LENGTHS, st.integers(1, 300), st.integers(1, 300), st.integers(0, 255))
def test_what_is_flat_stays_flat(height, width, target_height, target_width, value):
    size = min(width, target_width), min(height, target_height)
    result = shrink(np.full((height, width), value, np.uint8), *size)
    assert result.shape == size[::-1] and result.dtype == np.uint8
    assert np.all(result == value)


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(1, 300), st.integers(0, 255), st.integers(0, 255), st.booleans())
def test_ramps_are_averaged_to_the_rounding(length, target, start, end, upright):
    row = np.rint(np.linspace(start, end, length)).astype(np.uint8)
    image = np.repeat(row[None], 500, axis=0)
    target = min(target, length)
    found = shrink(image.T.copy(), 200, target).T if upright else shrink(image, target, 200)
    # Halving, mixing and sampling round to whole grey levels each.
    assert np.abs(found - area(row, target)).max() <= 2.0


@pytest.mark.parametrize(
    ("size", "target"),
    [((1280, 720), 224), ((640, 480), 224), ((1920, 1080), 224), ((1280, 720), 96), ((640, 480), 96)],
)
def test_what_is_finer_than_the_result_does_not_come_back_as_a_pattern(size, target):
    stripes = np.zeros((size[1], size[0]), np.uint8)
    stripes[:, ::2] = 255
    stripes[::2] = 255 - stripes[::2]
    aliased = cv2.resize(stripes, (target, target), interpolation=cv2.INTER_LINEAR)
    assert shrink(stripes, target, target).std() < 5.0 and aliased.std() > 30.0


@pytest.mark.parametrize("shape", [(720, 1280), (480, 640), (1080, 1920), (360, 480), (426, 640)])
def test_pictures_come_out_as_from_averages_over_areas(shape):
    image = picture(*shape)
    exact = cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA).astype(float)
    aliased = cv2.resize(image, (224, 224), interpolation=cv2.INTER_LINEAR).astype(float)
    error = np.sqrt(np.mean((shrink(image, 224, 224) - exact) ** 2))
    assert error < 3.0 and error < 0.5 * np.sqrt(np.mean((aliased - exact) ** 2))


def test_colours_are_shrunk_one_by_one_and_views_as_copies():
    image = picture(720, 1280)
    found = shrink(image, 224, 224)
    for channel in range(3):
        alone = shrink(image[..., channel].copy(), 224, 224)
        assert np.abs(found[..., channel].astype(int) - alone).max() <= 1  # OpenCV rounds by where a vector ends
    np.testing.assert_array_equal(shrink(image[::-1, ::-1], 224, 224), shrink(image[::-1, ::-1].copy(), 224, 224))


@pytest.mark.parametrize("shape", [(720, 1280), (480, 640), (481, 643), (3000, 40)])
def test_the_image_itself_stays_as_it_was(shape):
    image = picture(*shape) if min(shape) > 100 else np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    before = image.copy()
    shrink(image, min(224, shape[1]), 224)
    np.testing.assert_array_equal(image, before)


def test_sides_are_planned_one_by_one():
    assert plan(1280, 224) == Plan(1, 640, 85)
    assert plan(720, 224) == Plan(1, 360, 28)
    assert plan(224, 224) is None and plan(100, 224) is None
    assert plan(1281, 224) is None  # odd, and too long for one step
    assert plan(641, 224) == Plan(0, 641, 85)
    assert plan(120, 60) == Plan(0, 120, 43) and plan(90, 45) is None
