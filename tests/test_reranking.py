from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from progeo_edge.errors import InputError
from progeo_edge.reranking import (
    APPEARANCE_LENGTH,
    CELL_PX,
    GRID_COLUMNS,
    GRID_ROWS,
    SHIFTS_CELLS,
    appearance_similarity,
    describe_appearance,
    rerank_scores,
)
from progeo_edge.types import Image

WIDTH_PX, HEIGHT_PX = GRID_COLUMNS * CELL_PX, GRID_ROWS * CELL_PX


def scene(seed: int, width_px: int = WIDTH_PX, height_px: int = HEIGHT_PX) -> Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height_px // 12, width_px // 12), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_CUBIC), np.uint8)


def grids(*images: Image) -> NDArray[np.uint8]:
    return np.stack([describe_appearance(image) for image in images])


def brute_force(query: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Pearson-like correlation, centred per orientation, cell by cell."""
    shape = (GRID_ROWS, GRID_COLUMNS, 8)
    best = -1.0
    for shift in SHIFTS_CELLS:
        columns = [c for c in range(GRID_COLUMNS) if 0 <= c - shift < GRID_COLUMNS]
        q = query.reshape(shape)[:, columns].astype(np.float64)
        r = reference.reshape(shape)[:, [c - shift for c in columns]].astype(np.float64)
        q, r = q - q.mean(axis=(0, 1)), r - r.mean(axis=(0, 1))
        best = max(best, float((q * r).sum() / np.sqrt((q * q).sum() * (r * r).sum())))
    return best


def test_the_grid_is_small_flat_and_repeats():
    grid = describe_appearance(scene(0))
    assert grid.shape == (APPEARANCE_LENGTH,)
    assert grid.dtype == np.uint8
    assert grid.nbytes <= 5000
    np.testing.assert_array_equal(grid, describe_appearance(scene(0)))
    assert len(np.unique(grid)) > 50


def test_grey_equals_grey_stored_as_bgr():
    grey = scene(1)
    np.testing.assert_array_equal(*grids(grey, np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)))


def test_an_edge_fills_the_cells_and_the_orientation_it_has():
    step = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    step[:, WIDTH_PX // 2 + CELL_PX // 2 :] = 200
    grid = describe_appearance(step).reshape(GRID_ROWS, GRID_COLUMNS, 8)
    assert np.all(grid[:, GRID_COLUMNS // 2, 0] > 200)
    grid[:, GRID_COLUMNS // 2, 0] = 0
    assert not grid.any()


def test_similarity_is_one_with_itself_and_low_with_another_scene():
    references = grids(*(scene(seed) for seed in range(6)))
    similarities = appearance_similarity(references[2], references)
    assert similarities.shape == (6,)
    assert similarities.dtype == np.float32
    assert similarities[2] == pytest.approx(1.0, abs=1e-5)
    assert np.delete(similarities, 2).max() < 0.5


@pytest.mark.parametrize("shift_cells", SHIFTS_CELLS)
def test_a_shifted_view_beats_another_scene(shift_cells: int):
    wide = scene(3, WIDTH_PX + 8 * CELL_PX)
    middle = 4 * CELL_PX
    image = wide[:, middle : middle + WIDTH_PX]
    start = middle + shift_cells * CELL_PX
    shifted, other = wide[:, start : start + WIDTH_PX], scene(4)
    moved, different = appearance_similarity(describe_appearance(image), grids(shifted, other))
    assert moved > 0.9
    assert moved > different + 0.4


def test_the_shifts_are_what_finds_a_shifted_view(monkeypatch: pytest.MonkeyPatch):
    wide = scene(5, WIDTH_PX + 4 * CELL_PX)
    query, reference = describe_appearance(wide[:, :WIDTH_PX]), grids(wide[:, 4 * CELL_PX :])
    with_shifts = appearance_similarity(query, reference)[0]
    monkeypatch.setattr("progeo_edge.reranking.SHIFTS_CELLS", (0,))
    assert with_shifts > appearance_similarity(query, reference)[0] + 0.4


def test_equals_the_plain_formula():
    references = grids(*(scene(seed) for seed in range(4)))
    expected = [brute_force(references[0], reference) for reference in references]
    np.testing.assert_allclose(appearance_similarity(references[0], references), expected, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 16, 255]))
def test_bounded_and_symmetric_for_any_grids(seed: int, levels: int):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, levels + 1, (2, APPEARANCE_LENGTH))).astype(np.uint8)
    forth, back = appearance_similarity(a, b[None])[0], appearance_similarity(b, a[None])[0]
    assert -1.0 <= forth <= 1.0
    assert forth == pytest.approx(back, abs=1e-5)


def test_a_blank_image_resembles_nothing():
    blank, other = grids(np.full((1, 1), 90, np.uint8), scene(6))
    assert not blank.any()
    np.testing.assert_array_equal(appearance_similarity(blank, np.stack([blank, other])), [0.0, 0.0])
    np.testing.assert_array_equal(appearance_similarity(other, blank[None]), [0.0])
    constant = np.full(APPEARANCE_LENGTH, 7, np.uint8)
    np.testing.assert_array_equal(appearance_similarity(constant, constant[None]), [0.0])
    np.testing.assert_array_equal(appearance_similarity(other, constant[None]), [0.0])


def test_no_references_give_no_similarities():
    grid = describe_appearance(scene(7))
    assert appearance_similarity(grid, np.empty((0, APPEARANCE_LENGTH), np.uint8)).shape == (0,)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (97, 54, 3), (2160, 3840)])
def test_any_size_is_described(shape: tuple[int, ...]):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert describe_appearance(image).shape == (APPEARANCE_LENGTH,)


def test_the_size_of_the_image_hardly_matters():
    large = scene(8, 4 * WIDTH_PX, 4 * HEIGHT_PX)
    small = np.asarray(cv2.resize(large, (2 * WIDTH_PX, 2 * HEIGHT_PX), interpolation=cv2.INTER_AREA), np.uint8)
    references = grids(small)
    assert appearance_similarity(describe_appearance(large), references)[0] > 0.9


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint16), np.zeros((8, 8, 4), np.uint8), np.zeros((0, 3), np.uint8)]
)
def test_other_images_are_refused(image: Any):
    with pytest.raises(InputError, match="expected"):
        describe_appearance(image)


@pytest.mark.parametrize(
    ("query", "references"),
    [
        (np.zeros(10, np.uint8), np.zeros((2, 10), np.uint8)),
        (np.zeros(APPEARANCE_LENGTH, np.uint8), np.zeros(APPEARANCE_LENGTH, np.uint8)),
        (np.zeros(APPEARANCE_LENGTH, np.uint8), np.zeros((2, 10), np.uint8)),
        (np.zeros(APPEARANCE_LENGTH, np.float32), np.zeros((2, APPEARANCE_LENGTH), np.uint8)),
        (np.zeros(APPEARANCE_LENGTH, np.uint8), np.zeros((2, APPEARANCE_LENGTH), np.float32)),
    ],
)
def test_other_grids_are_refused(query: Any, references: Any):
    with pytest.raises(InputError, match="describe_appearance"):
        appearance_similarity(query, references)


def test_scores_are_the_weighted_sum():
    cosines, looks = np.array([0.8, 0.5], np.float32), np.array([0.0, 1.0], np.float32)
    np.testing.assert_allclose(rerank_scores(cosines, looks, 0.25), [0.6, 0.625])
    np.testing.assert_array_equal(rerank_scores(cosines, looks, 0.0), cosines)
    np.testing.assert_array_equal(rerank_scores(cosines, looks, 1.0), looks)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_out_of_range_is_refused(weight: float):
    with pytest.raises(InputError, match="rerank_weight"):
        rerank_scores(np.zeros(2, np.float32), np.zeros(2, np.float32), weight)


def test_scores_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="shapes"):
        rerank_scores(np.zeros(2, np.float32), np.zeros(3, np.float32), 0.2)
