"""A stand-in for RTAB-Map: it takes links as `Rtabmap::addLink` does, answers nothing, and publishes its graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from progeo_edge.geometry import invert
from progeo_edge.types import Transform
from progeo_ros.adapters import Action, Call, Publish
from progeo_ros.adapters.rtabmap_links import RtabmapLinks
from progeo_ros.adapters.transform_messages import transform_message
from progeo_ros.message_types import make_header
from progeo_ros.rosbags_types import RosbagsTypes
from tests.ros_bridge.adapters.foreign_messages import through_the_wire
from tests.ros_bridge.adapters.outcomes import seconds

NEIGHBOUR, GLOBAL_CLOSURE = 0, 1
LinkKey = tuple[int, int]


class FakeRtabmap:
    """Nodes and links, joined to an adapter by messages that went over the wire.

    Attributes:
        takes_links: Whether it accepts what it is asked; the caller of its service cannot tell.
        is_up: Whether its service answers at all.
        links: Transform of `to` in `from` of each link.
        requests: Links that it was asked for.
        published: What the adapter published.
    """

    def __init__(self, types: RosbagsTypes, adapter: RtabmapLinks) -> None:
        self.types = types
        self.adapter = adapter
        self.info, self.graph = adapter.subscriptions()
        self.takes_links = True
        self.is_up = True
        self.nodes: list[int] = []
        self.links: dict[LinkKey, Transform] = {}
        self.requests: list[Any] = []
        self.published: list[Publish] = []

    def perform(self, actions: Iterable[Action]) -> None:
        """Do what the node would do with the actions of the adapter."""
        for action in actions:
            if isinstance(action, Publish):
                through_the_wire(self.types, action.message)
                self.published.append(action)
            else:
                self.perform(action.on_reply(self._add_link(action)))

    def _add_link(self, call: Call) -> object | None:
        assert call.srvtype == "rtabmap_msgs/srv/AddLink" and call.service == "rtabmap/rtabmap/add_link"
        link = through_the_wire(self.types, call.request).link
        self.requests.append(link)
        if not self.is_up:
            return None
        self._check_as_rtabmap(link)
        known = {(link.from_id, link.to_id), (link.to_id, link.from_id)} & self.links.keys()
        if self.takes_links and not known and {link.from_id, link.to_id} <= set(self.nodes):
            self.links[link.from_id, link.to_id] = _matrix(link.transform)
        return object()

    @staticmethod
    def _check_as_rtabmap(link: Any) -> None:
        """Assertions that abort the real one: Memory::addLink and Link::setInfMatrix."""
        assert link.type == GLOBAL_CLOSURE
        assert link.from_id != link.to_id and link.from_id > 0 and link.to_id > 0
        diagonal = np.asarray(link.information).reshape(6, 6).diagonal()
        assert np.isfinite(diagonal).all() and (diagonal > 0).all()

    def make_node(self, node_id: int, at_s: float, *, stays: bool = True) -> None:
        """Process an image; a robot that stands still leaves no node."""
        if stays:
            self.nodes.append(node_id)
        message = self.types.make(
            "rtabmap_msgs/msg/Info", header=make_header(self.types, seconds(at_s), "map"), ref_id=node_id
        )
        self.perform(self.info.callback(through_the_wire(self.types, message)))

    def publish_graph(self, *, inverted: bool = False) -> None:
        """mapGraph with neighbour links and closures; which end of a link comes first is not said."""
        links = [self._link(a, b, NEIGHBOUR, np.eye(4)) for a, b in zip(self.nodes, self.nodes[1:], strict=False)]
        for (from_id, to_id), T in self.links.items():
            if inverted:
                links.append(self._link(to_id, from_id, GLOBAL_CLOSURE, invert(T)))
            else:
                links.append(self._link(from_id, to_id, GLOBAL_CLOSURE, T))
        message = self.types.make("rtabmap_msgs/msg/MapGraph", poses_id=self.nodes, links=links)
        self.perform(self.graph.callback(through_the_wire(self.types, message)))

    def publish_odometry_cache(self, from_id: int, to_id: int) -> None:
        """In localisation mode: a link that was taken, refined."""
        cache = self.types.make("rtabmap_msgs/msg/MapGraph", links=[self._link(from_id, to_id, 1, np.eye(4))])
        message = self.types.make("rtabmap_msgs/msg/Info", odom_cache=cache)
        self.perform(self.info.callback(through_the_wire(self.types, message)))

    def _link(self, from_id: int, to_id: int, kind: int, T: Transform) -> Any:
        # RTAB-Map keeps single precision.
        transform = transform_message(self.types, T.astype(np.float32).astype(np.float64))
        return self.types.make("rtabmap_msgs/msg/Link", from_id=from_id, to_id=to_id, type=kind, transform=transform)

    def count(self, name: str) -> int:
        """A counter of the adapter."""
        return self.adapter.counters().get(name, 0)


def _matrix(transform: Any) -> Transform:
    t, q = transform.translation, transform.rotation
    x, y, z, w = q.x, q.y, q.z, q.w
    T = np.eye(4)
    # Each column is where the quaternion turns an axis to, by q v q*.
    for column, (a, b, c) in enumerate(np.eye(3)):
        # Rodrigues: v + 2 w (u x v) + 2 u x (u x v)
        u, v = np.array([x, y, z]), np.array([a, b, c])
        T[:3, column] = v + 2 * w * np.cross(u, v) + 2 * np.cross(u, np.cross(u, v))
    T[:3, 3] = [t.x, t.y, t.z]
    return T
