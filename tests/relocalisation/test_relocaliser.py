"""A few views vote for places: what becomes a match, and what does not."""

from __future__ import annotations

from dataclasses import replace

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.config import load_config
from progeo_edge.detector import LoopDetector
from progeo_edge.errors import InputError
from progeo_edge.geometry import invert, make_transform, rotation_exp
from progeo_edge.map_store import MapStore
from progeo_edge.relocalisation import Relocaliser
from progeo_edge.types import LoopClosure, PoseKind, Status
from tests.relocalisation.straight_map import (
    I4,
    ask,
    at,
    error_m,
    failed,
    infos,
    passed,
    relocaliser,
    seen_from,
    views,
)
from tests.small_world import NUM_POSES, camera, encoder, settings, two_passes

turns = st.floats(-3.0, 3.0)
metres = st.floats(-1000.0, 1000.0)
frames_of_reference = st.builds(
    lambda yaw, x, y, z: make_transform(rotation_exp([0, 0, yaw]), [x, y, z]), turns, metres, metres, metres
)


# -- one place ---------------------------------------------------------------------------------------------------


def test_views_of_one_place_become_a_match_where_the_robot_is_now():
    answer = ask([seen_from(10 + i, 10 + i) for i in range(4)], [0, 1, 2, 3], T_odom_line=at(-7.0, 3.0))
    assert answer.status is Status.ACCEPTED
    assert answer.match is not None and answer.match.reference_id in (10, 11, 12, 13)
    assert (answer.match.query_id, answer.session, answer.num_frames) == (-1, 0, 4)
    assert answer.stamp_ns == 3 * 10**9
    assert error_m(answer.T_odom_base, at(13.0)) < 1e-9
    assert answer.probability >= 0.95


def test_every_agreeing_view_raises_the_probability_and_is_no_second_proof():
    asked = relocaliser([seen_from(10 + i, 10 + i, num_inliers=40) for i in range(4)])
    found = [asked.add(frame).probability for frame in views([0, 1, 2, 3])]
    assert found == sorted(found) and found[0] < found[3]
    independent = (found[0] / (1 - found[0])) ** 2
    assert found[1] / (1 - found[1]) < independent


def test_a_likely_candidate_by_appearance_needs_less_support():
    likely, unlikely = (ask([seen_from(10, 10, probability=p)], [0]).probability for p in (0.9, 0.01))
    assert likely > ask([seen_from(10, 10)], [0]).probability > unlikely


def test_too_little_support_is_no_match():
    answer = ask([seen_from(10, 10, probability=0.01), [failed(11)], [failed(12)]], [0, 1, 2])
    assert (answer.match, answer.status, answer.T_odom_base) == (None, Status.FAILED_SEQUENCE, None)
    assert 0 < answer.probability < 0.95


def test_views_that_the_motion_contradicts_do_not_support_each_other():
    agreeing = ask([seen_from(10, 10), seen_from(11, 11)], [0, 1])
    contradicting = ask([seen_from(10, 10), seen_from(11, 11)], [0, 6])
    assert contradicting.probability < agreeing.probability
    assert contradicting.match is None


def test_nothing_verified_gives_the_furthest_status():
    answer = ask([Status.NO_CANDIDATE, [failed(3)], Status.NO_CANDIDATE], [0, 1, 2])
    assert (answer.match, answer.status, answer.probability) == (None, Status.FEW_INLIERS, 0.0)
    assert answer.num_frames == 1, "what could be compared with nothing is no vote"
    assert ask([Status.NO_CANDIDATE], [0]).status is Status.NO_CANDIDATE


def test_before_the_first_view_there_is_no_match():
    asked = relocaliser([])
    assert (asked.answer.match, asked.answer.num_frames, asked.is_finished) == (None, 0, False)


# -- several places ----------------------------------------------------------------------------------------------


def test_two_places_that_explain_all_views_are_ambiguous():
    here_or_there = [[*seen_from(5 + i, 5 + i), *seen_from(25 + i, 25 + i)] for i in range(4)]
    answer = ask(here_or_there, [0, 1, 2, 3])
    assert (answer.match, answer.status) == (None, Status.AMBIGUOUS)
    assert answer.probability < 0.5 + 1e-9


def test_a_rival_that_later_views_had_no_time_to_look_at_stays_a_rival():
    answer = ask([[*seen_from(5, 5), *seen_from(25, 25)], seen_from(6, 6), seen_from(7, 7)], [0, 1, 2])
    assert (answer.match, answer.status) == (None, Status.AMBIGUOUS)


def test_what_touches_the_best_place_is_no_rival():
    chain = [passed(x, kind=PoseKind.NONE, num_inliers=n) for x, n in ((10, 300), (14, 200), (18, 200))]
    assert ask([chain], [0]).status is Status.ACCEPTED
    assert ask([[chain[0], chain[2]]], [0]).status is Status.AMBIGUOUS


def test_a_rival_that_later_views_refuse_goes_away():
    answers = [[*seen_from(5, 5), *seen_from(25, 25)]]
    answers += [[*seen_from(5 + i, 5 + i), failed(25 + i)] for i in range(1, 6)]
    answer = ask(answers, range(6))
    assert answer.match is not None and error_m(answer.T_odom_base, at(10.0)) < 1e-9


def test_the_same_place_in_two_laps_is_no_rival_when_a_closure_joins_them():
    laps = [*infos(), *infos(at(3.0, 0.2), 1, 100)]
    answers = [[*seen_from(5 + i, 5 + i), passed(105 + i, I4)] for i in range(3)]
    join = LoopClosure(110, 10, 0.9, None, passed(10, I4).verification)
    assert ask(answers, [0, 1, 2], keyframes=laps, closures=[join]).status is Status.ACCEPTED
    assert ask(answers, [0, 1, 2], keyframes=laps).status is Status.AMBIGUOUS


# -- without poses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T_odom_map", [I4, None])
@pytest.mark.parametrize("T_odom_line", [I4, None])
def test_without_metres_neighbours_in_the_place_graph_support_each_other(T_odom_map, T_odom_line):
    answers = [seen_from(10 + i, 10 + i, kind=PoseKind.NONE) for i in range(6)]
    answer = ask(answers, range(6), T_odom_line, keyframes=infos(T_odom_map))
    assert answer.match is not None and answer.T_odom_base is None
    far = [seen_from(x, x, kind=PoseKind.NONE) for x in (0, 20, 5, 30, 12, 39)]
    assert ask(far, range(6), T_odom_line, keyframes=infos(T_odom_map)).match is None


def test_without_odometry_the_pose_is_that_of_the_view_that_was_verified():
    answer = ask([seen_from(10 + i, 10 + i, num_inliers=200 - i) for i in range(6)], range(6), None)
    assert answer.match is not None and answer.match.reference_id == 10
    assert answer.stamp_ns == answer.query_stamp_ns == 0
    assert error_m(answer.T_odom_base, at(10.0)) < 1e-9


def test_a_map_without_odometry_gives_a_place_without_pose():
    answer = ask([seen_from(10 + i, 10 + i) for i in range(6)], range(6), keyframes=infos(None))
    assert answer.match is not None and answer.T_odom_base is None


# -- properties --------------------------------------------------------------------------------------------------


@hypothesis.settings(deadline=None, max_examples=20)
@given(frames_of_reference, frames_of_reference)
def test_neither_odometry_frame_matters(T_odom_map, T_odom_line):
    answers = [[*seen_from(10.3 + i, 10 + i), *seen_from(30 + i, 30 + i, num_inliers=35)] for i in range(3)]
    answers += [
        [*seen_from(13.3, 13), failed(33)],
        [*seen_from(14.3, 14), failed(34)],
        [*seen_from(15.3, 15), failed(35)],
    ]
    plain = ask(answers, range(6))
    moved = ask(answers, range(6), T_odom_line, keyframes=infos(T_odom_map))
    assert plain.match is not None and moved.match is not None
    assert moved.probability == pytest.approx(plain.probability)
    assert plain.match.reference_id == moved.match.reference_id
    assert error_m(moved.T_odom_base, T_odom_map @ at(15.3)) < 1e-6


@hypothesis.settings(deadline=None)
@given(st.permutations(range(4)))
def test_the_order_of_views_that_agree_does_not_change_the_probability(order):
    answers = [seen_from(10 + i, 10 + i) for i in order]
    assert ask(answers, order).probability == pytest.approx(ask(sorted(answers, key=str), range(4)).probability)


# -- views -------------------------------------------------------------------------------------------------------


def test_standing_still_is_no_second_vote():
    asked = relocaliser([seen_from(10, 10, num_inliers=40), seen_from(10, 10)])
    first = asked.add(views([0])[0])
    for i, frame in enumerate(views([0] * 9)[1:], start=1):
        assert asked.add(replace(frame, stamp_ns=i * 10**10)) is first
    assert first.num_frames == 1 and not asked.is_finished


def test_every_camera_of_a_rig_has_a_vote_in_a_moment():
    """The front camera of a robot that woke up the wrong way round knows nothing; the rear camera does."""
    asked = relocaliser([Status.LOW_SIMILARITY, seen_from(10, 10, num_inliers=40), Status.LOW_SIMILARITY])
    (front,) = (replace(frame, camera="front") for frame in views([0]))
    asked.add(front)
    assert asked.add(replace(front, camera="rear")).num_frames == 2
    assert asked.add(replace(front, stamp_ns=10**10)).num_frames == 2, "it stands still"


def test_without_odometry_the_picture_must_change():
    asked = relocaliser([seen_from(10, 10), seen_from(11, 11)])
    frame = views([0], None)[0]
    first = asked.add(frame)
    assert asked.add(replace(frame, stamp_ns=10**10)) is first
    other = replace(frame, stamp_ns=2 * 10**10, image=np.full((4, 4, 3), 120, np.uint8))
    assert asked.add(other).num_frames == 2


def test_a_frozen_camera_takes_its_vote_back():
    asked = relocaliser([seen_from(10, 10, probability=0.99), seen_from(20, 20, probability=0.99)])
    frame, moved, further = views([0, 5, 6])
    assert asked.add(frame).match is not None
    for x_m, still in ((5.0, moved), (9.0, further)):
        answer = asked.add(replace(still, image=frame.image.copy(), T_odom_base=at(x_m)))
        assert (answer.match, answer.status, answer.num_frames) == (None, Status.FROZEN, 0)
    alive = asked.add(replace(further, stamp_ns=5 * 10**9, T_odom_base=at(15.0)))
    assert alive.match is not None and alive.match.reference_id == 20


def test_a_blank_frame_does_not_vote():
    asked = relocaliser([Status.UNRECOGNISABLE, seen_from(10, 10), Status.UNRECOGNISABLE])
    frames = views([0, 1, 2])
    blank = asked.add(frames[0])
    assert (blank.match, blank.status, blank.num_frames) == (None, Status.UNRECOGNISABLE, 0)
    seen = asked.add(frames[1])
    assert seen.num_frames == 1
    assert asked.add(frames[2]) is seen


def test_a_blank_frame_without_motion_is_looked_at_again():
    asked = relocaliser([Status.UNRECOGNISABLE, seen_from(10, 10)])
    frame = views([0])[0]
    asked.add(frame)
    assert asked.add(replace(frame, stamp_ns=1, image=frame.image + 9)).num_frames == 1


def test_the_last_views_vote_and_finish():
    config = load_config(overrides=["relocalisation.max_frames=3"])
    answers = [seen_from(30, 30, num_inliers=40), *([failed(1)] for _ in range(3))]
    asked = relocaliser(answers, config=config)
    finished = []
    for frame in views([0, 1, 2, 3]):
        asked.add(frame)
        finished.append(asked.is_finished)
    assert finished == [False, False, True, True]
    assert (asked.answer.probability, asked.answer.num_frames, asked.answer.status) == (0.0, 3, Status.FEW_INLIERS)


def test_forgetting_begins_anew():
    asked = relocaliser([seen_from(10, 10), seen_from(10, 10)])
    frame = views([0])[0]
    first = asked.add(frame)
    asked.forget()
    assert (asked.answer.num_frames, asked.answer.match) == (0, None)
    assert asked.add(frame).probability == first.probability


def test_a_bad_pose_is_refused_and_changes_nothing():
    asked = relocaliser([seen_from(10, 10), seen_from(11, 11)])
    first, second = views([0, 1])
    answer = asked.add(first)
    with pytest.raises(InputError, match="T_odom_base is not rigid"):
        asked.add(replace(second, T_odom_base=2 * np.eye(4)))
    assert asked.answer is answer
    assert asked.add(second).num_frames == 2


# -- with real pictures ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known_map(tmp_path_factory) -> MapStore:
    """The first pass on disk, read-only."""
    path = tmp_path_factory.mktemp("known") / "map.progeo"
    with MapStore.create(path, encoder().spec) as store:
        detector = LoopDetector(encoder(), store, camera(), settings())
        for frame in two_passes()[0][:NUM_POSES]:
            detector.process(frame)
    return MapStore.open(path, read_only=True)


def test_a_read_only_map_of_rendered_pictures_tells_where_the_robot_is(known_map):
    frames, truth = two_passes()
    away = make_transform(rotation_exp([0, 0, 2.0]), [50.0, -20.0, 1.0])
    asked = Relocaliser(LoopDetector(encoder(), known_map, camera(), settings()))
    for frame in frames[NUM_POSES:]:
        assert frame.T_odom_base is not None
        answer = asked.add(replace(frame, T_odom_base=away @ frame.T_odom_base))
        if asked.is_finished:
            break
    assert answer.match is not None and answer.stamp_ns is not None
    assert frames[0].T_odom_base is not None
    T_odom_world = frames[0].T_odom_base @ invert(truth[frames[0].stamp_ns])
    assert error_m(answer.T_odom_base, T_odom_world @ truth[answer.stamp_ns]) < 0.05


@pytest.mark.parametrize("value", [0, 90, 255])
def test_a_lens_cap_is_unrecognisable(known_map, value):
    asked = Relocaliser(LoopDetector(encoder(), known_map, camera(), settings()))
    for frame in two_passes()[0][NUM_POSES:]:
        noise = np.random.default_rng(frame.stamp_ns).integers(0, 3, frame.image.shape, dtype=np.uint8)
        answer = asked.add(replace(frame, image=np.full_like(frame.image, value) ^ noise))
    assert (answer.match, answer.status, answer.num_frames) == (None, Status.UNRECOGNISABLE, 0)


def test_a_black_picture_is_unrecognisable_rather_than_frozen(known_map):
    asked = Relocaliser(LoopDetector(encoder(), known_map, camera(), settings()))
    for frame in two_passes()[0][NUM_POSES:]:
        answer = asked.add(replace(frame, image=np.zeros_like(frame.image)))
    assert (answer.match, answer.status, answer.num_frames) == (None, Status.UNRECOGNISABLE, 0)


def test_another_street_is_no_match(known_map):
    asked = Relocaliser(LoopDetector(encoder(), known_map, camera(), settings()))
    for frame in two_passes()[0][NUM_POSES:]:
        mirrored = np.ascontiguousarray(frame.image[:, ::-1])
        answer = asked.add(replace(frame, image=mirrored, depth_m=None))
    assert answer.match is None
