"""Which topics there are, and what an outcome puts on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rosbags.typesys import Stores, get_typestore

from progeo_edge.types import PoseKind, Status
from progeo_ros.config import NodeConfig
from progeo_ros.conversions.incoming import image_of
from progeo_ros.events import Thumbnail, thumbnail_of
from progeo_ros.publications import MAX_LINES, publications
from progeo_ros.rosbags_types import RosbagsTypes
from tests.ros_bridge.messages import IMAGE, TYPES, closure, outcome, turned, verification
from tests.small_world import fake_keyframe, fake_map, grid_features

METRIC = verification(PoseKind.METRIC)


def topics(has_progeo_msgs=True, config=None, types=TYPES):
    return {p.topic: p for p in publications(config or NodeConfig(), types, has_progeo_msgs)}


def test_all_topics_with_their_quality_of_service():
    found = {name: (p.depth, p.latched) for name, p in topics().items()}
    assert found == {
        "loop_closures": (100, True),
        "loop_candidates": (10, False),
        "keyframes": (10, False),
        "global_descriptor": (10, False),
        "relocalization_pose": (10, False),
        "match_image": (1, False),
        "loop_markers": (1, True),
    }
    # A late joiner gets what is latched, so it cannot wait for somebody to listen.
    assert all(p.always for p in topics().values() if p.latched)
    assert not topics()["match_image"].always


@pytest.mark.parametrize("ros", [Stores.ROS2_HUMBLE, Stores.ROS2_JAZZY, Stores.ROS1_NOETIC])
@pytest.mark.parametrize("has_progeo_msgs", [True, False])
def test_every_topic_gives_messages_of_its_type(ros, has_progeo_msgs):
    types = RosbagsTypes(get_typestore(ros))
    said = replace(
        outcome(closure(2, METRIC), closure(0, METRIC), T_odom_base=turned(1.0)),
        thumbnail_of=lambda _id: Thumbnail(IMAGE, None),
    )
    for publication in publications(NodeConfig(), types, has_progeo_msgs):
        messages = list(publication.build(types, said))
        assert messages
        for message in messages:
            assert message.__msgtype__ == publication.msgtype
            assert types.to_bytes(message)


def test_standard_messages_do_when_progeo_msgs_is_not_built():
    found = topics(has_progeo_msgs=False)
    assert list(found) == ["loop_closure_pose", "relocalization_pose", "match_image", "loop_markers"]
    assert not any("progeo_msgs" in p.msgtype for p in found.values())
    assert found["loop_closure_pose"].latched


def test_a_package_that_is_missing_costs_only_its_topic():
    types = RosbagsTypes(get_typestore(Stores.ROS2_JAZZY))
    del types.store.types["visualization_msgs/msg/MarkerArray"]
    assert "loop_markers" not in topics(types=types) and "match_image" in topics(types=types)


def test_an_outcome_without_closure_puts_only_reasons_and_keyframes_out():
    said = outcome(T_odom_base=turned(1.0))
    counts = {name: len(list(p.build(TYPES, said))) for name, p in topics().items()}
    assert {name for name, count in counts.items() if count} == {"loop_candidates", "keyframes", "global_descriptor"}
    said = outcome(kept=False)
    counts = {name: len(list(p.build(TYPES, said))) for name, p in topics().items()}
    assert {name for name, count in counts.items() if count} == {"loop_candidates"}


def test_descriptors_are_of_the_type_that_is_set():
    config = NodeConfig.model_validate({"output": {"descriptor_dtype": "float16"}})
    (descriptor,) = topics(config=config)["global_descriptor"].build(TYPES, outcome())
    (keyframe,) = topics(config=config)["keyframes"].build(TYPES, outcome())
    assert len(descriptor.data) == len(keyframe.descriptor.data) == 8
    assert descriptor.dtype == keyframe.descriptor.dtype == descriptor.FLOAT16


def test_relocalization_is_in_the_frame_that_is_set():
    config = NodeConfig.model_validate({"frames": {"map": "world"}})
    (message,) = topics(config=config)["relocalization_pose"].build(TYPES, outcome(closure(0, METRIC)))
    assert message.header.frame_id == "world"


def test_the_match_picture_shows_the_best_closure_at_the_height_that_is_set():
    asked = []

    def thumbnail(reference_id):
        asked.append(reference_id)
        return Thumbnail(IMAGE, None)

    config = NodeConfig.model_validate({"output": {"match_image_height_px": 96}})
    weak, strong = closure(0, verification(PoseKind.METRIC, inliers=31)), closure(2, METRIC)
    said = replace(outcome(weak, strong), thumbnail_of=thumbnail)
    (message,) = topics(config=config)["match_image"].build(TYPES, said)
    assert asked == [2]
    assert image_of(message).shape[0] == message.height == 96


def test_thumbnails_come_from_the_map():
    store = fake_map([0.0, 90.0])
    keyframe = fake_keyframe(2, 10.0, features=[None, None, grid_features(size_px=(640, 480))])
    store.add_keyframe(keyframe, status=Status.NO_CANDIDATE, thumbnail=IMAGE)
    found = thumbnail_of(store, 2)
    assert found is not None and found.original_size_px == (640, 480) and found.image.shape == IMAGE.shape
    assert thumbnail_of(store, 0) is None


def test_markers_gather_the_closures_of_one_session():
    build = topics()["loop_markers"].build
    (first,) = build(TYPES, outcome(closure(2, METRIC), T_odom_base=turned(5.0)))
    assert len(first.markers[0].points) == 2
    assert list(build(TYPES, outcome(T_odom_base=turned(5.5)))) == []
    # The first session's odometry frame is another one: no line can be drawn to its keyframes.
    assert list(build(TYPES, outcome(closure(0, METRIC), T_odom_base=turned(5.5)))) == []
    (second,) = build(TYPES, outcome(closure(2, METRIC), T_odom_base=turned(6.0)))
    assert [p.x for p in second.markers[0].points] == [2.0, 5.0, 2.0, 6.0]
    (fresh,) = build(TYPES, outcome(closure(0, METRIC), T_odom_base=turned(1.0), session=0))
    assert [p.x for p in fresh.markers[0].points] == [0.0, 1.0]


def test_markers_are_bounded():
    build = topics()["loop_markers"].build
    many = [closure(2, METRIC)] * (MAX_LINES + 5)
    (message,) = build(TYPES, outcome(*many, T_odom_base=turned(np.pi)))
    assert len(message.markers[0].points) == 2 * MAX_LINES


def test_a_closure_that_was_withheld_is_drawn_from_its_own_keyframe():
    (message,) = topics()["loop_markers"].build(
        TYPES, outcome(released=(closure(2, METRIC, 2),), T_odom_base=turned(9))
    )
    assert [p.x for p in message.markers[0].points] == [2.0, 2.0], "keyframe 2, not the one at 9 m"
    assert list(topics()["match_image"].build(TYPES, outcome(released=(closure(2, METRIC, 3),)))) == []
