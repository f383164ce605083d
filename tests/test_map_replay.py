"""A map goes through the same decisions again, and its calibration is stored where it belongs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from progeo_edge.calibration import Calibration, document_key
from progeo_edge.config import load_config
from progeo_edge.errors import CalibrationError
from progeo_edge.map_replay import ReplayedSession, calibrate_map
from progeo_edge.map_store import MapStore
from progeo_edge.types import Status
from tests.calibration.robots import SPEC, drive

CONFIG = load_config(overrides=["search.rerank=false"])


def driven_map(path, num_keyframes=250, sessions=1) -> MapStore:
    store = MapStore.create(path, SPEC, descriptor_dtype="float32")
    for number in range(sessions):
        session = store.begin_session(f"drive {number}", camera=None, config_yaml="")
        for keyframe in drive(400, num_keyframes, number):
            numbered = replace(keyframe, id=store.next_keyframe_id(), session=session)
            store.add_keyframe(numbered, status=Status.NO_CANDIDATE)
    return store


def test_a_map_learns_what_a_run_would_have_learned(tmp_path):
    run = ReplayedSession(SPEC, CONFIG)
    for keyframe in drive(400, 250, 0):
        run.add(keyframe)
    expected = run.calibrator.refit("cam0")
    with driven_map(tmp_path / "map.progeo") as store:
        found = calibrate_map(store, CONFIG)
        assert list(found) == ["cam0"]
        assert found["cam0"].min_similarity(1000, 1.0) == pytest.approx(expected.min_similarity(1000, 1.0), abs=1e-5)
        assert Calibration.from_dict(store.document(document_key("cam0")) or {}).tail == found["cam0"].tail
        assert any(key.startswith("calibration_observations") for key in store.blob_keys())


def test_sessions_of_a_map_count_together(tmp_path):
    with driven_map(tmp_path / "map.progeo", 200, sessions=2) as store:
        assert calibrate_map(store, CONFIG)["cam0"].tail.num_queries > 250


def test_removed_keyframes_leave_the_rest_usable(tmp_path):
    with driven_map(tmp_path / "map.progeo") as store:
        store.remove_keyframes(range(10, 20))
        assert calibrate_map(store, CONFIG)["cam0"].num_same_place > 100


def test_a_read_only_map_is_only_read(tmp_path):
    driven_map(tmp_path / "map.progeo").close()
    before = (tmp_path / "map.progeo").read_bytes()
    with MapStore.open(tmp_path / "map.progeo", read_only=True) as store:
        assert calibrate_map(store, CONFIG)["cam0"].tail.num_queries > 100
    assert (tmp_path / "map.progeo").read_bytes() == before


def test_too_small_a_map_is_refused_with_the_remedy(tmp_path):
    with driven_map(tmp_path / "map.progeo", 60) as store, pytest.raises(CalibrationError, match="drive further"):
        calibrate_map(store, CONFIG)


def test_every_keyframe_is_reported(tmp_path):
    steps = []
    with driven_map(tmp_path / "map.progeo", 150) as store:
        calibrate_map(store, CONFIG, lambda: steps.append(1))
    assert len(steps) == 150
