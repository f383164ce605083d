from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progeo_edge.bundle import Preprocess
from progeo_edge.errors import InputError
from progeo_edge.preprocess import to_model_input
from tests.tiny_encoder import FOREIGN_PREPROCESS, TINY_PREPROCESS


def spec(**fields: Any) -> Preprocess:
    return Preprocess.model_validate({**TINY_PREPROCESS.model_dump(), **fields})


def noise(height: int, width: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_image_of_the_right_size_passes_untouched():
    images = [noise(48, 64, seed) for seed in range(3)]
    result = to_model_input(images, TINY_PREPROCESS)
    assert result.dtype == np.uint8 and result.flags.c_contiguous
    np.testing.assert_array_equal(result, np.stack(images))


def test_rgb_nchw_float_is_what_torchvision_computes():
    image = noise(48, 64)
    result = to_model_input([image], FOREIGN_PREPROCESS)
    assert result.shape == (1, 3, 48, 64) and result.dtype == np.float32 and result.flags.c_contiguous
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (image[:, :, ::-1] / 255.0 - mean) / std
    np.testing.assert_allclose(result[0], expected.transpose(2, 0, 1), atol=2e-6)


def test_float_without_statistics_is_zero_to_one():
    image = noise(48, 64)
    result = to_model_input([image], spec(dtype="float32"))
    np.testing.assert_allclose(result[0], image / 255.0, atol=1e-7)


def test_grey_is_expanded():
    grey = noise(100, 90)[:, :, 0]
    result = to_model_input([grey], TINY_PREPROCESS)
    np.testing.assert_array_equal(result, to_model_input([np.dstack([grey] * 3)], TINY_PREPROCESS))


def test_shrinking_averages_areas():
    image = noise(48 * 5, 64 * 5)
    blocks = image.reshape(48, 5, 64, 5, 3).mean(axis=(1, 3))
    result = to_model_input([image], spec(resize="area_or_linear"))[0]
    assert np.abs(result - blocks).max() <= 0.5 + 1e-6
    nearly = to_model_input([image], TINY_PREPROCESS)[0]
    assert np.abs(nearly - blocks).mean() < 7  # the fast form of it, on noise, which is the worst there is
    aliased = to_model_input([image], spec(resize="linear"))[0]
    assert np.abs(aliased - blocks).mean() > 20


@pytest.mark.parametrize("policy", ["area_or_cubic", "area_or_linear"])
def test_an_axis_that_shrinks_is_averaged_while_the_other_grows(policy: str):
    image = np.repeat(noise(24, 90)[:, :, :1], 3, axis=2)  # too short for anything but the exact average
    columns = image.reshape(24, 30, 3, 3).mean(axis=2).round().astype(np.uint8)
    interpolation = cv2.INTER_CUBIC if policy == "area_or_cubic" else cv2.INTER_LINEAR
    expected = cv2.resize(columns, (30, 48), interpolation=interpolation)
    result = to_model_input([image], spec(resize=policy, width_px=30))[0]
    assert np.abs(result.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("policy", ["area_or_cubic", "area_or_linear", "cubic", "linear"])
def test_growing_interpolates_as_named(policy: str):
    image = noise(20, 30)
    interpolation = cv2.INTER_CUBIC if policy.endswith("cubic") else cv2.INTER_LINEAR
    expected = cv2.resize(image, (64, 48), interpolation=interpolation)
    np.testing.assert_array_equal(to_model_input([image], spec(resize=policy))[0], expected)


def test_crop_keeps_the_centre():
    image = np.zeros((96, 200, 3), np.uint8)
    image[:, 36:164] = noise(96, 128)
    cropped = to_model_input([image], spec(aspect="crop"))
    np.testing.assert_array_equal(cropped, to_model_input([image[:, 36:164]], TINY_PREPROCESS))
    tall = np.zeros((500, 64, 3), np.uint8)
    tall[226:274] = noise(48, 64)
    np.testing.assert_array_equal(to_model_input([tall], spec(aspect="crop"))[0], tall[226:274])


def test_pad_adds_black_borders_and_keeps_the_aspect():
    image = np.full((100, 100, 3), 200, np.uint8)
    result = to_model_input([image], spec(aspect="pad"))[0]
    assert np.all(result[:, 8:56] == 200)
    assert not result[:, :8].any() and not result[:, 56:].any()


@pytest.mark.parametrize("aspect", ["squash", "crop", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (1, 5000, 3), (5000, 1), (4320, 7680, 3)])
def test_one_pixel_and_8k(shape: tuple[int, ...], aspect: str):
    result = to_model_input([np.full(shape, 77, np.uint8)], spec(aspect=aspect))
    assert result.shape == (1, 48, 64, 3)
    assert set(np.unique(result)) == ({0, 77} if aspect == "pad" else {77})


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint16),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int8),
        np.zeros((4, 4, 3), bool),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0), np.uint8),
    ],
    ids=lambda image: f"{image.dtype}{image.shape}",
)
def test_other_arrays_are_refused_by_shape_and_type(image: np.ndarray[Any, Any]):
    with pytest.raises(InputError) as caught:
        to_model_input([noise(4, 4), image], TINY_PREPROCESS)
    assert str(image.shape) in str(caught.value) and str(image.dtype) in str(caught.value)


def test_what_is_no_array_is_refused():
    with pytest.raises(InputError, match="NoneType"):
        to_model_input([None], TINY_PREPROCESS)  # type: ignore[list-item]


def test_no_images_give_an_empty_batch():
    assert to_model_input([], FOREIGN_PREPROCESS).shape == (0, 3, 48, 64)


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    value=st.integers(0, 255),
    policy=st.sampled_from(["area_or_cubic", "area_or_linear", "cubic", "linear"]),
    aspect=st.sampled_from(["squash", "crop"]),
    view=st.booleans(),
)
def test_a_flat_image_stays_flat(height: int, width: int, value: int, policy: str, aspect: str, view: bool):
    image = np.full((height, width, 3), value, np.uint8)
    image = image[::-1, :, ::-1] if view else image
    result = to_model_input([image], spec(resize=policy, aspect=aspect))
    assert result.shape == (1, 48, 64, 3)
    assert np.all(result == value)
