from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from progeo_edge.geometry import FloatArray, invert, make_transform, rotation_exp
from progeo_edge.types import LoopClosure, PoseKind, Transform
from progeo_ros.adapters.rtabmap_links import MAX_WAITING, RtabmapLinks
from progeo_ros.config import InputConfig, NodeConfig, RtabmapConfig
from progeo_ros.message_types import make_header
from tests.ros_bridge.adapters.fake_rtabmap import FakeRtabmap
from tests.ros_bridge.adapters.foreign_messages import RTABMAP, foreign_types
from tests.ros_bridge.adapters.outcomes import (
    COVARIANCE,
    closure,
    covariances,
    info,
    outcome,
    read_transform,
    seconds,
    transforms,
)

TYPES = foreign_types(RTABMAP)
T_REFERENCE_QUERY = make_transform(rotation_exp([0.0, 0.0, np.pi / 2]), [1.0, 2.0, 0.5])


def rtabmap(**settings: Any) -> FakeRtabmap:
    return FakeRtabmap(TYPES, RtabmapLinks(NodeConfig(rtabmap=RtabmapConfig(**settings)), TYPES))


def close_loop(
    ros: FakeRtabmap, at_s: float = 60.0, reference_s: float = 1.0, loop: LoopClosure | None = None, session: int = 1
) -> None:
    """Keyframe 50 sees the place of keyframe 3."""
    closures = [loop or closure(50, 3, T_REFERENCE_QUERY)]
    references = [info(3, reference_s, np.eye(4), session)]
    ros.perform(ros.adapter.on_outcome(outcome(at_s, 50, np.eye(4), closures, references)))


def tick(ros: FakeRtabmap, *at_s: float) -> None:
    for value in at_s:
        ros.perform(ros.adapter.on_tick(seconds(value)))


def drive(ros: FakeRtabmap, up_to: int = 60) -> None:
    """One node per second, whose id is ten more than its second."""
    for second in range(up_to + 1):
        ros.make_node(10 + second, float(second))


# -- what is sent ----------------------------------------------------------------------------------------------------


def test_link_from_the_reference_to_the_query_with_the_pose_of_to_in_from() -> None:
    ros = rtabmap()
    drive(ros)
    close_loop(ros)
    (link,) = ros.requests
    assert (link.from_id, link.to_id, link.type) == (11, 70, 1)
    # The query stands 1 m ahead, 2 m left and half a metre above the reference, turned left.
    t, q = link.transform.translation, link.transform.rotation
    np.testing.assert_allclose([t.x, t.y, t.z], [1.0, 2.0, 0.5], atol=1e-12)
    np.testing.assert_allclose([q.x, q.y, q.z, q.w], [0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)], atol=1e-12)
    # pose(to) = pose(from) * transform: where the map has the reference, the query must come out.
    T_map_reference = make_transform(rotation_exp([0.0, 0.0, np.pi]), [10.0, 0.0, 0.0])
    np.testing.assert_allclose(
        (T_map_reference @ ros.links[11, 70])[:3, 3], T_map_reference[:3, :3] @ [1.0, 2.0, 0.5] + [10.0, 0.0, 0.0]
    )


@settings(deadline=None, max_examples=50)
@given(transforms, covariances)
def test_information_is_the_inverse_of_the_covariance_row_major_translation_first(
    T: Transform, covariance: FloatArray
) -> None:
    ros = rtabmap()
    drive(ros)
    close_loop(ros, loop=closure(50, 3, T, covariance))
    (link,) = ros.requests
    information = np.asarray(link.information).reshape(6, 6)
    np.testing.assert_array_equal(information, information.T)
    assert np.linalg.eigvalsh(information).min() > 0.0
    np.testing.assert_allclose(information @ covariance, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(read_transform(link.transform), T, atol=1e-9)


def test_information_order() -> None:
    ros = rtabmap()
    drive(ros)
    close_loop(ros, loop=closure(50, 3, covariance=np.diag([1.0, 2.0, 4.0, 0.125, 0.25, 0.5])))
    expected = np.diag([1.0, 0.5, 0.25, 8.0, 4.0, 2.0])
    np.testing.assert_allclose(np.asarray(ros.requests[0].information).reshape(6, 6), expected)


def test_a_node_between_two_keyframes_gets_the_link_moved_by_odometry() -> None:
    ros = rtabmap(max_stamp_offset_ms=300.0)

    def pose(at_s: float) -> Transform:
        return make_transform(rotation_exp([0.0, 0.0, 0.3 * at_s]), [1.5 * at_s, 0.0, 0.0])

    references = [info(3, 1.0, pose(1.0))]
    for at_s in (0.8, 1.0, 1.2):
        ros.perform(ros.adapter.on_outcome(outcome(at_s, T=pose(at_s))))
    ros.make_node(11, 1.1)
    ros.perform(ros.adapter.on_outcome(outcome(1.4, T=pose(1.4))))
    for at_s in (59.8, 60.0):
        loops = [closure(50, 3, T_REFERENCE_QUERY)] if at_s == 60.0 else []
        keyframe_id = 50 if at_s == 60.0 else None
        ros.perform(ros.adapter.on_outcome(outcome(at_s, keyframe_id, pose(at_s), loops, references)))
    ros.make_node(70, 60.1)
    assert not ros.requests  # the image after the node has not come
    ros.perform(ros.adapter.on_outcome(outcome(60.2, T=pose(60.2))))
    (link,) = ros.requests
    expected = invert(pose(1.1)) @ pose(1.0) @ T_REFERENCE_QUERY @ invert(invert(pose(60.1)) @ pose(60.0))
    np.testing.assert_allclose(read_transform(link.transform), expected, atol=1e-3)
    weight = np.linalg.eigvalsh(np.asarray(link.information).reshape(6, 6)).max()
    assert weight < np.linalg.eigvalsh(np.linalg.inv(COVARIANCE)).max()


@pytest.mark.parametrize(
    ("loop", "session", "reason"),
    [
        (closure(50, 3, kind=PoseKind.UP_TO_SCALE), 1, "not_metric"),
        (closure(50, 3, kind=PoseKind.ROTATION_ONLY), 1, "not_metric"),
        (LoopClosure(50, 3, 0.9), 1, "not_metric"),
        (closure(50, 3, covariance=None), 1, "not_metric"),
        (closure(50, 3), 0, "other_session"),
        (closure(50, 3, covariance=np.zeros((6, 6))), 1, "bad_covariance"),
        (closure(50, 3, covariance=np.diag([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])), 1, "bad_covariance"),
        (closure(50, 3, covariance=np.full((6, 6), np.nan)), 1, "bad_covariance"),
        (closure(50, 3, T=2.0 * np.eye(4)), 1, "bad_covariance"),
    ],
)
def test_what_is_not_sent(loop: LoopClosure, session: int, reason: str) -> None:
    ros = rtabmap()
    drive(ros)
    close_loop(ros, loop=loop, session=session)
    assert not ros.requests and ros.count(reason) == 1
    assert ros.count("waiting_for_ids") == 0


def test_two_images_of_one_node_make_no_link() -> None:
    ros = rtabmap()
    drive(ros)
    close_loop(ros, at_s=1.004, reference_s=1.0)
    assert not ros.requests and ros.count("same_node") == 1


def test_relocalisation_makes_no_link() -> None:
    ros = rtabmap()
    drive(ros)
    references = [info(3, 1.0)]
    ros.perform(ros.adapter.on_outcome(outcome(60.0, None, None, [closure(-1, 3)], references)))
    assert not ros.requests and ros.count("other_session") == 1


# -- ids -------------------------------------------------------------------------------------------------------------


def test_ids_that_come_late() -> None:
    ros = rtabmap()
    drive(ros, up_to=59)
    tick(ros, 60.0)
    close_loop(ros)
    assert not ros.requests and ros.count("waiting_for_ids") == 1
    tick(ros, 62.0)
    ros.make_node(70, 60.0)
    assert len(ros.requests) == 1 and ros.count("waiting_for_ids") == 0


def test_ids_that_never_come() -> None:
    ros = rtabmap()
    tick(ros, 60.0)
    close_loop(ros)
    tick(ros, 80.0)
    assert ros.count("waiting_for_ids") == 1
    tick(ros, 91.0)
    assert not ros.requests and ros.count("unknown_ids") == 1 and ros.count("waiting_for_ids") == 0


def test_a_stamp_that_rtabmap_passed_over_is_given_up_at_once() -> None:
    ros = rtabmap()
    drive(ros)
    close_loop(ros, at_s=59.5)
    tick(ros, 61.0)
    assert not ros.requests and ros.count("unknown_ids") == 1


def test_a_node_that_was_dropped_because_the_robot_stood_still_is_not_used() -> None:
    ros = rtabmap(max_stamp_offset_ms=1500.0)
    ros.perform(ros.adapter.on_outcome(outcome(0.9, T=np.eye(4))))
    ros.perform(ros.adapter.on_outcome(outcome(1.3, T=np.eye(4))))
    ros.make_node(11, 1.0, stays=False)
    ros.make_node(12, 1.2)
    ros.make_node(70, 60.0)
    ros.publish_graph()
    close_loop(ros)
    assert [(link.from_id, link.to_id) for link in ros.requests] == [(12, 70)]


def test_an_intermediate_node_would_abort_rtabmap_and_is_not_used() -> None:
    ros = rtabmap()
    drive(ros, up_to=59)
    weights = TYPES.make("rtabmap_msgs/msg/Info", weights_keys=[10, 11, 12], weights_values=[0, -1, 4])
    ros.perform(ros.info.callback(weights))
    close_loop(ros)
    ros.perform(ros.info.callback(TYPES.make("rtabmap_msgs/msg/Info", weights_keys=[10], weights_values=[0, 1])))
    assert ros.count("malformed") == 1
    message = TYPES.make(
        "rtabmap_msgs/msg/Info",
        header=make_header(TYPES, seconds(60.0), "map"),
        ref_id=70,
        weights_keys=[11],
        weights_values=[-1],
    )
    ros.perform(ros.info.callback(message))
    assert not ros.requests and ros.count("waiting_for_ids") == 1
    ros.perform(ros.info.callback(TYPES.make("rtabmap_msgs/msg/Info", weights_keys=[10, 11], weights_values=[-1, 0])))
    assert len(ros.requests) == 1


def test_restart_of_rtabmap_forgets_the_old_ids() -> None:
    ros = rtabmap()
    drive(ros)
    ros.takes_links = False
    close_loop(ros)
    ros.nodes.clear()
    ros.make_node(1, 70.0)
    assert ros.count("restarts") == 1 and ros.count("waiting_for_graph") == 0
    close_loop(ros, at_s=70.0)
    tick(ros, 71.0)
    ros.make_node(2, 71.0)
    tick(ros, 72.0)
    assert len(ros.requests) == 1, "the reference was a node of the graph that is gone"
    assert ros.count("unknown_ids") == 1
    close_loop(ros, at_s=71.0, reference_s=70.0)
    assert [(link.from_id, link.to_id) for link in ros.requests[1:]] == [(1, 2)]


def test_a_restart_while_a_call_is_under_way_leaves_nothing_behind() -> None:
    ros = rtabmap()
    drive(ros)
    actions = list(ros.adapter.on_outcome(outcome(60.0, 50, None, [closure(50, 3)], [info(3, 1.0)])))
    (call,) = actions
    ros.make_node(1, 70.0)
    reply: Callable[[Any], Any] = call.on_reply  # type: ignore[union-attr]
    ros.perform(reply(object()))
    assert ros.count("waiting_for_graph") == 0 and ros.count("waiting_to_be_sent") == 0


# -- what becomes of a link ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inverted", [False, True])
def test_confirmed_by_the_graph_in_either_direction(inverted: bool) -> None:
    ros = rtabmap()
    drive(ros)
    close_loop(ros)
    assert ros.count("waiting_for_graph") == 1
    ros.publish_graph(inverted=inverted)
    assert ros.count("confirmed") == 1 and ros.count("waiting_for_graph") == 0
    tick(ros, 70.0, 100.0)
    assert len(ros.requests) == 1 and ros.count("rejected") == 0


def test_a_link_that_rtabmap_had_itself_is_not_counted_as_ours() -> None:
    ros = rtabmap()
    drive(ros)
    ros.links[11, 70] = make_transform(np.eye(3), [5.0, 0.0, 0.0])
    close_loop(ros)
    ros.publish_graph()
    assert ros.count("already_linked") == 1 and ros.count("confirmed") == 0


def test_silent_rejection_is_retried_with_growing_pauses_and_then_explained(caplog: pytest.LogCaptureFixture) -> None:
    ros = rtabmap(confirm_s=5.0, max_tries=3)
    ros.takes_links = False
    drive(ros)
    tick(ros, 60.0)
    close_loop(ros)
    sent_at_s = [60.0]
    with caplog.at_level(logging.WARNING):
        for at_s in range(61, 160):
            ros.publish_graph()
            tick(ros, float(at_s))
            if len(ros.requests) > len(sent_at_s):
                sent_at_s.append(float(at_s))
    assert sent_at_s == [60.0, 70.0, 85.0]  # 5 s to show and 5 s of pause, then 5 s and 10 s
    assert ros.count("sent") == 3 and ros.count("rejected") == 1 and ros.count("confirmed") == 0
    (record,) = caplog.records
    for reason in ("11 -> 70", "RGBD/OptimizeMaxError", "working memory", "Mem/IncrementalMemory"):
        assert reason in record.getMessage()


def test_one_graph_that_was_already_on_its_way_rejects_nothing() -> None:
    ros = rtabmap(confirm_s=5.0)
    drive(ros)
    tick(ros, 60.0)
    taken, ros.takes_links = ros.links, False
    close_loop(ros)
    ros.publish_graph()  # made before the link was taken
    tick(ros, 66.0)
    assert ros.count("rejected") == 0 and len(ros.requests) == 1
    taken[11, 70] = T_REFERENCE_QUERY
    ros.publish_graph()
    assert ros.count("confirmed") == 1


def test_a_retry_that_succeeds_counts_as_confirmed() -> None:
    ros = rtabmap(confirm_s=5.0)
    ros.takes_links = False
    drive(ros)
    tick(ros, 60.0)
    close_loop(ros)
    ros.publish_graph()
    ros.publish_graph()
    tick(ros, 65.0)
    ros.takes_links = True
    tick(ros, 70.0)
    ros.publish_graph()
    assert len(ros.requests) == 2 and ros.count("confirmed") == 1


def test_without_any_graph_nothing_is_claimed() -> None:
    ros = rtabmap(confirm_s=5.0)
    drive(ros)
    tick(ros, 60.0)
    close_loop(ros)
    tick(ros, 70.0, 109.0)
    assert ros.count("waiting_for_graph") == 1
    tick(ros, 111.0)
    assert ros.count("unconfirmed") == 1 and ros.count("confirmed") == ros.count("rejected") == 0
    assert len(ros.requests) == 1


def test_in_localisation_mode_the_odometry_cache_confirms() -> None:
    ros = rtabmap()
    drive(ros)
    close_loop(ros)
    ros.publish_odometry_cache(70, 11)
    assert ros.count("confirmed") == 1


def test_service_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    ros = rtabmap(max_tries=2, confirm_s=5.0)
    ros.is_up = False
    drive(ros)
    tick(ros, 60.0)
    with caplog.at_level(logging.WARNING):
        close_loop(ros)
        tick(ros, 61.0)
        assert len(ros.requests) == 1
        tick(ros, 65.0)
    assert ros.count("failed_calls") == 2 and ros.count("rejected") == 1
    assert "rtabmap.add_link" in caplog.text


def test_one_call_at_a_time() -> None:
    ros = rtabmap()
    drive(ros)
    loops, references = [closure(50, 3), closure(50, 4)], [info(3, 1.0), info(4, 2.0)]
    first = list(ros.adapter.on_outcome(outcome(60.0, 50, None, loops, references)))
    assert len(first) == 1
    assert list(ros.adapter.on_tick(seconds(61.0))) == []
    ros.perform(first)
    assert [link.from_id for link in ros.requests] == [11, 12]


# -- odds and ends ---------------------------------------------------------------------------------------------------


def test_keyframes_follow_the_nodes_when_the_slam_decides() -> None:
    config = NodeConfig(input=InputConfig(external_keyframes=True))
    ros = FakeRtabmap(TYPES, RtabmapLinks(config, TYPES))
    ros.make_node(11, 1.0)
    (published,) = ros.published
    assert (published.topic, published.msgtype) == ("keyframe", "std_msgs/msg/Header")
    assert published.message.stamp == make_header(TYPES, seconds(1.0), "").stamp


def test_malformed_messages_are_counted() -> None:
    ros = rtabmap()
    for callback in (ros.info.callback, ros.graph.callback):
        assert list(callback(object())) == []
        assert list(callback(TYPES.make("std_msgs/msg/Header"))) == []
    assert ros.count("malformed") == 4
    nonsense = TYPES.make("rtabmap_msgs/msg/Info", ref_id=-5)
    ros.perform(ros.info.callback(nonsense))
    drive(ros)
    close_loop(ros)
    broken = TYPES.make(
        "rtabmap_msgs/msg/MapGraph",
        poses_id=[11, 70],
        links=[TYPES.make("rtabmap_msgs/msg/Link", from_id=11, to_id=70)],
    )
    ros.perform(ros.graph.callback(broken))  # a rotation of zeros is none
    assert ros.count("already_linked") == 1


def test_simulated_time_that_jumps_back_starts_the_clocks_again() -> None:
    ros = rtabmap(confirm_s=5.0)
    ros.takes_links = False
    drive(ros)
    tick(ros, 60.0)
    close_loop(ros)
    ros.publish_graph()
    ros.publish_graph()
    tick(ros, 10.0)
    assert len(ros.requests) == 1
    tick(ros, 15.0, 20.0)
    assert len(ros.requests) == 2


def test_memory_is_bounded_over_days_without_rtabmap() -> None:
    ros = rtabmap()
    for number in range(MAX_WAITING + 500):
        close_loop(ros, at_s=60.0 + number)
    assert ros.count("waiting_for_ids") == MAX_WAITING and ros.count("given_up") == 500


def test_ros_1_has_the_same_layout() -> None:
    types = foreign_types(RTABMAP, ros1=True)
    ros = FakeRtabmap(types, RtabmapLinks(NodeConfig(), types))
    drive(ros)
    close_loop(ros)
    ros.publish_graph()
    assert ros.count("confirmed") == 1
