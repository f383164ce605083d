"""Publishers, subscriptions and clients of the adapters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.client import Client
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from rclpy.task import Future

from progeo_ros.adapters import Action, Adapter, Call, Publish
from progeo_ros.events import Outcome
from progeo_ros.ros2.types import RclpyTypes
from progeo_ros.ros2.wiring import OnError, overridable, reliable

CALL_TIMEOUT_S = 5.0
"""How long an adapter's service may take to show up, and to answer."""
SETTLE_S = 1.0
"""How long a new publisher keeps its messages: subscribers have to find it first."""
DEPTH = 10


@dataclass(slots=True)
class _Outlet:
    """A publisher, and the messages that wait until subscribers have found it."""

    publisher: Publisher
    made_s: float
    waiting: list[Any] = field(default_factory=list)


class AdapterWiring:
    """Subscribes, publishes and calls for adapters, one at a time: they need not be safe for threads.

    Args:
        node: Owner of publishers, subscriptions and clients.
        adapters: The consumers that are served.
        types: Makes messages.
        group: Of the subscriptions and of the answers to calls.
        on_error: One adapter that fails does not keep the others from working.
    """

    def __init__(
        self, node: Node, adapters: Sequence[Adapter], types: RclpyTypes, group: CallbackGroup, on_error: OnError
    ) -> None:
        self._node, self._types, self._group, self._on_error = node, types, group, on_error
        self._adapters = adapters
        self._lock = threading.RLock()
        self._outlets: dict[str, _Outlet] = {}
        self._clients: dict[str, Client] = {}
        # Calls that wait for their service, and calls that wait for their answer, each with its deadline.
        self._unsent: list[tuple[str, Call, float]] = []
        self._unanswered: list[tuple[Future, float]] = []
        self._subscriptions: list[Subscription] = [
            self._subscribe(adapter, subscription) for adapter in adapters for subscription in adapter.subscriptions()
        ]

    def on_outcome(self, outcome: Outcome) -> None:
        """An image was processed."""
        for adapter in self._adapters:
            self._perform(adapter.name, adapter.on_outcome, outcome)

    def on_tick(self, now_ns: int) -> None:
        """About once a second, with the time of the node's clock."""
        with self._lock:
            for outlet in self._outlets.values():
                self._flush(outlet)
            self._send_unsent()
            late = self._take_late()
        for future in late:
            future.cancel()  # its callback then tells the adapter that there is no answer
        for adapter in self._adapters:
            self._perform(adapter.name, adapter.on_tick, now_ns)

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Counts of each adapter by its name."""
        with self._lock:
            return {adapter.name: dict(adapter.counters()) for adapter in self._adapters}

    def close(self) -> None:
        """Let the adapters finish their files, and take away what they used."""
        with self._lock:
            for adapter in self._adapters:
                self._perform(adapter.name, _closing(adapter))
            for subscription in self._subscriptions:
                self._node.destroy_subscription(subscription)
            for outlet in self._outlets.values():
                self._node.destroy_publisher(outlet.publisher)
            for client in self._clients.values():
                self._node.destroy_client(client)
            self._adapters, self._subscriptions = (), []
            self._outlets, self._clients, self._unsent, self._unanswered = {}, {}, [], []

    # -- topics --------------------------------------------------------------------------------------------------------

    def _subscribe(self, adapter: Adapter, wanted: Any) -> Subscription:  # noqa: ANN401
        return self._node.create_subscription(
            self._types.find(wanted.msgtype),
            wanted.topic,
            lambda message: self._perform(adapter.name, wanted.callback, message),
            # SLAM systems publish with the default profile; qos_overrides are for those that do not.
            reliable(DEPTH, latched=wanted.latched),
            callback_group=self._group,
            qos_overriding_options=overridable(),
        )

    def _perform(self, name: str, ask: Callable[..., Iterable[Action]], *arguments: Any) -> None:  # noqa: ANN401
        with self._lock:
            try:
                for action in ask(*arguments):
                    if isinstance(action, Publish):
                        self._publish(action)
                    else:
                        self._call(name, action, time.monotonic() + CALL_TIMEOUT_S)
            except Exception as error:
                self._on_error(f"adapter {name}", error)

    def _publish(self, action: Publish) -> None:
        if action.topic not in self._outlets:
            publisher = self._node.create_publisher(
                self._types.find(action.msgtype),
                action.topic,
                reliable(DEPTH, latched=action.latched),
                qos_overriding_options=overridable(),
            )
            self._outlets[action.topic] = _Outlet(publisher, time.monotonic())
        outlet = self._outlets[action.topic]
        outlet.waiting.append(action.message)
        self._flush(outlet)

    def _flush(self, outlet: _Outlet) -> None:
        if time.monotonic() - outlet.made_s < SETTLE_S:
            return
        waiting, outlet.waiting = outlet.waiting, []
        for message in waiting:
            outlet.publisher.publish(message)

    # -- services ------------------------------------------------------------------------------------------------------

    def _call(self, name: str, call: Call, deadline_s: float) -> None:
        if call.service not in self._clients:
            kind = self._types.find(call.srvtype)
            self._clients[call.service] = self._node.create_client(kind, call.service, callback_group=self._group)
        client = self._clients[call.service]
        if client.service_is_ready():
            future = client.call_async(call.request)
            self._unanswered.append((future, time.monotonic() + CALL_TIMEOUT_S))
            future.add_done_callback(lambda done: self._perform(name, call.on_reply, _result(done)))
        elif time.monotonic() < deadline_s:
            self._unsent.append((name, call, deadline_s))
        else:
            self._perform(name, call.on_reply, None)

    def _send_unsent(self) -> None:
        unsent, self._unsent = self._unsent, []
        for name, call, deadline_s in unsent:
            self._call(name, call, deadline_s)

    def _take_late(self) -> list[Future]:
        now_s = time.monotonic()
        waiting = [(future, deadline_s) for future, deadline_s in self._unanswered if not future.done()]
        self._unanswered = [(future, deadline_s) for future, deadline_s in waiting if deadline_s >= now_s]
        return [future for future, deadline_s in waiting if deadline_s < now_s]


def _result(future: Future) -> Any | None:  # noqa: ANN401
    """Answer of a call; None when it failed or was given up."""
    if future.cancelled() or future.exception() is not None:
        return None
    return future.result()


def _closing(adapter: Adapter) -> Callable[[], Iterable[Action]]:
    def close() -> Iterable[Action]:
        adapter.close()
        return ()

    return close
