"""Subscribes, publishes and calls for adapters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import rospy

from progeo_ros.adapters import Action, Adapter, Call, Publish, Subscription
from progeo_ros.events import Outcome
from progeo_ros.ros1.topics import open_topic
from progeo_ros.ros1.types import GenpyTypes

DEPTH = 10
SETTLE_S = 1.0
"""How long a new topic keeps its messages: subscribers have to find it first."""
SERVICE_WAIT_S = 2.0
"""How long an adapter's service may take to be there. How long its answer takes, rospy does not limit."""

OnError = Callable[[str, Exception], None]
"""Told who failed, and how."""


@dataclass(slots=True)
class _Outlet:
    """A topic, and the messages that wait until subscribers have found it."""

    topic: Any
    made_s: float
    waiting: list[Any] = field(default_factory=list)

    def flush(self) -> None:
        if self.topic.get_num_connections() > 0 or time.monotonic() - self.made_s >= SETTLE_S:
            waiting, self.waiting = self.waiting, []
            for message in waiting:
                self.topic.publish(message)


class AdapterWiring:
    """Lets adapters work, one at a time: they need not be safe for threads.

    Args:
        adapters: The consumers that are served.
        types: Of their messages.
        on_error: One adapter that fails does not keep the others from working.
    """

    def __init__(self, adapters: Sequence[Adapter], types: GenpyTypes, on_error: OnError) -> None:
        self._adapters = adapters
        self._types = types
        self._on_error = on_error
        self._lock = threading.RLock()
        self._outlets: dict[str, _Outlet] = {}
        self._subscribers = [self._subscribe(adapter, item) for adapter in adapters for item in adapter.subscriptions()]

    def on_outcome(self, outcome: Outcome) -> None:
        """An image was processed."""
        for adapter in self._adapters:
            self._perform(adapter.name, adapter.on_outcome, outcome)

    def on_tick(self, now_ns: int) -> None:
        """About once a second, with the time of ROS."""
        with self._lock:
            for outlet in self._outlets.values():
                outlet.flush()
        for adapter in self._adapters:
            self._perform(adapter.name, adapter.on_tick, now_ns)

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Counts of each adapter by its name."""
        with self._lock:
            return {adapter.name: dict(adapter.counters()) for adapter in self._adapters}

    def close(self) -> None:
        """Let the adapters finish their files."""
        for subscriber in self._subscribers:
            subscriber.unregister()
        with self._lock:
            for adapter in self._adapters:
                self._perform(adapter.name, _closing(adapter))

    def _subscribe(self, adapter: Adapter, item: Subscription) -> Any:  # noqa: ANN401
        receive = partial(self._perform, adapter.name, item.callback)
        return rospy.Subscriber(item.topic, self._types.message_class(item.msgtype), receive, queue_size=DEPTH)

    def _perform(self, name: str, ask: Callable[..., Iterable[Action]], *arguments: Any) -> None:  # noqa: ANN401
        with self._lock:
            try:
                for action in ask(*arguments):
                    if isinstance(action, Publish):
                        self._publish(action)
                    else:
                        threading.Thread(target=self._call, args=(name, action), daemon=True).start()
            except Exception as error:
                self._on_error(f"adapter {name}", error)

    def _publish(self, action: Publish) -> None:
        if action.topic not in self._outlets:
            topic = open_topic(action.topic, self._types.message_class(action.msgtype), DEPTH, action.latched)
            self._outlets[action.topic] = _Outlet(topic, time.monotonic())
        outlet = self._outlets[action.topic]
        outlet.waiting.append(action.message)
        outlet.flush()

    def _call(self, name: str, call: Call) -> None:
        """In a thread of its own: a call of rospy blocks."""
        try:
            rospy.wait_for_service(call.service, SERVICE_WAIT_S)
            reply = rospy.ServiceProxy(call.service, self._types.message_class(call.srvtype))(call.request)
        except (rospy.ROSException, rospy.ServiceException):
            reply = None
        self._perform(name, call.on_reply, reply)


def _closing(adapter: Adapter) -> Callable[[], Iterable[Action]]:
    def close() -> Iterable[Action]:
        adapter.close()
        return ()

    return close
