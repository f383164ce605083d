"""Publishers, subscriptions and clients, as publications and adapters ask for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.client import Client
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.task import Future

from progeo_ros.adapters import Action, Adapter, Call, Publish
from progeo_ros.events import Outcome
from progeo_ros.publications import Publication
from progeo_ros.ros2.types import RclpyTypes

CALL_TIMEOUT_S = 5.0
"""How long an adapter's service may take to answer."""
ADAPTER_DEPTH = 10

OnError = Callable[[str, Exception], None]
"""Told who failed, and how."""


def reliable(depth: int, *, latched: bool = False) -> QoSProfile:
    """Every message arrives; latched: late joiners get the last `depth` ones."""
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def sensor_data(depth: int) -> QoSProfile:
    """What is late is worthless: best effort, which takes from reliable and from best-effort publishers alike."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)


def overridable() -> QoSOverridingOptions:
    """Lets parameters `qos_overrides.<topic>.<publisher|subscription>.<policy>` change a profile."""
    kinds = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
    return QoSOverridingOptions(kinds)


class OutcomePublishers:
    """Sends what is published for an outcome.

    Args:
        node: Owner of the publishers.
        publications: The topics.
        types: Makes messages.
        on_error: One topic that fails does not keep the others from being sent.
    """

    def __init__(self, node: Node, publications: Sequence[Publication], types: RclpyTypes, on_error: OnError) -> None:
        self._node = node
        self._types = types
        self._on_error = on_error
        self._publishers: list[tuple[Publication, Publisher]] = [(p, self._publisher(p)) for p in publications]

    def _publisher(self, publication: Publication) -> Publisher:
        profile = reliable(publication.depth, latched=publication.latched)
        kind = self._types.find(publication.msgtype)
        return self._node.create_publisher(kind, publication.topic, profile, qos_overriding_options=overridable())

    def publish(self, outcome: Outcome) -> None:
        """Build and send; what nobody listens to is not built unless it is for late joiners."""
        for publication, publisher in self._publishers:
            if not publication.always and publisher.get_subscription_count() == 0:
                continue
            try:
                for message in publication.build(self._types, outcome):
                    publisher.publish(message)
            except Exception as error:
                self._on_error(f"topic {publication.topic}", error)

    def destroy(self) -> None:
        """Take the publishers away."""
        for _, publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        self._publishers = []


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
        self._node = node
        self._adapters = adapters
        self._types = types
        self._group = group
        self._on_error = on_error
        self._lock = threading.RLock()
        self._publishers: dict[str, Publisher] = {}
        self._clients: dict[str, Client] = {}
        self._calls: list[tuple[Future, float]] = []
        self._subscriptions: list[Subscription] = [
            self._subscribe(adapter, subscription) for adapter in adapters for subscription in adapter.subscriptions()
        ]

    def on_outcome(self, outcome: Outcome) -> None:
        """An image was processed."""
        for adapter in self._adapters:
            self._perform(adapter.name, adapter.on_outcome, outcome)

    def on_tick(self, now_ns: int) -> None:
        """About once a second, with the time of the node's clock."""
        self._give_up_late_calls()
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
            for publisher in self._publishers.values():
                self._node.destroy_publisher(publisher)
            for client in self._clients.values():
                self._node.destroy_client(client)
            self._adapters, self._subscriptions, self._calls = (), [], []
            self._publishers, self._clients = {}, {}

    def _subscribe(self, adapter: Adapter, wanted: Any) -> Subscription:  # noqa: ANN401
        return self._node.create_subscription(
            self._types.find(wanted.msgtype),
            wanted.topic,
            lambda message: self._perform(adapter.name, wanted.callback, message),
            reliable(ADAPTER_DEPTH, latched=True) if wanted.latched else sensor_data(ADAPTER_DEPTH),
            callback_group=self._group,
            qos_overriding_options=overridable(),
        )

    def _perform(self, name: str, ask: Callable[..., Iterable[Action]], *arguments: Any) -> None:  # noqa: ANN401
        with self._lock:
            try:
                for action in ask(*arguments):
                    if isinstance(action, Publish):
                        self._publisher(action).publish(action.message)
                    else:
                        self._call(name, action)
            except Exception as error:
                self._on_error(f"adapter {name}", error)

    def _publisher(self, action: Publish) -> Publisher:
        if action.topic not in self._publishers:
            kind = self._types.find(action.msgtype)
            profile = reliable(ADAPTER_DEPTH, latched=action.latched)
            options = overridable()
            self._publishers[action.topic] = self._node.create_publisher(
                kind, action.topic, profile, qos_overriding_options=options
            )
        return self._publishers[action.topic]

    def _call(self, name: str, call: Call) -> None:
        if call.service not in self._clients:
            kind = self._types.find(call.srvtype)
            self._clients[call.service] = self._node.create_client(kind, call.service, callback_group=self._group)
        client = self._clients[call.service]
        if not client.service_is_ready():
            self._perform(name, call.on_reply, None)
            return
        future = client.call_async(call.request)
        self._calls.append((future, time.monotonic() + CALL_TIMEOUT_S))
        future.add_done_callback(lambda done: self._perform(name, call.on_reply, _result(done)))

    def _give_up_late_calls(self) -> None:
        with self._lock:
            now = time.monotonic()
            late = [future for future, deadline in self._calls if deadline < now and not future.done()]
            self._calls = [(future, at) for future, at in self._calls if at >= now and not future.done()]
        for future in late:
            future.cancel()  # its callback then tells the adapter that there is no answer


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
