"""Links and nodes in the messages of RTAB-Map."""

from __future__ import annotations

from typing import Any

import numpy as np

from progeo_edge.back_ends import rotation_vector_information
from progeo_edge.geometry import FloatArray, invert, rotation_angle
from progeo_edge.types import Transform
from progeo_ros.adapters.transform_messages import transform_message, transform_of
from progeo_ros.message_types import MessageTypes

GLOBAL_CLOSURE = 1
"""Link::kGlobalClosure. RTAB-Map treats kUserClosure (4), links set by hand, the same way in its optimisation and its
checks; ours are found by appearance over the whole map, which is what this type says."""
SAME_LINK_M, SAME_LINK_RAD = 1e-3, 1e-3
"""RTAB-Map keeps transforms in single precision."""


def link_message(types: MessageTypes, from_id: int, to_id: int, T_from_to: Transform, covariance: FloatArray) -> Any:  # noqa: ANN401
    """rtabmap_msgs/Link: the transform is the pose of `to` in `from`, the information translation first, row-major."""
    return types.make(
        "rtabmap_msgs/msg/Link",
        from_id=from_id,
        to_id=to_id,
        type=GLOBAL_CLOSURE,
        transform=transform_message(types, T_from_to),
        information=rotation_vector_information(covariance).ravel(),
    )


def links_of(graph: Any) -> list[tuple[int, int, Any]]:  # noqa: ANN401
    """Both ends and the transform of each link of a rtabmap_msgs/MapGraph."""
    return [(int(link.from_id), int(link.to_id), link.transform) for link in graph.links]


def is_same_link(T_from_to: Transform, from_id: int, stated_from_id: int, stated: Any) -> bool:  # noqa: ANN401
    """Whether a link of the graph, in either direction, has the transform that was sent.

    RTAB-Map keeps an older link between the same nodes, and then ignores a new one.

    Args:
        T_from_to: As sent.
        from_id: The end that it is from.
        stated_from_id: The end that the graph's link is from.
        stated: Its geometry_msgs/Transform.
    """
    T = transform_of(stated)
    if T is None:
        return False
    difference = invert(T_from_to) @ (T if stated_from_id == from_id else invert(T))
    return float(np.linalg.norm(difference[:3, 3])) < SAME_LINK_M and rotation_angle(difference[:3, :3]) < SAME_LINK_RAD


def intermediate_ids_of(info: Any) -> frozenset[int]:  # noqa: ANN401
    """Intermediate nodes that a rtabmap_msgs/Info shows, by their negative weight; it shows the working memory.

    Raises:
        IndexError: as many weights as ids were expected.
    """
    ids = np.asarray(info.weights_keys, dtype=np.int64)
    return frozenset(ids[np.asarray(info.weights_values, dtype=np.int64) < 0].tolist())
