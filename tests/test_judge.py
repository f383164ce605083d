"""The order of decisions: motion, budget, deadline, geometry, odometry; geometry is played by a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from progeo_edge import judge as judge_module
from progeo_edge.calibration import Gate
from progeo_edge.config import Config, OdometryConfig, SearchConfig, load_config
from progeo_edge.consistency import DrivenPath
from progeo_edge.geometry import Camera, make_transform
from progeo_edge.index import PlaceIndex
from progeo_edge.judge import Judge, Query, without_static_pixels
from progeo_edge.map_store import MapStore
from progeo_edge.static_masks import StaticMasks
from progeo_edge.timing import StageTimer
from progeo_edge.types import Candidate, LoopClosure, PoseKind, ScaleSource, Status, Verification
from progeo_edge.world import camera_towards
from tests.small_world import SPEC, fake_keyframe, fake_map, grid_features

NUM_KNOWN = 40


class PlannedVerifier:
    """Says of each reference what the plan says; a reference is known by its number of features."""

    def __init__(self, plan: dict[int, Verification]) -> None:
        self.plan = plan
        self.asked: list[int] = []

    def __call__(self, config):
        return self

    def verify(self, query, reference, query_camera, reference_camera):
        self.asked.append(len(reference) - 100)
        return self.plan.get(len(reference) - 100, Verification(Status.FEW_INLIERS, num_matches=40, num_inliers=7))


def inliers(count: int, pose: np.ndarray | None = None) -> Verification:
    accepted = Verification(Status.ACCEPTED, num_matches=2 * count, num_inliers=count, inlier_ratio=0.5)
    if pose is None:
        return accepted
    covariance = np.diag([0.01] * 3 + [1e-4] * 3)
    return replace(
        accepted,
        T_reference_query=pose,
        covariance=covariance,
        pose_kind=PoseKind.METRIC,
        scale_source=ScaleSource.DEPTH,
    )


@pytest.fixture
def known() -> MapStore:
    """Keyframe i has 100 + i features."""
    return fake_map([0] * NUM_KNOWN, features=[grid_features(100 + i) for i in range(NUM_KNOWN)])


@pytest.fixture
def verifier(monkeypatch) -> PlannedVerifier:
    planned = PlannedVerifier({})
    monkeypatch.setattr(judge_module, "Verifier", planned)
    return planned


def make_judge(store: MapStore, *overrides: str, path: DrivenPath | None = None) -> Judge:
    return Judge(store, config(*overrides), path or DrivenPath(OdometryConfig()), index_of(store), current_session=0)


def index_of(store: MapStore) -> PlaceIndex:
    index = PlaceIndex(store.spec.dimension, SearchConfig())
    index.add(*store.descriptors())
    return index


def config(*overrides: str) -> Config:
    return load_config(overrides=("budget.deadline_ms=0", *overrides))


def asked(*ids: int) -> list[Candidate]:
    return [Candidate(id, 0.9 - 0.01 * rank) for rank, id in enumerate(ids)]


def query(id: int = 100, pose: np.ndarray | None = None) -> Query:
    return Query(replace(fake_keyframe(id, 0), T_odom_base=pose), grid_features(), None, None)


def statuses(candidates: Sequence[Candidate]) -> dict[int, Status]:
    return {c.reference_id: c.status for c in candidates}


def follow(judge: Judge, *leading: int) -> None:
    """The keyframes before pointed to these places, one each."""
    for number, id in enumerate(leading):
        judge.remember(fake_keyframe(60 + number, 0), asked(id), ())


def test_a_supported_candidate_with_few_more_inliers_than_needed_is_accepted(known, verifier):
    verifier.plan = {12: inliers(31)}
    judge = make_judge(known)
    follow(judge, 10, 11)
    (decided,) = judge.decide(query(), asked(12), StageTimer())
    assert decided.status is Status.ACCEPTED
    assert decided.verification is verifier.plan[12]


def test_every_candidate_carries_its_motion_score_whatever_becomes_of_it(known, verifier):
    judge = make_judge(known, "motion.method=k_of_n")
    follow(judge, 10, 11)
    far = replace(asked(13)[0], status=Status.SUPPRESSED)
    low = replace(asked(14)[0], status=Status.LOW_SIMILARITY)
    decided = judge.decide(query(), [*asked(12, 30), far, low], StageTimer())
    assert [c.motion_score for c in decided] == [3.0, 1.0, 3.0, None]
    assert [c.motion_score for c in judge.decide_alone(query(-1), asked(12), StageTimer())] == [None]


@pytest.mark.parametrize(("count", "expected"), [(59, Status.FAILED_SEQUENCE), (60, Status.ACCEPTED)])
def test_without_support_only_strong_inliers_are_believed(known, verifier, count, expected):
    verifier.plan = {12: inliers(count)}
    (decided,) = make_judge(known).decide(query(), asked(12), StageTimer())
    assert decided.status is expected
    assert decided.verification is verifier.plan[12]


def test_without_a_bypass_what_lacks_support_is_not_even_verified(known, verifier):
    verifier.plan = {12: inliers(500)}
    judge = make_judge(known, "motion.strong_inliers=0")
    assert statuses(judge.decide(query(), asked(12), StageTimer())) == {12: Status.FAILED_SEQUENCE}
    assert verifier.asked == []


def test_supported_candidates_are_verified_first_and_the_order_is_kept(known, verifier):
    judge = make_judge(known, "budget.max_verifications=2")
    follow(judge, 10, 11)
    decided = judge.decide(query(), asked(30, 35, 12), StageTimer())
    assert verifier.asked == [12, 30]
    assert [c.reference_id for c in decided] == [30, 35, 12]
    assert statuses(decided) == {30: Status.FEW_INLIERS, 35: Status.NOT_VERIFIED, 12: Status.FEW_INLIERS}


@pytest.mark.parametrize("budget", [1, 2, 5])
def test_the_budget_limits_verifications(known, verifier, budget):
    judge = make_judge(known, f"budget.max_verifications={budget}")
    decided = judge.decide(query(), asked(5, 15, 25, 35), StageTimer())
    assert verifier.asked == [5, 15, 25, 35][:budget]
    assert [c.status for c in decided].count(Status.NOT_VERIFIED) == max(0, 4 - budget)


def test_no_verification_starts_after_the_deadline(known, verifier):
    class TimePasses(StageTimer):
        @property
        def elapsed_ms(self) -> float:
            return 50.0 * len(verifier.asked)

    decided = make_judge(known, "budget.deadline_ms=80").decide(query(), asked(5, 15, 25), TimePasses())
    assert statuses(decided) == {5: Status.FEW_INLIERS, 15: Status.FEW_INLIERS, 25: Status.DEADLINE}


def test_what_was_decided_before_stays_decided(known, verifier):
    low = Candidate(3, 0.1, status=Status.LOW_SIMILARITY)
    suppressed = Candidate(4, 0.8, status=Status.SUPPRESSED)
    decided = make_judge(known).decide(query(), [suppressed, low], StageTimer())
    assert [(c.reference_id, c.status) for c in decided] == [(4, Status.SUPPRESSED), (3, Status.LOW_SIMILARITY)]
    assert verifier.asked == []


def test_without_verification_the_sequence_decides(known, verifier):
    judge = make_judge(known, "verification.enabled=false")
    follow(judge, 10, 11)
    assert statuses(judge.decide(query(), asked(12, 30), StageTimer())) == {
        12: Status.ACCEPTED,
        30: Status.FAILED_SEQUENCE,
    }
    assert verifier.asked == []


def test_alone_every_candidate_counts_as_supported(known, verifier):
    verifier.plan = {12: inliers(31)}
    assert statuses(make_judge(known).decide_alone(query(-1), asked(12), StageTimer())) == {12: Status.ACCEPTED}


def test_a_reference_stored_without_features_cannot_be_verified(verifier):
    judge = make_judge(fake_map([0, 0]))
    (decided,) = judge.decide(query(), asked(1), StageTimer())
    assert decided.status is Status.FEW_MATCHES
    assert decided.verification is not None
    assert verifier.asked == []


def test_suppressed_candidates_do_not_support_the_next_keyframe(known, verifier):
    judge = make_judge(known)
    for number in range(4):
        candidates = [replace(c, status=Status.SUPPRESSED) for c in asked(10 + number)]
        judge.remember(fake_keyframe(60 + number, 0), candidates, ())
    verifier.plan = {14: inliers(31)}
    assert statuses(judge.decide(query(), asked(14), StageTimer())) == {14: Status.FAILED_SEQUENCE}


def test_closures_join_places_for_the_sequence(known, verifier):
    """0 and 30 are one place once a closure says so; then a neighbour of 30 supports 1."""
    verifier.plan = {1: inliers(31)}
    for joined, expected in ((False, Status.FAILED_SEQUENCE), (True, Status.ACCEPTED)):
        judge = make_judge(known)
        closures = [LoopClosure(60, 0, 0.9), LoopClosure(60, 30, 0.9)] if joined else []
        judge.remember(fake_keyframe(60, 0), (), closures)
        judge.remember(fake_keyframe(61, 0), asked(30), ())
        judge.remember(fake_keyframe(62, 0), asked(30), ())
        assert statuses(judge.decide(query(), asked(1), StageTimer())) == {1: expected}


# -- odometry ----------------------------------------------------------------------------------------------------


def at(x_m: float, y_m: float = 0.0) -> np.ndarray:
    return make_transform(np.eye(3), [x_m, y_m, 0.0])


def odometry_judge(*overrides: str) -> Judge:
    """Keyframes 0 to 9 lie 1 m apart on a line."""
    poses = [at(float(i)) for i in range(10)]
    store = fake_map([0] * 10, features=[grid_features(100 + i) for i in range(10)], T_odom_base=poses)
    path = DrivenPath(OdometryConfig())
    for i, pose in enumerate(poses):
        path.add(i, pose)
    return make_judge(store, *overrides, path=path)


def test_a_closure_that_agrees_with_the_odometry_is_accepted_with_its_distance(verifier):
    verifier.plan = {3: inliers(90, at(0.1))}
    (decided,) = odometry_judge().decide(query(10, at(3.0)), asked(3), StageTimer())
    assert decided.status is Status.ACCEPTED
    assert decided.odom_mahalanobis is not None
    assert decided.odom_mahalanobis**2 < 22.46


def test_a_closure_that_contradicts_the_odometry_is_refused_with_its_distance(verifier):
    verifier.plan = {3: inliers(90, at(0.1))}
    (decided,) = odometry_judge().decide(query(10, at(3.0, 9.0)), asked(3), StageTimer())
    assert decided.status is Status.ODOM_INCONSISTENT
    assert decided.odom_mahalanobis is not None
    assert decided.odom_mahalanobis**2 > 22.46


@pytest.mark.parametrize("why", ["switched off", "query without odometry", "closure without pose"])
def test_what_cannot_be_compared_is_not_refused(verifier, why):
    verifier.plan = {3: inliers(90, None if why == "closure without pose" else at(0.1))}
    judge = odometry_judge(*(["odometry.enabled=false"] if why == "switched off" else []))
    pose = None if why == "query without odometry" else at(3.0, 9.0)
    (decided,) = judge.decide(query(10, pose), asked(3), StageTimer())
    assert (decided.status, decided.odom_mahalanobis) == (Status.ACCEPTED, None)


# -- static pixels -----------------------------------------------------------------------------------------------


def test_static_pixels_drop_keypoints_with_all_that_belongs_to_them():
    features = replace(grid_features(200), points_m=np.arange(600, dtype=np.float32).reshape(200, 3))
    mask = np.full((80, 100), 255, np.uint8)
    mask[40:] = 0
    kept = without_static_pixels(features, mask)
    rows = np.flatnonzero(features.keypoints_px[:, 1] < 40)
    assert 0 < len(kept) < 200
    assert np.array_equal(kept.keypoints_px, features.keypoints_px[rows])
    assert np.array_equal(kept.descriptors, features.descriptors[rows])
    assert np.array_equal(kept.sizes_px, features.sizes_px[rows])
    assert kept.points_m is not None
    assert np.array_equal(kept.points_m[:, 0], 3.0 * rows)


def test_a_mask_of_another_size_drops_nothing():
    features = grid_features()
    assert without_static_pixels(features, np.zeros((10, 10), np.uint8)) is features


def test_the_mask_applies_to_references_of_the_same_session_only(known, verifier):
    mask = np.full((80, 100), 255, np.uint8)
    mask[:, 50:] = 0
    for session, is_masked in ((0, True), (1, False)):
        asking = Query(fake_keyframe(100, 0, session), grid_features(), None, mask)
        verifier.asked.clear()
        make_judge(known).decide_alone(asking, asked(5), StageTimer())
        assert (verifier.asked[0] < 5) is is_masked


# -- rigs --------------------------------------------------------------------------------------------------------


def rig_map(cameras: Mapping[str, Camera] | None) -> MapStore:
    """Front, then rear, 10 moments; keyframe i has 100 + i features."""
    store = MapStore.create(None, SPEC, descriptor_dtype="float32")
    store.begin_session("rig", camera=cameras, config_yaml="")
    for i in range(20):
        keyframe = fake_keyframe(i, 0, features=[grid_features(100 + i) for i in range(20)])
        keyframe = replace(keyframe, stamp_ns=i // 2 * 10**10, camera=("front", "rear")[i % 2])
        store.add_keyframe(keyframe, status=Status.NO_CANDIDATE)
    return store


def test_the_reference_s_camera_is_found_by_its_name(verifier, monkeypatch):
    rig = {"front": camera_towards(0, 100, 80), "rear": camera_towards(180, 200, 160)}
    seen: list[Camera] = []

    def verify(query, reference, query_camera, reference_camera):
        seen.append(reference_camera)
        return inliers(90)

    monkeypatch.setattr(verifier, "verify", verify)
    judge = make_judge(rig_map(rig), "budget.max_verifications=2")
    judge.decide(query(), asked(4, 11), StageTimer())
    assert np.array_equal(seen[0].T_base_camera, rig["front"].T_base_camera)
    assert np.array_equal(seen[1].T_base_camera, rig["rear"].T_base_camera)
    assert (seen[1].width_px, seen[1].height_px) == (100, 80), "scaled to the image"


def test_the_mask_of_a_reference_is_that_of_its_own_camera(verifier):
    upper, left = np.full((80, 100), 255, np.uint8), np.full((80, 100), 255, np.uint8)
    upper[:40], left[:, :50] = 0, 0
    masks = SimpleNamespace(mask=lambda camera, size_px: {"front": upper, "rear": left}[camera])
    store = rig_map(None)
    judge = Judge(
        store,
        config(),
        DrivenPath(OdometryConfig()),
        PlaceIndex(store.spec.dimension, SearchConfig()),
        current_session=0,
        static_masks=cast(StaticMasks, masks),
    )
    front = replace(fake_keyframe(100, 0), camera="front")
    judge.decide_alone(Query(front, grid_features(), None, upper), asked(4, 11), StageTimer())
    of_front, of_rear = store.features(4), store.features(11)
    assert of_front is not None
    assert of_rear is not None
    expected = [len(without_static_pixels(of_front, upper)), len(without_static_pixels(of_rear, left))]
    assert [100 + count for count in verifier.asked] == expected


def test_images_of_the_query_s_moment_do_not_support_it(known, verifier):
    """Two cameras that see the same look-alike wall at one time are no sequence."""
    verifier.plan = {12: inliers(31)}
    judge = make_judge(known, "motion.required=2")
    moment = [replace(fake_keyframe(60 + i, 0), stamp_ns=10**12, camera=f"cam{i}") for i in range(4)]
    for keyframe in moment[:3]:
        judge.remember(keyframe, asked(11), ())
    (decided,) = judge.decide(replace(query(), keyframe=moment[3]), asked(12), StageTimer())
    assert decided.status is Status.FAILED_SEQUENCE


def test_beside_a_gate_agreement_of_keyframes_is_enough_for_ordinary_geometry(known, verifier):
    verifier.plan = {12: inliers(31), 30: inliers(31)}
    judge = make_judge(known)
    follow(judge, 10, 11)
    decided = judge.decide(query(), asked(12, 30), StageTimer(), Gate(0.99, None))
    assert statuses(decided) == {12: Status.ACCEPTED, 30: Status.LOW_SIMILARITY}
    assert not any(c.supported for c in decided), "only the gate supports"


def test_what_passes_the_gate_comes_before_what_keyframes_agree_on(known, verifier):
    judge = make_judge(known, "budget.max_verifications=1")
    follow(judge, 10, 11)
    candidates = [Candidate(12, 0.7), Candidate(30, 0.9)]
    judge.decide(query(), candidates, StageTimer(), Gate(0.8, None))
    assert verifier.asked == [30]


@pytest.mark.parametrize("setting", ["verification.enabled=false", "motion.method=none"])
def test_without_geometry_or_motion_the_gate_alone_supports(known, verifier, setting):
    verifier.plan = {12: inliers(31), 30: inliers(31)}
    judge = make_judge(known, setting)
    follow(judge, 10, 11)
    candidates = [Candidate(12, 0.7), Candidate(30, 0.9)]
    decided = judge.decide(query(), candidates, StageTimer(), Gate(0.8, None))
    assert statuses(decided) == {12: Status.LOW_SIMILARITY, 30: Status.ACCEPTED}
