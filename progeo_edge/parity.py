"""How far two computations of the same descriptors are apart, measured in what matters: the distance between places.

A cosine alone hides a collapsed model: where all places have cosine 0.9999, an error of 0.999 is ten times the distance
between places. So errors are divided by that distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError

_SMALLEST = 1e-12
"""Below this a norm or a distance is rounding."""


@dataclass(frozen=True, slots=True)
class InterplaceLoss:
    """Share of the distance between places that a computation loses.

    Attributes:
        mean: Mean over the images of (1 - cosine to the reference) / (1 - `mean_cosine_between_places`).
        max: The same of the worst image.
        mean_cosine_between_places: Mean cosine of the reference descriptors over all pairs of different places; near 1
            the model has collapsed.
    """

    mean: float
    max: float
    mean_cosine_between_places: float


def cosines(reference: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) cosines of row pairs in double precision; NaN where a row is zero or not finite.

    Args:
        reference: (N, D) descriptors.
        other: (N, D) descriptors of the same images.

    Raises:
        InputError: shapes differ, or there is no row.
    """
    if reference.shape != other.shape or reference.ndim != 2 or len(reference) == 0:
        raise InputError(
            f"descriptors have shapes {reference.shape} and {other.shape}; expected the same (N, D), N at least 1"
        )
    return np.asarray(np.einsum("nd,nd->n", _unit(reference), _unit(other)), dtype=np.float64)


def interplace_loss(
    reference: NDArray[np.float32], other: NDArray[np.float32], different_places: NDArray[np.bool_]
) -> InterplaceLoss:
    """How much of the distance between places another precision or backend loses.

    Args:
        reference: (N, D) descriptors of the FP32 model.
        other: (N, D) descriptors of the same images by the computation in question.
        different_places: (N, N), True where two images show different places.

    Raises:
        InputError: shapes differ, or no two images show different places.
    """
    distance = 1.0 - cosines(reference, other)
    if different_places.shape != (len(reference), len(reference)) or not different_places.any():
        raise InputError(
            f"different_places has shape {different_places.shape} and {int(different_places.sum())} pairs; expected "
            f"({len(reference)}, {len(reference)}) with at least one pair of different places"
        )
    rows = _unit(reference)
    between = float((rows @ rows.T)[different_places].mean())
    loss = distance / max(1.0 - between, _SMALLEST)
    return InterplaceLoss(mean=float(loss.mean()), max=float(loss.max()), mean_cosine_between_places=between)


def recall_at_1(queries: NDArray[np.float32], database: NDArray[np.float32], same_place: NDArray[np.bool_]) -> float:
    """Share of queries whose nearest database descriptor shows the same place.

    Args:
        queries: (Q, D) descriptors.
        database: (M, D) descriptors.
        same_place: (Q, M), True where a query and a database image show the same place. Queries without any such image
            are not counted.

    Raises:
        InputError: shapes do not fit, or no query counts.
    """
    counted = same_place.any(axis=1) if same_place.ndim == 2 else np.zeros(0, dtype=np.bool_)
    if same_place.shape != (len(queries), len(database)) or not counted.any():
        raise InputError(
            f"same_place has shape {same_place.shape} with {int(counted.sum())} queries that have a match; expected "
            f"({len(queries)}, {len(database)}) with at least one"
        )
    similarity = _unit(queries) @ _unit(database).T
    similarity[np.isnan(similarity)] = -np.inf
    hits = same_place[np.arange(len(queries)), similarity.argmax(axis=1)]
    # A query that has no finite similarity found nothing, whichever row argmax names.
    hits = hits & np.isfinite(similarity).any(axis=1)
    return float(hits[counted].mean())


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows of norm 1 in double precision; NaN for rows that are zero or not finite."""
    values = rows.astype(np.float64)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    usable = np.isfinite(norms) & (norms > _SMALLEST)
    return np.asarray(np.where(usable, values / np.where(usable, norms, 1.0), np.nan))
