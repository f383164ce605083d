from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from progeo_edge.config import OdometryConfig
from progeo_edge.constraints import step_covariance
from progeo_edge.geometry import FloatArray, invert, make_transform, rotation_exp, se3_exp, se3_log
from progeo_edge.types import Transform
from progeo_ros.adapters.node_history import NodeHistory, NodeMatch, between_nodes
from tests.ros_bridge.adapters.outcomes import covariances, seconds, transforms

MS = 1_000_000


def anything(_: int) -> bool:
    return True


def driving(at_s: float) -> Transform:
    """Straight ahead at 2 m/s while turning at 0.5 rad/s."""
    return make_transform(rotation_exp([0.0, 0.0, 0.5 * at_s]), [2.0 * at_s, 0.0, 0.0])


def history(max_offset_ms: float = 50.0, *, odometry_s: tuple[float, ...] = ()) -> NodeHistory:
    result = NodeHistory(round(max_offset_ms * MS))
    for at_s in odometry_s:
        result.add_pose(seconds(at_s), driving(at_s))
    return result


def test_a_node_of_the_same_image_needs_no_odometry() -> None:
    nodes = history()
    nodes.add_node(seconds(1.0) + 400, 7)  # rounded on its way through a double
    match = nodes.match(seconds(1.0), None, anything)
    assert match is not None and match.id == 7 and match.is_same_image
    np.testing.assert_array_equal(match.T_node_keyframe, np.eye(4))


def test_odometry_bridges_the_moment_between_node_and_keyframe() -> None:
    nodes = history(odometry_s=(0.9, 1.0, 1.1))
    nodes.add_node(seconds(1.04), 7)
    match = nodes.match(seconds(1.0), driving(1.0), anything)
    assert match is not None and not match.is_same_image
    expected = invert(driving(1.04)) @ driving(1.0)
    np.testing.assert_allclose(match.T_node_keyframe, expected, atol=1e-3)
    assert match.T_node_keyframe[0, 3] < 0.0  # the keyframe lies behind the node
    assert np.linalg.norm(match.T_node_keyframe[:3, 3]) == pytest.approx(0.08, abs=1e-3)


def test_a_node_gets_its_pose_when_the_image_after_it_comes() -> None:
    nodes = history(odometry_s=(0.9, 1.0))
    nodes.add_node(seconds(1.04), 7)
    assert nodes.match(seconds(1.0), driving(1.0), anything) is None
    nodes.add_pose(seconds(1.1), driving(1.1))
    assert nodes.match(seconds(1.0), driving(1.0), anything) is not None


def test_without_odometry_a_node_of_another_image_is_not_used() -> None:
    nodes = history()
    nodes.add_node(seconds(1.04), 7)
    assert nodes.match(seconds(1.0), driving(1.0), anything) is None
    nodes = history(odometry_s=(0.9, 1.0, 1.1))
    nodes.add_node(seconds(1.04), 7)
    assert nodes.match(seconds(1.0), None, anything) is None


def test_nearest_usable_node_within_the_offset() -> None:
    nodes = history(odometry_s=(0.9, 1.0, 1.1, 1.2))
    for at_s, node_id in ((0.97, 1), (1.02, 2), (1.06, 3)):
        nodes.add_node(seconds(at_s), node_id)

    def nearest(usable: set[int]) -> int | None:
        match = nodes.match(seconds(1.0), driving(1.0), lambda node_id: node_id in usable)
        return None if match is None else match.id

    assert nearest({1, 2, 3}) == 2
    assert nearest({1, 3}) == 1
    assert nearest({3}) is None  # 60 ms away


def test_hopeless_only_when_a_later_node_has_come() -> None:
    nodes = history()
    assert not nodes.is_hopeless(seconds(1.0))
    nodes.add_node(seconds(0.5), 1)
    assert not nodes.is_hopeless(seconds(1.0))
    nodes.add_node(seconds(2.0), 2)
    assert nodes.is_hopeless(seconds(1.0))
    assert not nodes.is_hopeless(seconds(2.03))
    assert nodes.is_hopeless(seconds(0.1))


def test_lower_id_or_earlier_stamp_begins_anew_and_the_same_again_does_not() -> None:
    nodes = history()
    assert not nodes.add_node(seconds(1.0), 5)
    assert not nodes.add_node(seconds(1.0), 5)
    assert not nodes.add_node(seconds(1.5), 5)  # the id keeps its first stamp
    assert len(nodes) == 1
    assert nodes.match(seconds(1.5), None, anything) is None
    assert nodes.add_node(seconds(2.0), 1)
    assert len(nodes) == 1 and nodes.match(seconds(1.0), None, anything) is None
    assert nodes.add_node(seconds(0.5), 2)
    assert len(nodes) == 1


def test_memory_is_bounded_over_days() -> None:
    nodes = NodeHistory(50 * MS, max_nodes=1000)
    for number in range(20_000):
        nodes.add_pose(seconds(number), driving(0.0))
        nodes.add_node(seconds(number), number)
    assert 900 <= len(nodes) <= 1000
    match = nodes.match(seconds(19_500), driving(0.0), anything)
    assert match is not None and match.id == 19_500
    assert nodes.match(seconds(100), driving(0.0), anything) is None
    assert nodes.is_hopeless(seconds(100))


@settings(deadline=None)
@given(transforms, transforms, transforms, covariances)
def test_between_nodes_moves_both_ends(
    T_reference_query: Transform, T_node_reference: Transform, T_node_query: Transform, covariance: FloatArray
) -> None:
    T, result = between_nodes(
        T_reference_query, covariance, NodeMatch(1, T_node_reference, False), NodeMatch(2, T_node_query, False)
    )
    # A point of the query's node, in the reference's node, the long way round.
    np.testing.assert_allclose(T @ T_node_query, T_node_reference @ T_reference_query, atol=1e-9)
    np.testing.assert_array_equal(result, result.T)
    assert np.linalg.eigvalsh(result).min() > 0.0


@settings(deadline=None, max_examples=30)
@given(transforms, transforms, covariances)
def test_between_nodes_carries_the_covariance_as_perturbing_says(
    T_reference_query: Transform, T_node_query: Transform, covariance: FloatArray
) -> None:
    same = NodeMatch(1, np.eye(4), True)
    query = NodeMatch(2, T_node_query, True)  # nothing bridged: no drift is added
    T, result = between_nodes(T_reference_query, covariance, same, query)
    jacobian = np.zeros((6, 6))
    for column in range(6):
        step = np.zeros(6)
        step[column] = 1e-6
        perturbed, _ = between_nodes(T_reference_query @ se3_exp(step), covariance, same, query)
        jacobian[:, column] = se3_log(invert(T) @ perturbed) / 1e-6
    np.testing.assert_allclose(result, jacobian @ covariance @ jacobian.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bridged_end", [0, 1])
def test_the_drift_of_each_bridge_is_carried_as_perturbing_says(bridged_end: int) -> None:
    T_bridge, T_reference_query = driving(0.3), driving(4.0) @ make_transform(rotation_exp([0.2, -0.4, 1.0]), [1, 2, 3])
    covariance = np.diag([0.01] * 3 + [0.001] * 3)

    def result(T: Transform, *, is_same_image: bool) -> tuple[Transform, FloatArray]:
        matches = [NodeMatch(1, np.eye(4), True), NodeMatch(2, np.eye(4), True)]
        matches[bridged_end] = NodeMatch(3, T, is_same_image)
        return between_nodes(T_reference_query, covariance, *matches)

    T, with_drift = result(T_bridge, is_same_image=False)
    _, without_drift = result(T_bridge, is_same_image=True)
    jacobian = np.zeros((6, 6))
    for column in range(6):
        step = np.zeros(6)
        step[column] = 1e-6
        jacobian[:, column] = se3_log(invert(T) @ result(T_bridge @ se3_exp(step), is_same_image=True)[0]) / 1e-6
    drift = step_covariance(T_bridge, OdometryConfig())
    np.testing.assert_allclose(with_drift - without_drift, jacobian @ drift @ jacobian.T, rtol=1e-3, atol=1e-8)


def test_bridged_nodes_are_less_certain_and_the_same_image_is_not() -> None:
    covariance = np.diag([0.01] * 3 + [0.001] * 3)
    same = NodeMatch(1, np.eye(4), True)
    np.testing.assert_allclose(between_nodes(np.eye(4), covariance, same, same)[1], covariance, atol=1e-15)
    bridged = NodeMatch(2, driving(0.04), False)
    for pair in ((same, bridged), (bridged, same)):
        _, wider = between_nodes(driving(1.0), covariance, *pair)
        assert np.linalg.eigvalsh(wider).min() > np.linalg.eigvalsh(covariance).min()
