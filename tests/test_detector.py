"""LoopDetector over two passes of one street, and what it does with input that it cannot use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from progeo_edge.config import Config
from progeo_edge.detector import LoopDetector
from progeo_edge.errors import InputError, MapError
from progeo_edge.geometry import invert, make_transform, rotation_angle
from progeo_edge.map_store import MapStore
from progeo_edge.outcome import PROGRESS
from progeo_edge.types import Frame, LoopClosure, PoseKind, ScaleSource, Status, Update
from tests.map_samples import content_hash, plain
from tests.small_world import (
    NUM_POSES,
    SPEC,
    FakeEncoder,
    at_angle,
    camera,
    encoder,
    settings,
    two_passes,
    without_odometry,
)


def new_map(path: Path | None = None) -> MapStore:
    return MapStore.create(path, encoder().spec)


def new_detector(store: MapStore, config: Config | None = None, **options: object) -> LoopDetector:
    return LoopDetector(encoder(), store, camera(), config or settings(), **options)  # type: ignore[arg-type]


def process_all(detector: LoopDetector, frames: list[Frame] | tuple[Frame, ...]) -> list[Update]:
    return [detector.process(frame) for frame in frames]


@pytest.fixture(scope="module")
def frames() -> tuple[Frame, ...]:
    return two_passes()[0]


@pytest.fixture(scope="module")
def known_run(frames, tmp_path_factory) -> tuple[Path, list[Update]]:
    """A map on disk with both passes, closed, and what was said to each frame."""
    path = tmp_path_factory.mktemp("known") / "map.progeo"
    with new_map(path) as store:
        detector = new_detector(store)
        updates = process_all(detector, frames)
        detector.close()
    return path, updates


@pytest.fixture
def first_pass(frames) -> LoopDetector:
    """A detector that has driven the first pass."""
    detector = new_detector(new_map())
    process_all(detector, frames[:NUM_POSES])
    return detector


# -- the normal course -------------------------------------------------------------------------------------------


def test_the_second_pass_closes_on_the_first_with_metric_poses_near_the_truth(known_run):
    _, updates = known_run
    _, truth = two_passes()
    stamps = [update.keyframe.stamp_ns for update in updates if update.keyframe is not None]
    assert [update.status for update in updates] == [Status.NO_CANDIDATE] * NUM_POSES + [Status.ACCEPTED] * NUM_POSES
    for lap_place, update in enumerate(updates[NUM_POSES:]):
        closure = update.closures[0]
        assert (closure.query_id, closure.reference_id) == (NUM_POSES + lap_place, lap_place)
        verification = closure.verification
        assert verification is not None
        assert verification.T_reference_query is not None
        assert verification.pose_kind is PoseKind.METRIC
        assert verification.scale_source is ScaleSource.DEPTH
        T_true = invert(truth[stamps[lap_place]]) @ truth[stamps[closure.query_id]]
        T_error = invert(T_true) @ verification.T_reference_query
        assert np.linalg.norm(T_error[:3, 3]) < 0.03
        assert np.degrees(rotation_angle(T_error[:3, :3])) < 0.3


def test_the_map_holds_what_the_updates_say(known_run):
    path, updates = known_run
    with MapStore.open(path, read_only=True) as store:
        assert [info.id for info in store.infos()] == list(range(2 * NUM_POSES))
        assert [info.status for info in store.infos()] == [update.status for update in updates]
        told = [closure for update in updates for closure in update.closures]
        assert [(c.query_id, c.reference_id) for c in store.closures()] == [(c.query_id, c.reference_id) for c in told]
        assert all(store.features(id) is not None for id in range(2 * NUM_POSES))
        assert all(store.thumbnail(id) is not None for id in range(2 * NUM_POSES))


def test_thumbnails_are_no_wider_than_the_setting(frames):
    store = new_map()
    new_detector(store, settings("store.thumbnail_width_px=64")).process(frames[0])
    thumbnail = store.thumbnail(0)
    assert thumbnail is not None
    assert thumbnail.shape == (48, 64, 3)


def test_features_and_thumbnails_can_be_left_out_of_the_map(frames):
    store = new_map()
    new_detector(store, settings("store.features=false", "store.thumbnails=false")).process(frames[0])
    assert store.features(0) is None
    assert store.thumbnail(0) is None


def test_every_stage_is_timed(known_run):
    _, updates = known_run
    stages = list(updates[-1].timings_ms)
    before = [
        "gate",
        "features",
        "encode",
        "appearance",
        "search",
        "rerank",
        "motion",
        "verify",
        "odometry",
        "consistency",
        "store",
        "calibrate",
    ]
    assert stages == [*before, "total"]
    timings_ms = updates[-1].timings_ms
    assert all(value >= 0 for value in timings_ms.values())
    assert sum(timings_ms[stage] for stage in before) <= timings_ms["total"]


def test_the_same_input_gives_the_same_updates(known_run, frames):
    _, before = known_run
    again = process_all(new_detector(new_map()), frames)
    assert [plain(u.candidates) for u in again] == [plain(u.candidates) for u in before]
    assert [plain(u.closures) for u in again] == [plain(u.closures) for u in before]


def test_keyframe_and_closures_are_stored_in_one_transaction(first_pass, frames, monkeypatch):
    store = first_pass.map_store
    before = content_hash(store)

    def fail(closure: LoopClosure) -> None:
        raise MapError(f"disk full while writing {closure.query_id}")

    monkeypatch.setattr(store, "_insert_closure", fail)
    with pytest.raises(MapError, match="disk full"):
        first_pass.process(frames[NUM_POSES])
    assert content_hash(store) == before
    monkeypatch.undo()
    update = first_pass.process(frames[NUM_POSES])
    assert update.status is Status.ACCEPTED
    assert update.keyframe is not None
    assert update.keyframe.id == NUM_POSES


def test_the_recent_past_is_no_candidate(frames):
    detector = new_detector(new_map(), settings("exclusion.time_s=1000"))
    assert {update.status for update in process_all(detector, frames)} == {Status.NO_CANDIDATE}


def test_what_is_not_far_enough_back_along_the_path_is_no_candidate(frames):
    detector = new_detector(new_map(), settings("exclusion.distance_m=1000"))
    assert {update.status for update in process_all(detector, frames)} == {Status.NO_CANDIDATE}


def test_statuses_of_updates_are_ordered_along_the_pipeline():
    assert sorted(PROGRESS) == sorted(Status), "every status stands in it once"


# -- frames that do not become keyframes -------------------------------------------------------------------------


def test_a_robot_that_stands_still_keeps_no_keyframe(first_pass, frames):
    before = content_hash(first_pass.map_store)
    later = replace(frames[NUM_POSES - 1], stamp_ns=frames[NUM_POSES - 1].stamp_ns + 10**12)
    update = first_pass.process(later)
    assert (update.status, update.keyframe, update.candidates) == (Status.NOT_A_KEYFRAME, None, ())
    assert content_hash(first_pass.map_store) == before


def test_without_odometry_an_unchanged_view_is_no_keyframe(frames):
    detector = new_detector(new_map())
    (frame,) = without_odometry(frames[:1])
    assert detector.process(frame).keyframe is not None
    update = detector.process(replace(frame, stamp_ns=frame.stamp_ns + 2 * 10**9))
    assert update.status is Status.NOT_A_KEYFRAME
    assert "encode" in update.timings_ms
    assert len(detector.map_store) == 1


def test_the_very_same_picture_for_long_is_a_frozen_camera_and_no_lens_cap(frames):
    detector = new_detector(new_map())
    (frame,) = without_odometry(frames[:1])
    detector.process(frame)
    assert detector.process(replace(frame, stamp_ns=frame.stamp_ns + 10**11)).status is Status.FROZEN
    driven = new_detector(new_map())
    driven.process(frames[0])
    assert driven.process(replace(frames[3], image=frames[0].image)).status is Status.FROZEN
    assert len(driven.map_store) == 1
    black = np.zeros_like(frame.image)
    for i, there in enumerate(frames[:4]):
        capped = replace(there, image=black, stamp_ns=frames[3].stamp_ns + i * 10**9)
        assert driven.process(capped).status is not Status.FROZEN


def test_images_that_cannot_be_told_apart_are_refused(first_pass, frames):
    noise = np.random.default_rng(0).integers(0, 12, (240, 320, 3), dtype=np.uint8)
    ramp = np.repeat(np.linspace(0, 255, 320).astype(np.uint8)[None, :, None], 240, axis=0)
    images = {
        "black": np.zeros((240, 320, 3), np.uint8),
        "white": np.full((240, 320), 255, np.uint8),
        "lens cap": noise,
        "grey ramp": np.repeat(ramp, 3, axis=2),
    }
    before = content_hash(first_pass.map_store)
    for what, image in images.items():
        frame = replace(frames[NUM_POSES], image=image, depth_m=None)
        update = first_pass.process(frame)
        assert (update.status, update.keyframe) == (Status.UNRECOGNISABLE, None), what
        assert first_pass.relocalize(frame).status is Status.UNRECOGNISABLE, what
    assert content_hash(first_pass.map_store) == before
    assert first_pass.process(frames[NUM_POSES]).status is Status.ACCEPTED


# -- input that is no frame --------------------------------------------------------------------------------------


def stretched_pose() -> np.ndarray:
    return np.diag([1.1, 1.0, 1.0, 1.0])


BAD_FRAMES: dict[str, dict[str, Any]] = {
    "float image": {"image": np.zeros((240, 320, 3), np.float32)},
    "empty image": {"image": np.zeros((0, 320, 3), np.uint8)},
    "four channels": {"image": np.zeros((240, 320, 4), np.uint8)},
    "no array": {"image": "image.png"},
    "NaN pose": {"T_odom_base": np.full((4, 4), np.nan)},
    "pose that is not rigid": {"T_odom_base": stretched_pose()},
    "pose of another shape": {"T_odom_base": np.eye(3)},
    "depth of another size": {"depth_m": np.ones((24, 32), np.float32)},
}


def test_bad_input_is_refused_and_changes_nothing(first_pass, frames):
    before = content_hash(first_pass.map_store)
    for what, values in BAD_FRAMES.items():
        with pytest.raises(InputError):
            first_pass.process(replace(frames[NUM_POSES], **values))
        assert content_hash(first_pass.map_store) == before, what
    update = first_pass.process(frames[NUM_POSES])
    assert (update.status, update.closures[0].reference_id) == (Status.ACCEPTED, 0)


def test_an_image_of_another_aspect_than_the_calibration_is_refused(first_pass, frames):
    before = content_hash(first_pass.map_store)
    tall = np.ascontiguousarray(frames[NUM_POSES].image[:, :200])
    with pytest.raises(InputError, match="200x240 px cannot come from the camera calibrated at 320x240"):
        first_pass.process(replace(frames[NUM_POSES], image=tall, depth_m=None))
    with pytest.raises(InputError, match="aspect"):
        first_pass.relocalize(replace(frames[NUM_POSES], image=tall, depth_m=None))
    assert content_hash(first_pass.map_store) == before


def test_an_image_of_another_size_uses_the_scaled_calibration(first_pass, frames):
    small = np.ascontiguousarray(frames[NUM_POSES].image[::2, ::2])
    frame = replace(frames[NUM_POSES], image=small, depth_m=None)
    update = first_pass.process(frame)
    assert update.closures[0].reference_id == 0
    assert update.closures[0].verification is not None
    assert update.closures[0].verification.pose_kind is PoseKind.METRIC, "the reference has depth"


def test_grey_images_are_frames_too(first_pass, frames):
    grey = np.ascontiguousarray(frames[NUM_POSES].image[:, :, 1])
    assert first_pass.process(replace(frames[NUM_POSES], image=grey)).closures[0].reference_id == 0


# -- relocalisation and read-only maps ---------------------------------------------------------------------------


def test_relocalisation_on_a_read_only_map_finds_the_place_and_stores_nothing(known_run, frames):
    path, _ = known_run
    with MapStore.open(path, read_only=True) as store:
        before, bytes_before = content_hash(store), path.read_bytes()
        detector = new_detector(store)
        update = detector.relocalize(replace(frames[2], stamp_ns=0))
        assert (update.status, update.keyframe) == (Status.ACCEPTED, None)
        assert update.candidates[0].reference_id == 2
        assert update.closures[0].query_id == -1
        detector.close()
        assert content_hash(store) == before
    assert path.read_bytes() == bytes_before


def test_a_read_only_map_cannot_be_added_to(known_run, frames):
    with MapStore.open(known_run[0], read_only=True) as store:
        detector = new_detector(store)
        with pytest.raises(MapError, match="read-only"):
            detector.process(frames[0])


def test_relocalisation_finds_the_recent_past_without_making_it_a_candidate_of_process(first_pass, frames):
    before = content_hash(first_pass.map_store)
    found = first_pass.relocalize(frames[3])
    assert found.closures[0].reference_id == 3
    assert content_hash(first_pass.map_store) == before
    just_after = replace(frames[NUM_POSES], stamp_ns=frames[NUM_POSES - 1].stamp_ns + 10**9)
    assert first_pass.process(just_after).status is Status.NO_CANDIDATE


# -- maps, models, sessions --------------------------------------------------------------------------------------


def test_a_map_of_another_model_is_refused_with_both_names():
    store = MapStore.create(None, SPEC)
    with pytest.raises(MapError, match=rf"{SPEC.name}.*{encoder().spec.name}"):
        new_detector(store)


def test_resuming_an_empty_map_is_refused():
    with pytest.raises(MapError, match="no session to resume"):
        new_detector(new_map(), resume=True)


def test_a_resumed_session_goes_on_where_it_ended(frames, known_run):
    _, unbroken = known_run
    store = new_map()
    process_all(new_detector(store), frames[:8])
    resumed = new_detector(store, resume=True)
    updates = process_all(resumed, frames[8:])
    assert len(store.sessions()) == 1
    assert [info.id for info in store.infos()] == list(range(12))
    assert {info.session for info in store.infos()} == {0}
    pairs = [[c.reference_id for c in update.closures] for update in updates]
    assert [found[0] for found in pairs] == [u.closures[0].reference_id for u in unbroken[8:]]


def test_any_session_can_be_resumed_not_only_the_last(frames):
    store = new_map()
    first = new_detector(store, session="monday")
    process_all(first, frames[:3])
    store.begin_session("tuesday", camera=None, config_yaml="")
    resumed = new_detector(store, session_id=first.session)
    update = resumed.process(frames[3])
    assert (resumed.session, update.status) == (first.session, Status.NO_CANDIDATE), "its own past is too recent"
    with pytest.raises(MapError, match=r"no session 5 to resume; it has \[0, 1\]"):
        new_detector(store, session_id=5)


def test_relocalising_can_leave_the_recent_past_aside(first_pass, frames):
    assert first_pass.relocalize(frames[NUM_POSES - 1]).status is Status.ACCEPTED
    assert first_pass.relocalize(frames[NUM_POSES - 1], include_recent=False).candidates == ()


@pytest.mark.parametrize("odometry", [True, False])
def test_a_resumed_session_remembers_its_last_keyframe(frames, odometry):
    store = new_map()
    seen = frames[:3] if odometry else without_odometry(frames[:3])
    process_all(new_detector(store), seen)
    standing = replace(seen[-1], stamp_ns=seen[-1].stamp_ns + 10**10)
    assert new_detector(store, resume=True).process(standing).status is Status.NOT_A_KEYFRAME


def test_a_new_session_finds_the_earlier_one_at_once(frames):
    store = new_map()
    process_all(new_detector(store), frames[:NUM_POSES])
    update = new_detector(store, session="tuesday").process(frames[0])
    assert [session.name for session in store.sessions()] == ["run", "tuesday"]
    assert update.closures[0].reference_id == 0
    assert update.closures[0].odom_mahalanobis is None, "odometry of two sessions has two origins"


# -- decisions that take a whole detector ------------------------------------------------------------------------


def test_a_closure_that_contradicts_the_odometry_is_refused(first_pass, frames):
    T_odom_base = frames[NUM_POSES].T_odom_base
    assert T_odom_base is not None
    update = first_pass.process(
        replace(frames[NUM_POSES], T_odom_base=T_odom_base @ make_transform(np.eye(3), [0, 7, 0]))
    )
    assert update.status is Status.ODOM_INCONSISTENT
    assert update.closures == ()
    refused = next(c for c in update.candidates if c.verification is not None)
    assert refused.odom_mahalanobis is not None
    assert refused.odom_mahalanobis**2 > 22.46
    assert refused.verification is not None
    assert refused.verification.num_inliers > 60
    assert first_pass.map_store.closures() == []


def test_what_the_odometry_puts_out_of_reach_is_not_even_verified(first_pass, frames):
    T_away = make_transform(np.eye(3), [40.0, -30.0, 0.0])
    update = first_pass.process(replace(frames[NUM_POSES], T_odom_base=T_away))
    assert update.status is Status.ODOM_INCONSISTENT
    assert all(candidate.verification is None for candidate in update.candidates)
    assert first_pass.map_store.closures() == []


def test_pcm_stores_a_withheld_closure_with_the_keyframe_that_confirms_it(frames):
    detector = new_detector(new_map(), settings("consistency.pcm=true"))
    updates = process_all(detector, frames)
    first, second = updates[NUM_POSES : NUM_POSES + 2]
    assert (first.status, first.closures) == (Status.UNCONFIRMED, ())
    assert second.status is Status.ACCEPTED
    assert [closure.query_id for closure in second.released] == [NUM_POSES]
    told = [closure for update in updates for closure in (*update.released, *update.closures)]
    stored = detector.map_store.closures()
    assert [(c.query_id, c.reference_id) for c in stored] == [(c.query_id, c.reference_id) for c in told]
    assert {closure.query_id for closure in stored} == set(range(NUM_POSES, 2 * NUM_POSES))


def test_the_deadline_stops_verification(frames):
    detector = new_detector(new_map(), settings("budget.deadline_ms=0.000001"))
    process_all(detector, frames[:NUM_POSES])
    update = detector.process(frames[NUM_POSES])
    assert update.status is Status.DEADLINE
    assert all(candidate.verification is None for candidate in update.candidates)
    assert update.keyframe is not None, "the keyframe is stored all the same"


def test_the_recall_profile_proposes_without_verifying(frames):
    detector = new_detector(new_map(), settings("profile=recall"))
    process_all(detector, frames[:NUM_POSES])
    update = detector.process(frames[NUM_POSES])
    assert update.status is Status.ACCEPTED
    assert "verify" not in update.timings_ms
    assert all(closure.verification is None for closure in update.closures)


def test_without_calibration_a_closure_has_no_pose(frames):
    detector = LoopDetector(encoder(), new_map(), None, settings())
    process_all(detector, frames[:NUM_POSES])
    closure = detector.process(frames[NUM_POSES]).closures[0]
    assert closure.verification is not None
    assert (closure.verification.pose_kind, closure.verification.T_reference_query) == (PoseKind.NONE, None)


def test_pixels_that_never_change_are_no_keypoints(frames):
    """A logo on the lens, in every image, would match everywhere."""
    logo = np.random.default_rng(0).integers(0, 2, (10, 20, 1), dtype=np.uint8).repeat(8, 0).repeat(8, 1) * 255
    marked = []
    for frame in frames[:NUM_POSES]:
        image = frame.image.copy()
        image[160:, 160:] = logo
        marked.append(replace(frame, image=image))
    store = new_map()
    overrides = ("verification.static_mask_frames=10", "verification.static_mask_std=3", "keyframe.every_frame=true")
    detector = new_detector(store, settings(*overrides))
    for lap in range(2):
        process_all(detector, [replace(frame, stamp_ns=frame.stamp_ns + lap * 10**11) for frame in marked])

    def on_logo(id: int) -> int:
        features = store.features(id)
        assert features is not None
        return int((features.keypoints_px > [166, 166]).all(axis=1).sum())

    assert on_logo(9) > 50
    assert on_logo(11) == 0
    detector.close()
    masked = new_detector(store, settings(*overrides)).process(marked[0])
    assert masked.keyframe is not None
    assert on_logo(masked.keyframe.id) == 0, "the mask is kept in the map"


def test_a_descriptor_that_is_no_unit_vector_changes_nothing(frames):
    store = MapStore.create(None, SPEC)
    bad = [np.full(8, np.nan, np.float32), np.zeros(8, np.float32), at_angle(0)]
    detector = LoopDetector(FakeEncoder(bad), store, camera(), settings())
    for _ in range(2):
        with pytest.raises(InputError):
            detector.process(frames[0])
        assert len(store) == 0
    assert detector.process(frames[0]).keyframe is not None


def test_the_index_reports_on_itself(known_run, frames):
    detector = new_detector(new_map())
    process_all(detector, frames)
    report = detector.index_report()
    assert report["kind"] == "exact"
    assert report["recall_at_1"] == 1.0
    assert 0 < int(str(report["size"])) < len(frames)


def test_updates_say_what_a_candidate_had_to_reach(frames):
    detector = new_detector(new_map(), settings("gate.min_similarity=0.2"))
    updates = process_all(detector, [*frames[:NUM_POSES], frames[NUM_POSES - 1]])
    assert [update.min_similarity for update in updates] == [0.2] * NUM_POSES + [None]
    assert {update.min_motion_score for update in updates} == {None}
    assert detector.relocalize(frames[0]).min_similarity == 0.2
    assert detector.num_searchable == 0, "the first pass is still the recent past"
    detector.process(frames[NUM_POSES])
    assert detector.num_searchable > 0
