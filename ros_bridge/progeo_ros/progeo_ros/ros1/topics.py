"""Topics that go out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import rospy

from progeo_ros.middleware import Topic


class KeptTopic(rospy.SubscribeListener):  # type: ignore[misc]  # rospy is not there where mypy runs
    """A topic whose last messages every late joiner gets, like transient local of ROS 2.

    The latch of rospy keeps one message; a graph needs all closures. One that is published while somebody joins may
    reach him twice.

    Attributes:
        publisher: What messages go through.
    """

    def __init__(self, name: str, message_class: Any, depth: int) -> None:  # noqa: ANN401
        """Advertise, and keep up to `depth` messages."""
        super().__init__()
        self._lock = threading.Lock()
        self._kept: deque[Any] = deque(maxlen=depth)
        self.publisher = rospy.Publisher(
            name, message_class, subscriber_listener=self, tcp_nodelay=True, queue_size=depth
        )

    def publish(self, message: Any) -> None:  # noqa: ANN401
        """Send to all who listen now, and keep."""
        with self._lock:
            self._kept.append(message)
            self.publisher.publish(message)

    def peer_subscribe(self, topic_name: str, topic_publish: object, peer_publish: Callable[[Any], None]) -> None:
        """Called by rospy when somebody joins."""
        with self._lock:
            for message in self._kept:
                peer_publish(message)


def open_topic(name: str, message_class: Any, depth: int, latched: bool) -> Topic:  # noqa: ANN401
    """A topic to publish to; with `latched`, late joiners get the last `depth` messages."""
    if latched:
        kept = KeptTopic(name, message_class, depth)
        return Topic(kept.publish, kept.publisher.get_num_connections, kept.publisher.unregister)
    publisher = rospy.Publisher(name, message_class, tcp_nodelay=True, queue_size=depth)
    return Topic(publisher.publish, publisher.get_num_connections, publisher.unregister)
