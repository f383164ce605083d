from __future__ import annotations

import numpy as np
import pytest

from progeo_edge.errors import InputError
from progeo_edge.types import LocalFeatures
from progeo_edge.verification.matching import match_features

WIDTH = {"orb": 32, "sift": 128}


def features(descriptors, kind):
    count = len(descriptors)
    return LocalFeatures(
        kind,
        np.zeros((count, 2), dtype=np.float32),
        np.full(count, 31, dtype=np.float32),
        np.asarray(descriptors, dtype=np.uint8),
        (640, 480),
    )


def random_descriptors(count, kind, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, WIDTH[kind]), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["orb", "sift"])
@pytest.mark.parametrize("cross_check", [True, False])
def test_shuffled_descriptors_find_each_other(kind, cross_check):
    reference = random_descriptors(200, kind)
    order = np.random.default_rng(1).permutation(200)
    query = reference[order] ^ np.eye(200, WIDTH[kind], dtype=np.uint8)
    in_query, in_reference = match_features(
        features(query, kind), features(reference, kind), ratio=0.8, cross_check=cross_check
    )
    assert len(in_query) == 200
    np.testing.assert_array_equal(in_reference, order[in_query])


@pytest.mark.parametrize("kind", ["orb", "sift"])
def test_two_equally_near_neighbours_are_no_match(kind):
    one = random_descriptors(1, kind)
    reference = np.vstack([one, one, random_descriptors(5, kind, 2)])
    in_query, _ = match_features(
        features(np.vstack([one, one]), kind), features(reference, kind), ratio=0.8, cross_check=True
    )
    assert len(in_query) == 0


@pytest.mark.parametrize("cross_check", [True, False])
def test_a_reference_keypoint_is_used_once_by_its_best(cross_check):
    reference = random_descriptors(50, "orb")
    near, nearer = reference[7].copy(), reference[7].copy()
    near[:2] ^= 255
    nearer[0] ^= 1
    query = np.vstack([near, nearer, reference[3]])
    in_query, in_reference = match_features(
        features(query, "orb"), features(reference, "orb"), ratio=0.8, cross_check=cross_check
    )
    assert dict(zip(in_query.tolist(), in_reference.tolist(), strict=True)) == {1: 7, 2: 3}


@pytest.mark.parametrize(("cross_check", "expected"), [(True, {1: 1}), (False, {0: 0, 1: 1})])
def test_the_cross_check_asks_the_reference_back(cross_check, expected):
    def bits(*ones):
        row = np.zeros(256, dtype=np.uint8)
        row[list(ones)] = 1
        return np.packbits(row)

    reference = np.vstack([bits(), bits(*range(8))])
    query = np.vstack([bits(*range(100, 110)), bits(*range(6))])  # the first is 10 from the first, the second only 6
    matches = match_features(features(query, "orb"), features(reference, "orb"), ratio=0.8, cross_check=cross_check)
    assert dict(zip(*(side.tolist() for side in matches), strict=True)) == expected


@pytest.mark.parametrize(("queries", "references"), [(0, 5), (5, 0), (1, 5), (5, 1), (0, 0), (2, 2)])
def test_too_few_features_give_few_or_no_matches(queries, references):
    a = features(random_descriptors(queries, "orb"), "orb")
    b = features(random_descriptors(references, "orb", 3), "orb")
    in_query, in_reference = match_features(a, b, ratio=0.8, cross_check=True)
    assert len(in_query) == len(in_reference) <= min(queries, references)
    if min(queries, references) < 2:
        assert len(in_query) == 0


def test_kinds_do_not_mix():
    with pytest.raises(InputError, match="'sift'"):
        match_features(
            features(random_descriptors(5, "sift"), "sift"),
            features(random_descriptors(5, "orb"), "orb"),
            ratio=0.8,
            cross_check=True,
        )
