"""Topics that go out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import rospy

from progeo_ros.events import Outcome
from progeo_ros.publications import Publication
from progeo_ros.ros1.types import GenpyTypes


class KeptTopic(rospy.SubscribeListener):  # type: ignore[misc]  # rospy is not there where mypy runs
    """A topic whose last messages every late joiner gets, like transient local of ROS 2.

    The latch of rospy keeps one message; a graph needs all closures. One that is published while somebody joins may
    reach him twice.
    """

    def __init__(self, name: str, message_class: Any, depth: int) -> None:  # noqa: ANN401
        """Advertise, and keep up to `depth` messages."""
        super().__init__()
        self._lock = threading.Lock()
        self._kept: deque[Any] = deque(maxlen=depth)
        self._publisher = rospy.Publisher(
            name, message_class, subscriber_listener=self, tcp_nodelay=True, queue_size=depth
        )

    def publish(self, message: Any) -> None:  # noqa: ANN401
        """Send to all who listen now, and keep."""
        with self._lock:
            self._kept.append(message)
            self._publisher.publish(message)

    def get_num_connections(self) -> int:
        """How many listen."""
        return int(self._publisher.get_num_connections())

    def peer_subscribe(self, topic_name: str, topic_publish: object, peer_publish: Callable[[Any], None]) -> None:
        """Called by rospy when somebody joins."""
        with self._lock:
            for message in self._kept:
                peer_publish(message)


class OutcomeTopic:
    """Publishes what a `Publication` makes of an outcome.

    Attributes:
        name: Of the topic.
    """

    def __init__(self, publication: Publication, types: GenpyTypes) -> None:
        """Advertise."""
        self.name = publication.topic
        self._publication = publication
        self._types = types
        message_class = types.message_class(publication.msgtype)
        self._topic = open_topic(publication.topic, message_class, publication.depth, publication.latched)

    def publish(self, outcome: Outcome) -> None:
        """Build and send, when there is something to send and somebody to send it to."""
        publication = self._publication
        if not publication.always and self._topic.get_num_connections() == 0:
            return
        for message in publication.build(self._types, outcome):
            self._topic.publish(message)


def open_topic(name: str, message_class: Any, depth: int, latched: bool) -> Any:  # noqa: ANN401
    """A topic to publish to; with `latched`, late joiners get the last `depth` messages."""
    if latched:
        return KeptTopic(name, message_class, depth)
    return rospy.Publisher(name, message_class, tcp_nodelay=True, queue_size=depth)
