"""The resize by matrix products against OpenCV's own."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from progeo_edge.bundle import Preprocess
from progeo_edge.preprocess import to_model_input
from progeo_export.fused_resize import FusedResize
from progeo_export.resize_matrices import area_matrix, cubic_matrix


def scene(height, width, seed=0):
    """Smooth colours, hard edges and noise, so that every frequency is there and cubic kernels overshoot."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).astype(int)
    image[:: max(2, height // 9)] = 255
    image[:, :: max(2, width // 7)] = 0
    return np.clip(image + generator.integers(-20, 21, image.shape), 0, 255).astype(np.uint8)


def resized_by_products(image, target):
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    return FusedResize(image.shape[:2], target)(planes)[0].permute(1, 2, 0).numpy()


def resized_by_runtime(image, target):
    spec = Preprocess(
        height_px=target[0], width_px=target[1], color="bgr", layout="nhwc", dtype="uint8", mean=None, std=None
    )
    return to_model_input([image], spec)[0]


@pytest.mark.parametrize("source, target", [(108, 22), (192, 64), (64, 51), (7, 3), (9, 9), (10, 1), (100, 99)])
def test_area_matrix_is_the_mean_over_the_covered_stretch(source, target):
    matrix = area_matrix(source, target)
    fine = np.repeat(np.eye(source), target, axis=0)  # each pixel split into `target` parts
    expected = fine.reshape(target, source, source).mean(axis=1)
    np.testing.assert_allclose(matrix, expected, atol=2e-3)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


def test_area_matrix_refuses_to_enlarge():
    with pytest.raises(ValueError, match="shrinks"):
        area_matrix(3, 4)


@pytest.mark.parametrize("source, target", [(5, 13), (48, 64), (100, 101), (1, 4), (2, 9)])
def test_cubic_matrix_is_opencvs_kernel(source, target):
    columns = np.eye(source, dtype=np.float32)
    expected = cv2.resize(columns, (source, target), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(cubic_matrix(source, target), expected, atol=1e-5)


# OpenCV interpolates in fixed point: a pixel may come out one step of 256 away, and no further.
@pytest.mark.parametrize(
    "source, target, share_off_by_one",
    [
        ((1080, 1920), (64, 64), 0.05),
        ((1080, 1920), (224, 320), 0.05),
        ((480, 640), (120, 160), 0.05),
        ((128, 96), (64, 48), 0.05),  # halved
        ((100, 64), (64, 64), 0.05),  # one axis only
        ((40, 200), (64, 64), 0.05),  # enlarge the height, shrink the width
        ((200, 40), (64, 64), 0.05),
        ((90, 95), (31, 40), 0.002),  # odd: averaged exactly
        ((40, 50), (64, 96), 0.05),  # enlarge both
        ((64, 64), (64, 64), 0.0),
    ],
)
def test_products_equal_the_runtimes_resize(source, target, share_off_by_one):
    image = scene(*source)
    found, expected = resized_by_products(image, target), resized_by_runtime(image, target)
    difference = np.abs(found - expected.astype(float))
    assert found.shape == expected.shape
    assert difference.max() <= 1
    assert (difference > 0).mean() <= share_off_by_one
