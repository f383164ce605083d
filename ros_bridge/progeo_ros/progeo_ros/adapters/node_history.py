"""The nodes of a SLAM system's own graph, by the stamps they were made at.

A SLAM system chooses its nodes by itself, so a keyframe rarely has the stamp of a node. Odometry bridges the moment
between the two.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from progeo_edge.config import OdometryConfig
from progeo_edge.constraints import step_covariance
from progeo_edge.geometry import FloatArray, adjoint, invert, quaternion_xyzw, transform_from_quaternion
from progeo_edge.types import Transform
from progeo_ros.transforms import PoseHistory

MAX_NODES = 200_000
"""Older nodes are forgotten: at one per second that is 55 hours, in 14 MB."""
MAX_WITHOUT_POSE = 64
"""Nodes that wait for an image after them, to have odometry on both sides."""
SAME_IMAGE_NS = 5_000_000
"""Stamps this near are of one image; they may have been rounded on their way through other programs."""
_POSE_SIZE = 7
_UNKNOWN_POSE = array("d", [float("nan")] * _POSE_SIZE)


@dataclass(frozen=True, slots=True, eq=False)
class NodeMatch:
    """A node near a keyframe.

    Attributes:
        id: As the SLAM system counts.
        T_node_keyframe: Pose of the keyframe's base in that of the node; exactly the identity for the same image.
        is_same_image: Whether nothing had to be bridged.
    """

    id: int
    T_node_keyframe: Transform
    is_same_image: bool


class NodeHistory:
    """Stamps and ids of the nodes of a graph, with the odometry pose at each.

    Args:
        max_offset_ns: A node further from a keyframe is not used for it.
        max_nodes: How many are remembered.
    """

    def __init__(self, max_offset_ns: int, max_nodes: int = MAX_NODES) -> None:
        self._max_offset_ns = max_offset_ns
        self._max_nodes = max_nodes
        self._odometry = PoseHistory[Transform](lambda T_odom_base: T_odom_base)
        self.clear()

    def clear(self) -> None:
        """Forget the nodes: their graph was begun anew."""
        self._stamps_ns = array("q")
        self._ids = array("q")
        self._poses = array("d")
        self._without_pose: deque[int] = deque(maxlen=MAX_WITHOUT_POSE)

    def __len__(self) -> int:
        """Number of nodes that are known."""
        return len(self._ids)

    def add_node(self, stamp_ns: int, node_id: int) -> bool:
        """Note a node.

        Returns:
            Whether the graph was begun anew: an id or a stamp lower than the last one. Older nodes are then forgotten.
        """
        begun_anew = len(self) > 0 and (node_id < self._ids[-1] or stamp_ns < self._stamps_ns[-1])
        if begun_anew:
            self.clear()
        elif len(self) > 0 and (node_id == self._ids[-1] or stamp_ns == self._stamps_ns[-1]):
            return False  # said again
        self._stamps_ns.append(stamp_ns)
        self._ids.append(node_id)
        self._poses.extend(_UNKNOWN_POSE)
        self._without_pose.append(stamp_ns)
        self._find_poses()
        self._forget_oldest()
        return begun_anew

    def add_pose(self, stamp_ns: int, T_odom_base: Transform | None) -> None:
        """Note the odometry of an image, a keyframe or not."""
        if T_odom_base is not None:
            self._odometry.add(stamp_ns, T_odom_base)
            self._find_poses()

    def match(self, stamp_ns: int, T_odom_base: Transform | None, is_usable: Callable[[int], bool]) -> NodeMatch | None:
        """The nearest usable node of a keyframe, if one is near enough and the odometry between them is known.

        Args:
            stamp_ns: Of the keyframe.
            T_odom_base: Its odometry.
            is_usable: Whether a node, by its id, is still in the graph.
        """
        first = bisect_left(self._stamps_ns, stamp_ns - self._max_offset_ns)
        last = bisect_left(self._stamps_ns, stamp_ns + self._max_offset_ns + 1)
        for index in sorted(range(first, last), key=lambda i: abs(self._stamps_ns[i] - stamp_ns)):
            if not is_usable(self._ids[index]):
                continue
            if abs(self._stamps_ns[index] - stamp_ns) <= SAME_IMAGE_NS:
                return NodeMatch(self._ids[index], np.eye(4), True)
            T_odom_node = self._pose(index)
            if T_odom_node is not None and T_odom_base is not None:
                return NodeMatch(self._ids[index], invert(T_odom_node) @ T_odom_base, False)
        return None

    def is_hopeless(self, stamp_ns: int) -> bool:
        """Whether no node near this stamp can come any more, since nodes come in the order of time."""
        if len(self) == 0 or self._stamps_ns[-1] <= stamp_ns + self._max_offset_ns:
            return False
        first = bisect_left(self._stamps_ns, stamp_ns - self._max_offset_ns)
        return self._stamps_ns[first] > stamp_ns + self._max_offset_ns

    def _find_poses(self) -> None:
        """Give poses to nodes that were waiting for an image after them."""
        for stamp_ns in [stamp_ns for stamp_ns in self._without_pose if self._odometry.reaches(stamp_ns)]:
            self._without_pose.remove(stamp_ns)
            T_odom_node = self._odometry.at(stamp_ns)
            index = bisect_left(self._stamps_ns, stamp_ns)
            if T_odom_node is not None and index < len(self) and self._stamps_ns[index] == stamp_ns:
                values = [*T_odom_node[:3, 3].tolist(), *quaternion_xyzw(T_odom_node[:3, :3]).tolist()]
                self._poses[_POSE_SIZE * index : _POSE_SIZE * (index + 1)] = array("d", values)

    def _pose(self, index: int) -> Transform | None:
        values = self._poses[_POSE_SIZE * index : _POSE_SIZE * (index + 1)]
        return None if np.isnan(values[0]) else transform_from_quaternion(values[:3], values[3:])

    def _forget_oldest(self) -> None:
        if len(self) <= self._max_nodes:
            return
        num_forgotten = max(1, self._max_nodes // 10)
        del self._stamps_ns[:num_forgotten], self._ids[:num_forgotten], self._poses[: _POSE_SIZE * num_forgotten]


def between_nodes(
    T_reference_query: Transform, covariance: FloatArray, reference: NodeMatch, query: NodeMatch
) -> tuple[Transform, FloatArray]:
    """A closure between keyframes as one between the nodes beside them.

    Args:
        T_reference_query: Between the keyframes.
        covariance: (6, 6) of it, right perturbation, translation first.
        reference: Node of the reference.
        query: Node of the query.

    Returns:
        Pose of the query's node in the reference's node, and its covariance, to which the odometry between keyframes
        and nodes has added its drift.
    """
    T_query_node = invert(query.T_node_keyframe)
    T = reference.T_node_keyframe @ T_reference_query @ T_query_node
    result = _carried(covariance, query.T_node_keyframe)
    if not query.is_same_image:
        result = result + _carried(_drift(query), query.T_node_keyframe)
    if not reference.is_same_image:
        result = result + _carried(_drift(reference), invert(T_reference_query @ T_query_node))
    return T, 0.5 * (result + result.T)


def _carried(covariance: FloatArray, T: Transform) -> FloatArray:
    """Covariance of a right perturbation that is carried through what follows it: X exp(xi) Y with T = Y^-1."""
    A = adjoint(T)
    return np.asarray(A @ covariance @ A.T)


def _drift(match: NodeMatch) -> FloatArray:
    return step_covariance(match.T_node_keyframe, OdometryConfig())
