"""One adapter per consumer of loop closures: what it listens to, and what it sends. No ROS is imported here.

An adapter is a plain object that returns messages; the node (or the replay) subscribes, publishes and calls for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from progeo_ros.events import Outcome


@dataclass(frozen=True, slots=True, eq=False)
class Publish:
    """A message to publish.

    Attributes:
        topic: Absolute, or relative to the node's namespace.
        msgtype: "geometry_msgs/msg/PoseWithCovarianceStamped".
        message: Made by `MessageTypes.make`.
        latched: Late joiners get the last one (transient local, latched).
    """

    topic: str
    msgtype: str
    message: Any
    latched: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A service to call; the answer goes to `on_reply`, which may send more. None: the call failed or timed out."""

    service: str
    srvtype: str
    request: Any
    on_reply: Callable[[Any | None], Iterable[Action]]


Action = Publish | Call


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic that an adapter listens to; each message may lead to actions."""

    topic: str
    msgtype: str
    callback: Callable[[Any], Iterable[Action]]
    latched: bool = False


class Adapter(Protocol):
    """A consumer of loop closures.

    Adapters keep no locks: whoever owns one lets only one of its methods, or callbacks, run at a time.
    """

    name: str
    """As in the setting `adapters`."""
    required_types: tuple[str, ...]
    """Messages and services ("rtabmap_msgs/srv/AddLink") without which it cannot work; it is then skipped."""

    def subscriptions(self) -> tuple[Subscription, ...]:
        """What it listens to."""
        ...

    def on_outcome(self, outcome: Outcome) -> Iterable[Action]:
        """An image was processed."""
        ...

    def on_tick(self, now_ns: int) -> Iterable[Action]:
        """Called about once a second, with the time of the node's clock: retries, files."""
        ...

    def counters(self) -> Mapping[str, int]:
        """For diagnostics: sent, confirmed, rejected ..."""
        ...

    def close(self) -> None:
        """Finish what must not be lost (files)."""
        ...


@dataclass(slots=True)
class Counters:
    """Named counts of an adapter."""

    values: dict[str, int] = field(default_factory=dict)

    def add(self, name: str) -> None:
        """Count one more."""
        self.values[name] = self.values.get(name, 0) + 1
