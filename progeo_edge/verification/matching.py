"""Local features -> matches: brute force with Lowe's ratio test and cross-check."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError
from progeo_edge.types import LocalFeatures
from progeo_edge.verification import hamming

Matches = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Indices into the query's and the reference's keypoints, the most distinctive match first."""


def match_features(query: LocalFeatures, reference: LocalFeatures, *, ratio: float, cross_check: bool) -> Matches:
    """Nearest neighbours that pass the ratio test (Lowe, IJCV 2004) and, if asked, are nearest both ways.

    Nearest both ways means that no other query keypoint is nearer to the reference keypoint: distances decide, so that
    every search gives the same matches. A reference keypoint is used once, by its most distinctive query keypoint.

    Raises:
        InputError: the features are of different kinds (ORB and SIFT).
    """
    if query.kind != reference.kind:
        raise InputError(
            f"features of kind {query.kind!r} cannot be matched to {reference.kind!r};"
            " run with the verification.detector that the map was made with"
        )
    if len(query) < 2 or len(reference) < 2:
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    distances, neighbours = _nearest(query.descriptors, reference.descriptors, query.kind, 2)
    quality = distances[:, 0] / np.maximum(distances[:, 1], 1e-6)
    passed = np.flatnonzero(distances[:, 0] < ratio * distances[:, 1])
    passed = passed[np.argsort(quality[passed], kind="stable")]
    found = neighbours[passed, 0]
    if cross_check and len(passed):
        # Only the survivors are searched backwards: a fraction of the cost of a full second pass.
        backward = _nearest(reference.descriptors[found], query.descriptors, query.kind, 1)[0][:, 0]
        mutual = backward >= distances[passed, 0]
        passed, found = passed[mutual], found[mutual]
    _, first = np.unique(found, return_index=True)
    first = np.sort(first)
    return passed[first], found[first]


def _nearest(
    a: NDArray[np.uint8], b: NDArray[np.uint8], kind: str, k: int
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    if kind == "orb":
        distances, neighbours = hamming.nearest(a, b, k)
        return distances.astype(np.float32), neighbours
    return _nearest_euclidean(a.astype(np.float32), b.astype(np.float32), k)


def _nearest_euclidean(
    a: NDArray[np.float32], b: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    squared = _squared_distances(a, b)
    rows = np.arange(len(a))[:, None]
    neighbours = np.argpartition(squared, k - 1, axis=1)[:, :k]
    neighbours = neighbours[rows, np.argsort(squared[rows, neighbours], axis=1, kind="stable")]
    return np.sqrt(np.maximum(squared[rows, neighbours], 0.0)), neighbours.astype(np.intp)


def _squared_distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    squared = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2.0 * (a @ b.T)
    return np.asarray(squared, dtype=np.float32)
