"""Re-ranking of the first candidates by how the images look: a small grid of gradient orientations.

The global descriptor forgets where things stand in the image; this grid keeps it, and so tells look-alike places apart
and survives night and season as long as the view is nearly the same. Histograms of oriented gradients after Dalal and
Triggs (CVPR 2005), compared at a few lateral shifts as in the sequence matching of Milford and Wyeth, "SeqSLAM"
(ICRA 2012). docs/vlad.md gives the figures.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.encoders.vlad import MAP_SCALES, gradient_maps, to_grey
from progeo_edge.errors import InputError
from progeo_edge.types import Image

GRID_COLUMNS, GRID_ROWS = 24, 18
CELL_PX = 8
NUM_ORIENTATIONS = 8
SHIFTS_CELLS = (-4, -2, 0, 2, 4)
APPEARANCE_LENGTH = GRID_ROWS * GRID_COLUMNS * NUM_ORIENTATIONS
NOISE_FLOOR = 2.0
"""Grey levels of mean gradient under which a cell fades to nothing instead of amplifying noise."""


def describe_appearance(image: Image) -> NDArray[np.uint8]:
    """Grid of gradient orientations of a whole image.

    Args:
        image: (H, W, 3) BGR or (H, W) grey uint8 of any size; the aspect is not kept.

    Returns:
        (3456,) uint8: 18 rows x 24 columns x 8 orientations, square roots of the shares of a cell's gradient.

    Raises:
        InputError: not uint8, not of such a shape, or empty.
    """
    resized = _stretch(to_grey(image), GRID_COLUMNS * CELL_PX, GRID_ROWS * CELL_PX)
    maps = np.asarray(cv2.merge(gradient_maps(resized)), np.float32)
    # Every cell is CELL_PX wide, so an area-averaging resize is the mean over a cell.
    cells = cv2.resize(maps, (GRID_COLUMNS, GRID_ROWS), interpolation=cv2.INTER_AREA) * MAP_SCALES
    shares = cells / (cells.sum(axis=-1, keepdims=True) + NOISE_FLOOR)
    return np.asarray(np.rint(255.0 * np.sqrt(shares)), np.uint8).ravel()


def appearance_similarity(query: NDArray[np.uint8], references: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Correlation of appearance grids, the best one over five lateral shifts.

    Args:
        query: (C,) uint8 from `describe_appearance`.
        references: (N, C) uint8; N may be 0.

    Returns:
        (N,) float32 from -1 to 1: 1 for the same grid, about 0 for unrelated ones, 0 where a grid is blank.

    Raises:
        InputError: wrong shape or type.
    """
    _check_grids(query, references)
    shifted_queries, query_norms = _shifted_queries(query)
    covariances = references.astype(np.float32) @ shifted_queries.T
    norms = _overlap_norms(references) * query_norms
    correlations = np.where(norms > 1e-3, covariances / np.maximum(norms, 1e-3), 0.0)
    return np.asarray(np.clip(correlations.max(axis=1), -1.0, 1.0), np.float32)


def rerank_scores(
    similarities: NDArray[np.float32], appearance_similarities: NDArray[np.float32], weight: float
) -> NDArray[np.float32]:
    """Weighted sum that orders the candidates.

    Args:
        similarities: (N,) cosines of the descriptors.
        appearance_similarities: (N,) of `appearance_similarity`.
        weight: Share of the appearance, 0 to 1.

    Returns:
        (N,) float32 (1 - weight) * cosine + weight * appearance.

    Raises:
        InputError: shapes differ or the weight is out of range.
    """
    if similarities.shape != appearance_similarities.shape or similarities.ndim != 1:
        shapes = f"{similarities.shape} and {appearance_similarities.shape}"
        raise InputError(f"similarities have shapes {shapes}; expected twice the same (N,)")
    if not 0.0 <= weight <= 1.0:
        raise InputError(f"re-ranking weight is {weight}; expected 0 to 1, set search.rerank_weight")
    return np.asarray((1.0 - weight) * similarities + weight * appearance_similarities, np.float32)


def _stretch(grey: Image, width_px: int, height_px: int) -> Image:
    shrinks = grey.shape[0] * grey.shape[1] > width_px * height_px
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(grey, (width_px, height_px), interpolation=how), np.uint8)


def _check_grids(query: NDArray[np.uint8], references: NDArray[np.uint8]) -> None:
    right_shape = query.shape == (APPEARANCE_LENGTH,) and references.shape[1:] == query.shape
    if not right_shape or query.dtype != np.uint8 or references.dtype != np.uint8:
        raise InputError(
            f"appearance grids are {query.dtype} {query.shape} and {references.dtype} {references.shape}; expected "
            f"uint8 ({APPEARANCE_LENGTH},) and (N, {APPEARANCE_LENGTH}), make both with describe_appearance"
        )


def _shifted_queries(query: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The query moved to each shift, centred per orientation over the overlap and zero outside: (5, C), norms (5,).

    Because it is centred, its product with a reference is their covariance without centring the reference.
    """
    grid = query.reshape(GRID_ROWS, GRID_COLUMNS, NUM_ORIENTATIONS).astype(np.float32)
    moved = np.zeros((len(SHIFTS_CELLS), *grid.shape), np.float32)
    for row, shift in zip(moved, SHIFTS_CELLS, strict=True):
        inside = grid[:, _overlap(shift)]
        row[:, _overlap(-shift)] = inside - inside.mean(axis=(0, 1))
    flat = moved.reshape(len(SHIFTS_CELLS), -1)
    return flat, np.linalg.norm(flat.astype(np.float64), axis=1)


def _overlap_norms(references: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Norm of each reference, centred per orientation, over the columns each shift leaves: (N, 5)."""
    grids = references.reshape(-1, GRID_ROWS, GRID_COLUMNS, NUM_ORIENTATIONS).astype(np.float32)
    # Sums of up to 144 squared bytes are exact in float32; what is subtracted from each other is float64.
    sums = grids.sum(axis=1).astype(np.float64)
    squares = np.einsum("nrco,nrco->nc", grids, grids).astype(np.float64)
    norms = np.empty((len(grids), len(SHIFTS_CELLS)))
    for column, shift in enumerate(SHIFTS_CELLS):
        inside = _overlap(-shift)
        num_cells = GRID_ROWS * (GRID_COLUMNS - abs(shift))
        energy = squares[:, inside].sum(axis=1) - np.square(sums[:, inside].sum(axis=1)).sum(axis=1) / num_cells
        norms[:, column] = np.sqrt(np.maximum(energy, 0.0))
    return norms


def _overlap(shift: int) -> slice:
    """Columns of a grid that have a partner when the other one lies `shift` columns to the left of it."""
    return slice(max(0, shift), GRID_COLUMNS + min(0, shift))
