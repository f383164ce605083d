from __future__ import annotations

from typing import Any, Literal

import numpy as np
from hypothesis import given, settings

from progeo_edge.geometry import FloatArray, invert, make_transform, rotation_exp
from progeo_edge.types import PoseKind, Transform
from progeo_ros.adapters.pose_graph import PoseGraph
from progeo_ros.config import NodeConfig, PoseGraphConfig
from progeo_ros.message_types import stamp_ns_of
from tests.ros_bridge.adapters.foreign_messages import POSE_GRAPH, foreign_types, through_the_wire
from tests.ros_bridge.adapters.outcomes import (
    COVARIANCE,
    closure,
    covariances,
    info,
    messages,
    outcome,
    read_transform,
    seconds,
    transforms,
)

TYPES = foreign_types(POSE_GRAPH)
T_LEFT = make_transform(rotation_exp([0.0, 0.0, np.pi / 2]), [1.0, 2.0, 0.0])


def adapter(keys: Literal["ids", "stamps"] = "ids", robot_id: int = 0) -> PoseGraph:
    return PoseGraph(NodeConfig(pose_graph=PoseGraphConfig(robot_id=robot_id, keys=keys)), TYPES)


def sent(pose_graph: PoseGraph, topic: str, *arguments: Any, **named: Any) -> list[Any]:
    return [
        through_the_wire(TYPES, message)
        for message in messages(pose_graph.on_outcome(outcome(*arguments, **named)), topic)
    ]


@settings(deadline=None, max_examples=30)
@given(transforms, covariances)
def test_edge_from_reference_to_query_under_ids(T: Transform, covariance: FloatArray) -> None:
    loop = closure(50, 3, T, covariance)
    (graph,) = sent(adapter(robot_id=5), "pose_graph_incremental", 60.0, 50, np.eye(4), [loop], [info(3, 1.0)])
    (edge,) = graph.edges
    assert (edge.type, edge.robot_from, edge.robot_to) == (1, 5, 5)
    assert edge.key_from == 5 * 2**56 + 3 and edge.key_to == 5 * 2**56 + 50
    assert stamp_ns_of(edge.header.stamp) == seconds(60.0)
    np.testing.assert_allclose(read_transform(edge.pose), T, atol=1e-9)
    np.testing.assert_array_equal(np.asarray(edge.covariance).reshape(6, 6), covariance)


def test_highest_robot_and_id_fit() -> None:
    (graph,) = sent(adapter(robot_id=255), "pose_graph_incremental", 1.0, 2**56 - 1, np.eye(4))
    assert graph.nodes[0].key == 2**64 - 1


def test_the_graph_brings_its_own_nodes_and_odometry() -> None:
    pose_graph = adapter(robot_id=1)
    first, second = T_LEFT, T_LEFT @ make_transform(np.eye(3), [0.5, 0.0, 0.0])
    (graph,) = sent(pose_graph, "pose_graph_incremental", 1.0, 7, first)
    assert len(graph.edges) == 0 and graph.header.frame_id == "odom"
    (node,) = graph.nodes
    assert (node.robot_id, node.key, node.header.frame_id) == (1, 2**56 + 7, "odom")
    np.testing.assert_allclose(read_transform(node.pose), first, atol=1e-12)
    assert sent(pose_graph, "pose_graph_incremental", 1.5, None, first) == []  # no keyframe
    (graph,) = sent(pose_graph, "pose_graph_incremental", 2.0, 8, second)
    (edge,) = graph.edges
    assert (edge.type, edge.key_from - 2**56, edge.key_to - 2**56) == (0, 7, 8)
    np.testing.assert_allclose(read_transform(edge.pose), invert(first) @ second, atol=1e-9)
    assert np.linalg.eigvalsh(np.asarray(edge.covariance).reshape(6, 6)).min() > 0.0


def test_odometry_does_not_join_sessions() -> None:
    pose_graph = adapter()
    sent(pose_graph, "pose_graph_incremental", 1.0, 7, np.eye(4))
    (graph,) = sent(pose_graph, "pose_graph_incremental", 2.0, 8, np.eye(4), session=2)
    assert len(graph.edges) == 0


def test_hydra_finds_nodes_by_stamps_and_reads_the_pose_of_from_in_to() -> None:
    pose_graph = adapter("stamps", robot_id=2)
    assert sent(pose_graph, "external_loop_closures", 1.0, 3, np.eye(4)) == []
    (graph,) = sent(pose_graph, "external_loop_closures", 60.0, 50, None, [closure(50, 3, T_LEFT)], [info(3, 1.0)])
    assert len(graph.nodes) == 0
    (edge,) = graph.edges
    assert (edge.key_from, edge.key_to) == (seconds(60.0), seconds(1.0))
    assert (edge.type, edge.robot_from, edge.robot_to) == (1, 2, 2)
    T_to_from = read_transform(edge.pose)  # where `from`, the query, is in `to`, the reference
    np.testing.assert_allclose(T_to_from, T_LEFT, atol=1e-12)
    np.testing.assert_allclose(np.asarray(edge.covariance).reshape(6, 6), COVARIANCE)


def test_what_is_not_sent() -> None:
    for keys, topic in (("ids", "pose_graph_incremental"), ("stamps", "external_loop_closures")):
        pose_graph = adapter(keys)  # type: ignore[arg-type]
        loops = [
            closure(50, 3, kind=PoseKind.UP_TO_SCALE),
            closure(50, 4),
            closure(50, 5, covariance=np.zeros((6, 6))),
        ]
        references = [info(3, 1.0), info(4, 2.0, session=0), info(5, 3.0)]
        for graph in sent(pose_graph, topic, 60.0, 50, np.eye(4), loops, references):
            assert len(graph.edges) == 0
        assert pose_graph.counters() == {"not_metric": 1, "other_session": 1, "bad_covariance": 1}


def test_without_odometry_there_is_no_node_for_the_closure() -> None:
    pose_graph = adapter()
    assert sent(pose_graph, "pose_graph_incremental", 60.0, 50, None, [closure(50, 3)], [info(3, 1.0)]) == []
    assert pose_graph.counters() == {"without_odometry": 1}
