"""Calibration while driving: in force after enough keyframes, kept in the map, and true to its promise."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from progeo_edge.calibration import Calibration, Gate, document_key
from progeo_edge.config import load_config
from progeo_edge.map_replay import ReplayedSession
from progeo_edge.types import Candidate, LoopClosure, Status, Verification
from tests.calibration.robots import SPEC, drive

SETTINGS = ("search.rerank=false",)


def replay(keyframes, *settings, closures=None):
    config = load_config(overrides=[*SETTINGS, *settings])
    session = ReplayedSession(SPEC, config)
    gates = []
    for keyframe in keyframes:
        own = closures(keyframe) if closures else ()
        session.add(keyframe, own)
        gates.append(session.gate)
    return session, gates


def test_nothing_is_in_force_before_enough_was_seen():
    _, gates = replay(drive(400, 200, 0))
    first = next(i for i, gate in enumerate(gates) if gate is not None)
    # 30 keyframes of exclusion, 20 m to the first impostor, then 100 queries.
    assert 125 < first < 160
    assert all(gate is not None for gate in gates[first:])


def test_switched_off_it_learns_nothing():
    session, gates = replay(drive(400, 250, 0), "calibration.enabled=false")
    assert gates == [None] * 250
    session.calibrator.save()
    assert session.map_store.document(document_key("cam0")) is None
    assert session.map_store.blob_keys() == []


def test_the_gate_lets_impostors_through_as_often_as_promised():
    """Over 8 worlds driven once, at one in a hundred queries; impostors are known from the true places."""
    promised_per_hour = 36.0  # of 3600 queries
    settings = [*SETTINGS, f"calibration.max_false_per_hour={promised_per_hour}"]
    passed = judged = 0
    for seed in range(8):
        session = ReplayedSession(SPEC, load_config(overrides=settings))
        for i, keyframe in enumerate(drive(700, 700, seed)):
            candidates = session.add(keyframe)
            if session.gate is not None:
                judged += 1
                passed += any(c.supported and abs(c.reference_id - i) > 20 for c in candidates)
    expected = judged * promised_per_hour / 3600
    assert expected > 40
    assert expected / 2.5 < passed < expected * 2


def test_without_odometry_the_second_best_place_teaches():
    """Laps with verified closures: the place is known, and everything else is an impostor."""

    def closures(keyframe):
        if keyframe.id < 300:
            return ()
        verification = Verification(Status.ACCEPTED, num_inliers=80)
        return (LoopClosure(keyframe.id, keyframe.id - 300, 0.8, verification=verification),)

    with_odometry, _ = replay(drive(300, 600, 3))
    without, _ = replay(drive(300, 600, 3, odometry=False), closures=closures)
    told, guessed = (s.calibrator.refit("cam0").min_similarity(500, 60.0) for s in (with_odometry, without))
    assert guessed == pytest.approx(told, abs=0.08)


@pytest.mark.parametrize("verified", [True, False])
def test_the_best_of_the_rest_is_second_unless_the_place_is_verified(verified):
    def closures(keyframe):
        if keyframe.id < 150 or (keyframe.id > 220 and not verified):
            return ()
        verification = Verification(Status.ACCEPTED, num_inliers=80)
        return (LoopClosure(keyframe.id, keyframe.id - 150, 0.8, verification=verification),)

    session, _ = replay(drive(150, 250, 3, odometry=False), closures=closures)
    observations = session.calibrator._observations["cam0"]
    assert bool(observations._impostors[-1][2]) is not verified


def test_without_odometry_and_geometry_nothing_can_be_ruled_out():
    session, gates = replay(drive(150, 350, 3, odometry=False))
    assert gates == [None] * 350
    assert session.calibrator._observations["cam0"].num_queries == 0


def test_cameras_of_a_rig_share_the_promise():
    session, _ = replay(drive(400, 250, 0))
    alone = session.calibrator.gate("cam0", 200)
    session.calibrator._last["rear"] = deque()
    shared = session.calibrator.gate("cam0", 200)
    assert alone is not None
    assert shared is not None
    assert shared.min_similarity > alone.min_similarity


def test_it_is_kept_in_the_map_and_goes_on_from_there():
    session, gates = replay(drive(400, 300, 1))
    session.calibrator.save()
    stored = Calibration.from_dict(session.map_store.document(document_key("cam0")) or {})
    size = session.num_searched
    assert stored.motion == "hmm"
    assert gates[-1] == Gate(stored.min_similarity(size, 0.5), stored.min_motion_score(size, 0.5))
    later = ReplayedSession(SPEC, load_config(overrides=SETTINGS), session.map_store)
    later.add(replace(next(iter(drive(400, 1, 5))), id=later.next_id()))
    assert later.gate is not None
    assert later.calibrator.refit("cam0").tail.num_queries == session.calibrator.refit("cam0").tail.num_queries


def test_a_calibration_of_another_model_is_not_used():
    session, _ = replay(drive(400, 300, 1))
    document = session.map_store.document(document_key("cam0")) or {}
    session.map_store.set_document(document_key("cam0"), {**document, "model": "0" * 64})
    later = ReplayedSession(SPEC, load_config(overrides=SETTINGS), session.map_store)
    assert later.calibrator.calibration("cam0") is None


def test_cameras_are_calibrated_apart():
    session, _ = replay(replace(keyframe, camera="rear") for keyframe in drive(400, 250, 0))
    assert session.calibrator.calibration("rear") is not None
    assert session.calibrator.calibration("cam0") is None


def test_a_gate_is_passed_by_cosine_or_by_motion():
    assert Gate(0.7, None).passes(Candidate(1, 0.7))
    assert not Gate(0.7, None).passes(Candidate(1, 0.69, motion_score=100.0))
    assert Gate(0.7, 3.0).passes(Candidate(1, 0.1, motion_score=3.0))
    assert not Gate(0.7, 3.0).passes(Candidate(1, 0.69, motion_score=2.9))


def test_probabilities_rise_with_the_cosine():
    session, _ = replay(drive(300, 500, 2))
    candidates = [Candidate(i, s) for i, s in enumerate(np.linspace(0.0, 0.95, 12))]
    probabilities = [
        c.probability for c in session.calibrator.with_probabilities(candidates, "cam0", 400) if c.probability
    ]
    assert len(probabilities) == 12
    assert probabilities == sorted(probabilities)
    assert probabilities[0] < 0.05 < 0.9 < probabilities[-1]
