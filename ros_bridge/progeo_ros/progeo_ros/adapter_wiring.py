"""Subscribes, publishes and calls for adapters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from progeo_ros.adapters import Action, Adapter, Call, Publish
from progeo_ros.events import Outcome
from progeo_ros.middleware import Middleware, OnError, Topic

DEPTH = 10
SETTLE_S = 1.0
"""How long a new topic keeps its messages: subscribers have to find it first."""


@dataclass(slots=True)
class _Outlet:
    """A topic, and the messages that wait until subscribers have found it."""

    topic: Topic
    made_s: float
    waiting: list[Any] = field(default_factory=list)

    def flush(self) -> None:
        if time.monotonic() - self.made_s >= SETTLE_S:
            waiting, self.waiting = self.waiting, []
            for message in waiting:
                self.topic.publish(message)


class AdapterWiring:
    """Lets adapters work, one at a time: they need not be safe for threads.

    Args:
        adapters: The consumers that are served.
        ros: Where they are served.
        on_error: One adapter that fails does not keep the others from working.
    """

    def __init__(self, adapters: Sequence[Adapter], ros: Middleware, on_error: OnError) -> None:
        self._adapters, self._ros, self._on_error = adapters, ros, on_error
        self._lock = threading.RLock()
        self._is_closed = False
        self._outlets: dict[str, _Outlet] = {}
        self._unsubscribe = [
            ros.subscribe(wanted, partial(self._perform, adapter.name, wanted.callback))
            for adapter in adapters
            for wanted in adapter.subscriptions()
        ]

    def on_outcome(self, outcome: Outcome) -> None:
        """An image was processed."""
        for adapter in self._adapters:
            self._perform(adapter.name, adapter.on_outcome, outcome)

    def on_tick(self, now_ns: int) -> None:
        """About once a second, with the time of the node's clock."""
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
        """Let the adapters finish their files, and take away what they used."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        with self._lock:
            for adapter in self._adapters:
                self._perform(adapter.name, _closing(adapter))
            self._is_closed = True
            for outlet in self._outlets.values():
                outlet.topic.close()
            self._outlets = {}

    def _perform(self, name: str, ask: Callable[..., Iterable[Action]], *arguments: Any) -> None:  # noqa: ANN401
        with self._lock:
            if self._is_closed:  # the answer to a call may come late
                return
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
            topic = self._ros.advertise(action.topic, action.msgtype, DEPTH, action.latched)
            self._outlets[action.topic] = _Outlet(topic, time.monotonic())
        outlet = self._outlets[action.topic]
        outlet.waiting.append(action.message)
        outlet.flush()

    def _call(self, name: str, call: Call) -> None:
        """In a thread of its own: a call blocks, and none must keep images or other adapters waiting."""
        reply = None
        try:
            reply = self._ros.call(call)
        except Exception as error:
            if not self._is_closed:  # closing takes services away, and nobody waits for the answer then
                self._on_error(f"adapter {name}", error)
        self._perform(name, call.on_reply, reply)


def _closing(adapter: Adapter) -> Callable[[], Iterable[Action]]:
    def close() -> Iterable[Action]:
        adapter.close()
        return ()

    return close
