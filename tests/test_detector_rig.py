"""A robot with a front and a rear camera comes back the other way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from progeo_edge.detector import LoopDetector
from progeo_edge.errors import InputError, MapError
from progeo_edge.geometry import Camera, invert, rotation_angle
from progeo_edge.map_store import MapStore
from progeo_edge.types import Frame, LoopClosure, Status, Update
from tests.map_samples import plain
from tests.small_world import NUM_POSES, encoder, rig, settings, there_and_back, without_odometry

CLOSE = ("exclusion.distance_m=0", "exclusion.keyframes=2")


def new_detector(cameras: Camera | Mapping[str, Camera] | None, *overrides: str, **options: object) -> LoopDetector:
    store = options.pop("store", None)
    store = MapStore.create(None, encoder().spec) if store is None else store
    return LoopDetector(encoder(), store, cameras, settings(*CLOSE, *overrides), **options)  # type: ignore[arg-type]


def drive(frames: Sequence[Frame], cameras: Mapping[str, Camera] | None = None) -> tuple[LoopDetector, list[Update]]:
    detector = new_detector(cameras or rig())
    return detector, [detector.process(frame) for frame in frames]


def pose_error(closure: LoopClosure, store: MapStore) -> tuple[float, float]:
    _, truth = there_and_back()
    reference, query = (truth[store.keyframe(i).stamp_ns] for i in (closure.reference_id, closure.query_id))
    assert closure.verification is not None
    assert closure.verification.T_reference_query is not None
    T_error = invert(closure.verification.T_reference_query) @ invert(reference) @ query
    return float(np.linalg.norm(T_error[:3, 3])), float(np.degrees(rotation_angle(T_error[:3, :3])))


def closures_of(updates: Sequence[Update]) -> list[LoopClosure]:
    return [closure for update in updates for closure in update.closures]


@pytest.fixture(scope="module")
def frames() -> tuple[Frame, ...]:
    return there_and_back()[0]


@pytest.fixture(scope="module")
def driven(frames) -> tuple[LoopDetector, list[Update]]:
    return drive(frames)


def test_the_front_camera_alone_recognises_nothing_on_the_way_back(frames):
    front = [frame for frame in frames if frame.camera == "front"]
    detector, updates = drive(front)
    assert len(detector.map_store) == 2 * NUM_POSES
    assert closures_of(updates) == []


def test_the_rig_recognises_the_way_back_with_the_right_poses(driven):
    detector, updates = driven
    closures = closures_of(updates)
    names = {info.id: info.camera for info in detector.map_store.infos()}
    pairs = {(names[c.query_id], names[c.reference_id]) for c in closures}
    assert pairs == {("front", "rear"), ("rear", "front")}
    for closure in closures:
        translation_m, rotation_deg = pose_error(closure, detector.map_store)
        assert translation_m < 0.1
        assert rotation_deg < 0.5
        assert closure.is_reverse
        assert closure.heading_change_deg == pytest.approx(180.0, abs=5.0)
    recognised = {detector.map_store.keyframe(c.query_id).stamp_ns for c in closures}
    assert len(recognised) == NUM_POSES, "every moment of the way back"


def test_the_relative_pose_does_not_depend_on_which_camera_saw_it(driven):
    """Front sees rear and rear sees front between the same two moments: one motion of the base."""
    detector, updates = driven
    stamps = {info.id: info.stamp_ns for info in detector.map_store.infos()}
    by_moments: dict[tuple[int, int], list[LoopClosure]] = {}
    for closure in closures_of(updates):
        by_moments.setdefault((stamps[closure.query_id], stamps[closure.reference_id]), []).append(closure)
    twice = [pair for pair in by_moments.values() if len(pair) == 2]
    assert len(twice) >= 2
    for one, other in twice:
        assert one.verification is not None
        assert other.verification is not None
        T_one, T_other = one.verification.T_reference_query, other.verification.T_reference_query
        assert T_one is not None
        assert T_other is not None
        T_difference = invert(T_one) @ T_other
        assert np.linalg.norm(T_difference[:3, 3]) < 0.15
        assert np.degrees(rotation_angle(T_difference[:3, :3])) < 0.7


def test_other_names_change_nothing(driven, frames):
    _, updates = driven
    names = {"front": "b", "rear": "a"}
    renamed = {names[name]: camera for name, camera in rig().items()}
    _, again = drive([replace(frame, camera=names[frame.camera]) for frame in frames], renamed)
    assert [plain(u.candidates) for u in again] == [plain(u.candidates) for u in updates]
    assert [plain(u.closures) for u in again] == [plain(u.closures) for u in updates]


def test_a_later_session_knows_the_cameras_of_an_earlier_one(driven, frames):
    """The map says which camera saw what; the new robot has only one, looking backwards."""
    detector, _ = driven
    store = detector.map_store
    assert isinstance(store.sessions()[0].camera, Mapping)
    later = new_detector({"tail": rig()["rear"]}, store=store, session="one camera")
    rear = [replace(frame, camera="tail") for frame in frames[:6] if frame.camera == "rear"]
    closures = [closure for frame in rear for closure in later.relocalize(frame).closures]
    assert closures
    for closure in closures:
        assert store.keyframe(closure.reference_id).camera in ("front", "rear")


# -- which frames become keyframes -------------------------------------------------------------------------------


def test_no_camera_is_starved_by_another(driven):
    detector, updates = driven
    cameras = [info.camera for info in detector.map_store.infos()]
    assert cameras == ["front", "rear"] * (2 * NUM_POSES)
    assert all(update.keyframe is not None for update in updates)


def test_images_of_one_moment_are_kept_together(frames):
    """Without odometry the rear camera's view, unchanged, alone would be refused."""
    detector = new_detector(None)
    (front, rear), (next_front, _) = without_odometry(frames[:2]), without_odometry(frames[2:4])
    for frame in (front, rear, next_front):
        assert detector.process(frame).keyframe is not None
    still = replace(rear, stamp_ns=next_front.stamp_ns)
    assert detector.process(still).keyframe is not None
    alone = replace(rear, stamp_ns=next_front.stamp_ns + 10**9)
    assert detector.process(alone).status is Status.NOT_A_KEYFRAME


def test_a_covered_camera_does_not_stop_the_others(frames):
    detector = new_detector(rig())
    black = replace(frames[0], image=np.zeros_like(frames[0].image))
    assert detector.process(black).status is Status.UNRECOGNISABLE
    assert detector.process(frames[1]).keyframe is not None
    assert detector.process(replace(frames[0])).keyframe is not None, "the moment is open for its other camera"


# -- what does not fit -------------------------------------------------------------------------------------------


def test_a_frame_of_an_unknown_camera_is_refused(frames):
    detector = new_detector(rig())
    with pytest.raises(InputError, match="camera 'left' is not one of the rig's \\(front, rear\\)"):
        detector.process(replace(frames[0], camera="left"))
    assert len(detector.map_store) == 0
    with pytest.raises(InputError, match="camera 'left'"):
        detector.relocalize(replace(frames[0], camera="left"))


def test_one_camera_serves_frames_of_any_name(frames):
    detector = new_detector(rig()["front"])
    assert detector.process(frames[0]).keyframe is not None


def test_a_session_is_resumed_with_its_own_rig_only(frames):
    store = MapStore.create(None, encoder().spec)
    new_detector(rig(), store=store).process(frames[0])
    for other in (rig()["front"], None, {**rig(), "left": rig()["front"]}):
        with pytest.raises(MapError, match=r"begun with \['front', 'rear'\].*same rig"):
            new_detector(other, store=store, resume=True)
    resumed = new_detector(rig(), store=store, resume=True)
    assert resumed.process(replace(frames[0], stamp_ns=frames[0].stamp_ns + 1)).status is Status.NOT_A_KEYFRAME
    assert resumed.process(frames[1]).keyframe is not None
