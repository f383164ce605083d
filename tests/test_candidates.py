"""Search, re-ranking, similarity gate and suppression, on descriptors whose cosines are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from progeo_edge.candidates import CandidateSearch
from progeo_edge.config import Config, OdometryConfig, load_config
from progeo_edge.consistency import DrivenPath
from progeo_edge.map_store import MapStore
from progeo_edge.reranking import describe_appearance
from progeo_edge.timing import StageTimer
from progeo_edge.types import Candidate, Keyframe, Status
from tests.small_world import SPEC, fake_keyframe, fake_map


def config(*overrides: str) -> Config:
    return load_config(overrides=("gate.nms_radius_keyframes=0", *overrides))


def search_in(store: MapStore, *overrides: str, current_session: int | None = None) -> CandidateSearch:
    return CandidateSearch(store, config(*overrides), DrivenPath(OdometryConfig()), current_session=current_session)


def ids(candidates: Sequence[Candidate], status: Status | None = None) -> list[int]:
    return [c.reference_id for c in candidates if status is None or c.status is status]


def test_the_nearest_come_first_with_their_cosines():
    search = search_in(fake_map([80, 10, 40, 5]))
    candidates = search.propose(fake_keyframe(9, 0), StageTimer())
    assert ids(candidates) == [3, 1, 2, 0]
    assert [c.similarity for c in candidates] == pytest.approx(np.cos(np.radians([5, 10, 40, 80])), abs=1e-6)
    assert {c.status for c in candidates} == {Status.NOT_VERIFIED}
    assert {c.rerank_score for c in candidates} == {None}


def test_at_most_top_k_are_proposed():
    search = search_in(fake_map([80, 10, 40, 5]), "search.top_k=2")
    assert ids(search.propose(fake_keyframe(9, 0), StageTimer())) == [3, 1]
    assert ids(search.propose(fake_keyframe(9, 0), StageTimer(), relocalising=True, include_recent=True)) == [3, 1]


def test_an_empty_map_proposes_nothing():
    search = search_in(MapStore.create(None, SPEC))
    assert search.propose(fake_keyframe(0, 0), StageTimer()) == []
    assert search.propose(fake_keyframe(0, 0), StageTimer(), relocalising=True, include_recent=True) == []


def test_the_similarity_gate_names_its_reason_and_does_not_suppress():
    search = search_in(fake_map([10, 65, 50]), "gate.min_similarity=0.5", "gate.nms_radius_keyframes=5")
    candidates = search.propose(fake_keyframe(9, 0), StageTimer())
    assert [(c.reference_id, c.status) for c in candidates] == [
        (0, Status.NOT_VERIFIED),
        (2, Status.SUPPRESSED),
        (1, Status.LOW_SIMILARITY),
    ]


def test_the_gate_keeps_what_equals_the_limit():
    search = search_in(fake_map([0]), "gate.min_similarity=1.0")
    assert ids(search.propose(fake_keyframe(9, 0), StageTimer()), Status.NOT_VERIFIED) == [0]


@pytest.mark.parametrize(("radius", "open_ids"), [(0, [2, 1, 3, 5, 0]), (1, [2, 5, 0]), (2, [2, 5]), (5, [2])])
def test_the_best_of_a_neighbourhood_speaks_for_it(radius, open_ids):
    search = search_in(fake_map([40, 10, 5, 20, 85, 30]), f"gate.nms_radius_keyframes={radius}", "search.top_k=5")
    candidates = search.propose(fake_keyframe(9, 0), StageTimer())
    assert ids(candidates, Status.NOT_VERIFIED) == open_ids
    assert set(ids(candidates, Status.SUPPRESSED)) == {0, 1, 2, 3, 5} - set(open_ids)


def test_what_is_suppressed_suppresses_nothing():
    search = search_in(fake_map([0, 10, 20]), "gate.nms_radius_keyframes=1")
    candidates = search.propose(fake_keyframe(9, 0), StageTimer())
    assert ids(candidates, Status.NOT_VERIFIED) == [0, 2]


def test_neighbours_by_number_of_two_sessions_are_two_places():
    store = fake_map([10])
    second = store.begin_session("second", camera=None, config_yaml="")
    store.add_keyframe(fake_keyframe(1, 5, second), status=Status.NO_CANDIDATE)
    search = search_in(store, "gate.nms_radius_keyframes=3")
    assert ids(search.propose(fake_keyframe(9, 0), StageTimer()), Status.NOT_VERIFIED) == [1, 0]


def test_the_recent_past_is_searchable_only_when_old_enough():
    store = fake_map([])
    search = search_in(store, "exclusion.time_s=25", "exclusion.keyframes=1")
    for i in range(4):
        search.remember(fake_keyframe(i, 10 * i))
    assert len(search) == 0
    assert ids(search.propose(fake_keyframe(4, 0), StageTimer())) == [0, 1], "30 and 40 s old"
    assert len(search) == 2


def test_searching_everywhere_finds_the_recent_without_releasing_them():
    search = search_in(fake_map([]), "exclusion.time_s=1", "exclusion.keyframes=0")
    for i in range(3):
        search.remember(fake_keyframe(i, 10 * i))
    found = search.propose(fake_keyframe(500, 19), StageTimer(), relocalising=True, include_recent=True)
    assert ids(found) == [2, 1, 0]
    assert len(search) == 0
    assert ids(search.propose(fake_keyframe(3, 19), StageTimer())) == [2, 1, 0]


def test_a_resumed_session_goes_through_the_exclusion_window_again():
    store = fake_map([10, 20, 30])
    overrides = ("exclusion.time_s=15", "exclusion.keyframes=0")
    assert len(search_in(store, *overrides)) == 3
    resumed = search_in(store, *overrides, current_session=0)
    assert len(resumed) == 0
    assert ids(resumed.propose(fake_keyframe(3, 0), StageTimer())) == [0, 1]


def asked(appearance: np.ndarray) -> Keyframe:
    return replace(fake_keyframe(9, 0), appearance=appearance)


def grids(angles_deg: Sequence[float]) -> list[np.ndarray]:
    """Appearance grids as `describe_appearance` makes them, of images that differ by noise."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    other = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    return [describe_appearance(base if angle == 0 else other) for angle in angles_deg]


def test_reranking_orders_by_cosine_and_appearance_together():
    looks = grids([1, 0, 1])
    store = fake_map([20, 25, 60], appearance=looks)
    query = asked(looks[1])
    candidates = search_in(store, "search.rerank_weight=0.5").propose(query, StageTimer())
    assert ids(candidates) == [1, 0, 2], "the second looks like the query"
    scores = [c.rerank_score for c in candidates]
    assert all(score is not None for score in scores)
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
    assert [c.similarity for c in candidates] == pytest.approx(np.cos(np.radians([25, 20, 60])), abs=1e-6)


def test_reranking_without_weight_keeps_the_order_of_cosines():
    looks = grids([1, 0, 1])
    store = fake_map([20, 25, 60], appearance=looks)
    query = asked(looks[1])
    assert ids(search_in(store, "search.rerank_weight=0").propose(query, StageTimer())) == [0, 1, 2]


def test_a_map_without_appearance_is_not_reranked():
    search = search_in(fake_map([10, 5]))
    candidates = search.propose(asked(grids([0])[0]), StageTimer())
    assert ids(candidates) == [1, 0]
    assert {c.rerank_score for c in candidates} == {None}


def test_both_stages_are_timed():
    timer = StageTimer()
    search_in(fake_map([10])).propose(fake_keyframe(9, 0), timer)
    assert list(timer.timings_ms()) == ["search", "rerank", "total"]


def test_the_cache_is_kept_beside_the_map(tmp_path, monkeypatch):
    monkeypatch.setattr("progeo_edge.index.TAIL_LIMIT", 4)
    monkeypatch.setattr("progeo_edge.index.MOVE_BATCH", 4)
    path = tmp_path / "map.progeo"
    with MapStore.create(path, SPEC, descriptor_dtype="float32") as store:
        session = store.begin_session("known", camera=None, config_yaml="")
        for i in range(12):
            store.add_keyframe(fake_keyframe(i, 7 * i, session), status=Status.NO_CANDIDATE)
        search = search_in(store, "search.hnsw_above=4")
        search.save_cache()
        assert (tmp_path / "map.progeo.hnsw").exists()
        again = search_in(store, "search.hnsw_above=4")
        assert again.index.kind == search.index.kind == "hnsw"
        assert ids(again.propose(fake_keyframe(99, 1), StageTimer()))[:3] == [0, 1, 2]


def rig_map(angles_deg: Sequence[float]) -> MapStore:
    """Keyframes 2 i and 2 i + 1 are front and rear of moment i."""
    store = MapStore.create(None, SPEC, descriptor_dtype="float32")
    session = store.begin_session("known", camera=None, config_yaml="")
    for i, angle in enumerate(angles_deg):
        keyframe = fake_keyframe(i, angle, session)
        keyframe = replace(keyframe, stamp_ns=i // 2 * 10**10, camera=("front", "rear")[i % 2])
        store.add_keyframe(keyframe, status=Status.NO_CANDIDATE)
    return store


def test_suppression_counts_moments_and_not_images():
    search = search_in(rig_map([10, 20, 30, 40, 50, 60]), "gate.nms_radius_keyframes=1")
    candidates = search.propose(fake_keyframe(9, 0), StageTimer())
    assert ids(candidates, Status.SUPPRESSED) == [1, 2, 3, 5]
    assert ids(candidates, Status.NOT_VERIFIED) == [0, 4]


def test_a_resumed_rig_waits_by_moments():
    """Of three moments the query has to leave out one; without odometry keyframes are counted."""
    store = rig_map([10, 20, 30, 40, 50, 60])
    search = search_in(store, "exclusion.time_s=0", "exclusion.keyframes=1", current_session=0)
    query = replace(fake_keyframe(9, 0), stamp_ns=3 * 10**10, camera="front")
    assert ids(search.propose(query, StageTimer())) == [0, 1, 2, 3]
    joining = replace(query, stamp_ns=2 * 10**10, camera="left")
    search = search_in(store, "exclusion.time_s=0", "exclusion.keyframes=1", current_session=0)
    assert ids(search.propose(joining, StageTimer())) == [0, 1]
