from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progeo_edge.types import LocalFeatures
from progeo_edge.verification import hamming
from progeo_edge.verification.matching import match_features


def by_faiss(a, b, k):
    return hamming.by_faiss(pytest.importorskip("faiss", reason="faiss is not installed"), a, b, k)


def by_numkong(a, b, k):
    return hamming.by_numkong(pytest.importorskip("numkong", reason="numkong is not installed"), a, b, k)


def brute_force(a, b):
    """(N, M) bits that differ."""
    return np.unpackbits(a[:, None] ^ b[None], axis=2).sum(axis=2)


def descriptors(seed, count, groups, flips):
    """(count, 32) random descriptors, `groups` of them different before `flips` bits of each are turned."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (max(1, groups), 32), dtype=np.uint8)[rng.integers(0, max(1, groups), count)]
    bits = np.unpackbits(rows, axis=1)
    for row in bits:
        row[rng.integers(0, 256, flips)] ^= 1
    return np.packbits(bits, axis=1)


MANY = st.tuples(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 60), st.integers(0, 40))


@pytest.mark.parametrize("search", [hamming.by_opencv, by_numkong, by_faiss])
@settings(max_examples=60, deadline=None)
@given(MANY, MANY)
def test_the_nearest_are_those_of_brute_force(search, first, second):
    a, b = descriptors(*first), descriptors(*second)
    all_distances = brute_force(a, b)
    distances, rows = search(a, b, 2)
    assert distances.dtype == np.int32 and rows.dtype == np.intp
    np.testing.assert_array_equal(distances, np.sort(all_distances, axis=1)[:, :2])
    np.testing.assert_array_equal(np.take_along_axis(all_distances, rows, axis=1), distances)


def expected_matches(a, b, ratio, cross_check):
    """By the words of the docstring, on the whole matrix of distances."""
    distances = brute_force(a, b)
    found: dict[int, tuple[float, int]] = {}
    for row in range(len(a)):
        nearest, second = np.sort(distances[row])[:2]
        column = int(np.argmin(distances[row]))
        if nearest >= np.float32(ratio) * np.float32(second):
            continue
        if cross_check and distances[:, column].min() < nearest:
            continue
        quality = float(np.float32(nearest) / np.float32(max(second, 1e-6)))
        if column not in found or quality < found[column][0]:
            found[column] = (quality, row)
    return {(row, column) for column, (_, row) in found.items()}


@pytest.mark.parametrize("search", [hamming.by_opencv, by_numkong, by_faiss])
@pytest.mark.parametrize("cross_check", [True, False])
@settings(max_examples=60, deadline=None)
@given(MANY, MANY, st.booleans())
def test_matches_are_those_of_brute_force(search, cross_check, first, second, shared):
    a, b = descriptors(*first), descriptors(*second)
    if shared:  # true matches, duplicates among them
        b = np.concatenate([b, a[::2], a[::3]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "search", lambda: search)
        in_query, in_reference = match_features(_features(a), _features(b), ratio=0.8, cross_check=cross_check)
    assert set(zip(in_query.tolist(), in_reference.tolist(), strict=True)) == expected_matches(a, b, 0.8, cross_check)


def _features(rows):
    pixels = np.zeros((len(rows), 2), dtype=np.float32)
    return LocalFeatures("orb", pixels, np.full(len(rows), 31, dtype=np.float32), rows, (640, 480))


@pytest.mark.parametrize("search", [hamming.by_opencv, by_numkong, by_faiss])
def test_a_nearer_query_keypoint_refuses_a_match_although_it_has_none_itself(search, monkeypatch):
    monkeypatch.setattr(hamming, "search", lambda: search)
    bits = np.zeros((4, 256), dtype=np.uint8)
    bits[1, :21] = 1  # the second reference keypoint
    bits[2, 100:115] = 1  # a query keypoint 15 bits from the first reference, 36 from the second
    bits[3, :10] = 1  # another, 10 from the first and 11 from the second: too alike for the ratio
    reference, query = _features(np.packbits(bits[:2], axis=1)), _features(np.packbits(bits[2:], axis=1))
    kept = match_features(query, reference, ratio=0.8, cross_check=False)
    assert (kept[0].tolist(), kept[1].tolist()) == ([0], [0])
    assert len(match_features(query, reference, ratio=0.8, cross_check=True)[0]) == 0


@pytest.fixture
def fresh_search():
    hamming.search.cache_clear()
    yield
    hamming.search.cache_clear()


def test_opencv_stands_in_where_faiss_and_numkong_are_missing(monkeypatch, fresh_search):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setitem(sys.modules, "numkong", None)
    assert hamming.search() is hamming.by_opencv


def test_numkong_is_not_used_where_it_counts_wrongly(monkeypatch, fresh_search, caplog):
    numkong = pytest.importorskip("numkong", reason="numkong is not installed")

    class OffByOne:
        hammings_pack = staticmethod(numkong.hammings_pack)

        @staticmethod
        def hammings_packed(a, b):
            distances = np.array(numkong.hammings_packed(a, b))
            distances[-1, -1] += 1
            return distances

    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setitem(sys.modules, "numkong", OffByOne)
    assert hamming.search() is hamming.by_opencv
    assert "counts bits wrongly" in caplog.text


def test_numkong_is_used_where_faiss_is_not_installed(monkeypatch, fresh_search):
    numkong = pytest.importorskip("numkong", reason="numkong is not installed")
    monkeypatch.setitem(sys.modules, "faiss", None)
    asked = []
    monkeypatch.setattr(hamming, "by_numkong", lambda library, a, b, k: asked.append((library, k)))
    hamming.nearest(descriptors(0, 9, 9, 0), descriptors(1, 9, 9, 0), 2)
    assert asked == [(numkong, 2)]


def test_the_number_of_threads_of_faiss_stays_what_it_was(fresh_search):
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(2)
        hamming.nearest(descriptors(0, 9, 9, 0), descriptors(1, 9, 9, 0), 1)
        assert faiss.omp_get_max_threads() == 2
        with pytest.raises(AssertionError):
            hamming.nearest(descriptors(0, 9, 9, 0), descriptors(1, 9, 9, 0)[:, :16], 1)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


def test_faiss_is_imported_only_when_a_verifier_is_made():
    is_there = importlib.util.find_spec("faiss") is not None
    code = (
        "import sys, progeo_edge\n"
        "from progeo_edge.verification import Verifier\n"
        "assert 'faiss' not in sys.modules\n"
        "Verifier(progeo_edge.config.VerificationConfig())\n"
        f"assert ('faiss' in sys.modules) == {is_there}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
