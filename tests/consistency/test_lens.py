"""What sticks to the lens, against what is seen from the very same place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from progeo_edge.consistency import StuckToTheLens
from progeo_edge.consistency.lens import _have_neighbours
from progeo_edge.types import LocalFeatures, Status, Verification
from tests.small_world import grid_features

SIZE_PX = (640, 480)
RANDOM = np.random.default_rng(3)


def somewhere(count: int) -> np.ndarray:
    return (RANDOM.random((count, 2)) * SIZE_PX).astype(np.float32)


def seen(*groups_px: np.ndarray) -> LocalFeatures:
    points = np.concatenate(groups_px)
    return replace(grid_features(len(points), SIZE_PX), keypoints_px=points)


def closure(query_px: np.ndarray, reference_px: np.ndarray) -> Verification:
    return Verification(Status.ACCEPTED, query_px=query_px, reference_px=reference_px)


def after(*keyframes: LocalFeatures) -> StuckToTheLens:
    lens = StuckToTheLens()
    for features in keyframes:
        lens.remember(features)
    return lens


def test_specks_that_are_there_in_every_keyframe_are_no_place():
    dirt = somewhere(80)
    lens = after(*(seen(dirt[RANDOM.random(80) < 0.5], somewhere(700)) for _ in range(3)))
    assert lens.explains(closure(dirt + 0.1, dirt), SIZE_PX)


def test_the_very_same_pose_passes_because_the_way_there_looked_different():
    scene = somewhere(700)
    lens = after(*(seen(somewhere(700)) for _ in range(3)))
    assert not lens.explains(closure(scene[:300], scene[:300] + 0.1), SIZE_PX)


def test_a_place_seen_from_beside_passes_even_through_dirt():
    dirt, scene = somewhere(40), somewhere(200)
    lens = after(seen(dirt, somewhere(700)))
    moved = closure(np.concatenate([dirt, scene]), np.concatenate([dirt, scene + 12.0]))
    assert not lens.explains(moved, SIZE_PX)


def test_nothing_is_said_without_earlier_keyframes_or_inliers():
    dirt = somewhere(80)
    assert not after().explains(closure(dirt, dirt), SIZE_PX)
    assert not after(seen(dirt)).explains(Verification(Status.ACCEPTED), SIZE_PX)
    assert not after(seen(dirt)).explains(closure(dirt, dirt), (320, 240))


@pytest.mark.parametrize("within_px", [0.25, 1.0, 3.0])
def test_neighbours_are_those_within_the_distance(within_px):
    rng = np.random.default_rng(0)
    points_px, others_px = (rng.uniform(0, 40, (count, 2)).astype(np.float32) for count in (300, 200))
    distances_px = np.linalg.norm(points_px[:, None].astype(float) - others_px[None], axis=2)
    expected = distances_px.min(axis=1) < within_px
    assert expected.sum() > 0 and np.array_equal(_have_neighbours(points_px, others_px, within_px), expected)
