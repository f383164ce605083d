"""Loop closures as links of RTAB-Map's graph, through its service add_link.

The service answers nothing, whether the link was taken or not (`CoreWrapper::addLinkCallback` of rtabmap_slam drops the
result of `Rtabmap::addLink`), so what became of it is read from the graph that RTAB-Map publishes afterwards.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.geometry import FloatArray
from progeo_edge.types import Transform
from progeo_ros.adapters import Action, Call, Counters, Publish, Subscription
from progeo_ros.adapters.measured import MeasuredClosure, measured_closures
from progeo_ros.adapters.node_history import NodeHistory, between_nodes
from progeo_ros.adapters.rtabmap_graph import intermediate_ids_of, is_same_link, link_message, links_of
from progeo_ros.config import NodeConfig
from progeo_ros.events import Outcome
from progeo_ros.message_types import NANOSECONDS, MessageTypes, make_header, stamp_ns_of

log = logging.getLogger(__name__)

MAX_WAITING = 1000
"""Closures, and links, that wait for something; beyond, the oldest is given up."""
IDS_TIMEOUT_S = 30.0
"""How long a closure waits for RTAB-Map to say which nodes its images became."""
SILENCE = 10
"""Without any graph for this many times rtabmap.confirm_s, nobody can say whether the link was taken."""
REASONS = (
    "a node has left the working memory (Rtabmap/TimeThr, Rtabmap/MemoryThr) or was dropped because the robot stood "
    "still, the optimised graph contradicts the link by more than RGBD/OptimizeMaxError standard deviations, or "
    "RTAB-Map localises (Mem/IncrementalMemory false) and the newer node has left its odometry cache "
    "(RGBD/MaxOdomCacheSize); its own log says which"
)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A closure whose nodes are not known yet. Times are of the node's clock, None before its first tick."""

    closure: MeasuredClosure
    since_ns: int | None


@dataclass(slots=True, eq=False)
class _Link:
    """A link on its way into RTAB-Map's graph."""

    from_id: int
    to_id: int
    T_from_to: Transform
    covariance: FloatArray
    tries: int = 0
    not_before_ns: int | None = None
    answered_ns: int | None = None
    num_graphs: int = 0
    is_void: bool = False


class RtabmapLinks:
    """Adapter `rtabmap_links`; see docs/adapters.md."""

    name = "rtabmap_links"
    required_types: tuple[str, ...] = ("rtabmap_msgs/msg/Info", "rtabmap_msgs/msg/MapGraph", "rtabmap_msgs/srv/AddLink")

    def __init__(self, config: NodeConfig, types: MessageTypes) -> None:
        self._config = config.rtabmap
        self._announces_keyframes = config.input.external_keyframes
        self._types = types
        self._namespace = config.rtabmap.namespace.rstrip("/")
        self._nodes = NodeHistory(round(config.rtabmap.max_stamp_offset_ms * 1e6))
        self._graph_ids: NDArray[np.int64] | None = None
        self._intermediate_ids: frozenset[int] = frozenset()
        self._now_ns: int | None = None
        self._counters = Counters()
        self._waiting: deque[_Waiting] = deque()
        self._to_send: deque[_Link] = deque()
        self._in_call: _Link | None = None
        self._unconfirmed: deque[_Link] = deque()

    # -- what RTAB-Map says ----------------------------------------------------------------------------------------

    def subscriptions(self) -> tuple[Subscription, ...]:
        """`info` tells the ids of nodes, `mapGraph` which links there are."""
        return (
            Subscription(f"{self._namespace}/info", "rtabmap_msgs/msg/Info", self._on_info),
            Subscription(f"{self._namespace}/mapGraph", "rtabmap_msgs/msg/MapGraph", self._on_graph),
        )

    def _on_info(self, message: Any) -> Iterable[Action]:  # noqa: ANN401
        try:
            stamp_ns, node_id = stamp_ns_of(message.header.stamp), int(message.ref_id)
            cached_links = links_of(message.odom_cache)
            intermediate_ids = intermediate_ids_of(message)
        except (AttributeError, IndexError, TypeError, ValueError):  # weights without ids, too
            self._counters.add("malformed")
            return []
        self._intermediate_ids = intermediate_ids
        # In localisation mode links to the present are kept in this cache, refined, and never reach mapGraph.
        self._find_links(cached_links, are_refined=True)
        if node_id <= 0:
            return self._next_call()
        if self._nodes.add_node(stamp_ns, node_id):
            self._forget_graph()
        announced: list[Action] = []
        if self._announces_keyframes:
            announced.append(Publish("keyframe", "std_msgs/msg/Header", make_header(self._types, stamp_ns, "")))
        return announced + self._next_call()

    def _on_graph(self, message: Any) -> Iterable[Action]:  # noqa: ANN401
        try:
            graph_ids = np.sort(np.asarray(message.poses_id, dtype=np.int64))
            links = links_of(message) if self._unconfirmed else []  # there may be very many
        except (AttributeError, TypeError, ValueError):
            self._counters.add("malformed")
            return []
        self._graph_ids = graph_ids
        for link in self._unconfirmed:
            link.num_graphs += 1
        self._find_links(links, are_refined=False)
        return self._next_call()

    def _forget_graph(self) -> None:
        """RTAB-Map was started or reset: its ids mean other places now."""
        self._counters.add("restarts")
        log.warning("RTAB-Map began a new graph; links that were on their way to the old one are dropped")
        self._graph_ids = None
        self._to_send.clear()
        self._unconfirmed.clear()
        if self._in_call is not None:
            self._in_call.is_void = True

    def _find_links(self, links: list[tuple[int, int, Any]], *, are_refined: bool) -> None:
        """Settle the links that a graph shows."""
        wanted = {_pair(link.from_id, link.to_id): link for link in self._unconfirmed}
        for from_id, to_id, transform in links if wanted else []:
            link = wanted.pop(_pair(from_id, to_id), None)
            if link is not None:
                self._unconfirmed.remove(link)
                is_ours = are_refined or is_same_link(link.T_from_to, link.from_id, from_id, transform)
                self._counters.add("confirmed" if is_ours else "already_linked")

    # -- what we say -----------------------------------------------------------------------------------------------

    def on_outcome(self, outcome: Outcome) -> Iterable[Action]:
        """Queue its metric closures, and send what can be sent."""
        self._nodes.add_pose(outcome.frame.stamp_ns, outcome.frame.T_odom_base)
        self._waiting += [_Waiting(closure, self._now_ns) for closure in measured_closures(outcome, self._counters)]
        self._limit(self._waiting)
        return self._next_call()

    def on_tick(self, now_ns: int) -> Iterable[Action]:
        """Give up on ids that do not come, and judge links that do not show."""
        if self._now_ns is not None and now_ns < self._now_ns:
            self._restart_clocks()
        self._now_ns = now_ns
        self._drop_without_ids(now_ns)
        for link in list(self._unconfirmed):
            self._judge(link, now_ns)
        return self._next_call()

    def _restart_clocks(self) -> None:
        """Simulated time jumped back."""
        for waiting in self._waiting:
            waiting.since_ns = None
        for link in [*self._to_send, *self._unconfirmed]:
            link.not_before_ns = link.answered_ns = None

    def _drop_without_ids(self, now_ns: int) -> None:
        kept: deque[_Waiting] = deque()
        for waiting in self._waiting:
            if waiting.since_ns is None:
                waiting.since_ns = now_ns
            is_late = now_ns - waiting.since_ns > IDS_TIMEOUT_S * NANOSECONDS
            ends = (waiting.closure.reference, waiting.closure.query)
            if is_late or any(self._nodes.is_hopeless(end.stamp_ns) for end in ends):
                self._counters.add("unknown_ids")
            else:
                kept.append(waiting)
        self._waiting = kept

    def _next_call(self) -> list[Action]:
        """One call at a time: RTAB-Map optimises its whole graph in each."""
        self._find_ids()
        link = None if self._in_call is not None else next(filter(self._is_due, self._to_send), None)
        if link is None:
            return []
        self._to_send.remove(link)
        self._in_call = link
        link.tries += 1
        self._counters.add("sent")
        message = link_message(self._types, link.from_id, link.to_id, link.T_from_to, link.covariance)
        request = self._types.make("rtabmap_msgs/srv/AddLink_Request", link=message)
        on_reply = partial(self._on_reply, link)
        return [Call(self._config.add_link, "rtabmap_msgs/srv/AddLink", request, on_reply)]

    def _is_due(self, link: _Link) -> bool:
        return link.not_before_ns is None or (self._now_ns is not None and self._now_ns >= link.not_before_ns)

    def _find_ids(self) -> None:
        """Make links of the closures whose two nodes are known."""
        kept: deque[_Waiting] = deque()
        for waiting in self._waiting:
            closure = waiting.closure
            reference, query = (
                self._nodes.match(end.stamp_ns, end.T_odom_base, self._is_usable)
                for end in (closure.reference, closure.query)
            )
            if reference is None or query is None:
                kept.append(waiting)
            elif reference.id == query.id:
                self._counters.add("same_node")
            else:
                T_from_to, covariance = between_nodes(closure.T_reference_query, closure.covariance, reference, query)
                self._to_send.append(_Link(reference.id, query.id, T_from_to, covariance))
        self._waiting = kept
        self._limit(self._to_send)

    def _is_usable(self, node_id: int) -> bool:
        """RTAB-Map drops the node of a robot that stands still; of nodes newer than the last graph nothing is known.

        A link to an intermediate node fails an assertion in its `Memory::addLink`, which ends its process.
        """
        ids = self._graph_ids
        if node_id in self._intermediate_ids:
            return False
        if ids is None or len(ids) == 0 or node_id > ids[-1]:
            return True
        return bool(ids[np.searchsorted(ids, node_id)] == node_id)

    def _on_reply(self, link: _Link, reply: Any | None) -> Iterable[Action]:  # noqa: ANN401
        self._in_call = None
        if link.is_void:
            return self._next_call()
        if reply is None:
            self._counters.add("failed_calls")
            self._try_again(link, f"service {self._config.add_link} did not answer; is rtabmap.add_link its name?")
        else:
            link.answered_ns, link.num_graphs = self._now_ns, 0
            self._unconfirmed.append(link)
            self._limit(self._unconfirmed)
        return self._next_call()

    def _judge(self, link: _Link, now_ns: int) -> None:
        """A graph may have been on its way when the link was taken: only the second one without it says no."""
        if link.answered_ns is None:
            link.answered_ns = now_ns
        waited_s = (now_ns - link.answered_ns) / NANOSECONDS
        if waited_s < self._config.confirm_s:
            return
        if link.num_graphs >= 2:
            self._unconfirmed.remove(link)
            self._try_again(link, f"it does not show in {self._namespace}/mapGraph: {REASONS}")
        elif waited_s > SILENCE * self._config.confirm_s:
            self._unconfirmed.remove(link)
            self._counters.add("unconfirmed")
            text = "link %d -> %d was sent, but for %.0f s RTAB-Map published no graph that could confirm it"
            log.warning(text, link.from_id, link.to_id, waited_s)

    def _try_again(self, link: _Link, reason: str) -> None:
        if link.tries >= self._config.max_tries:
            self._counters.add("rejected")
            log.warning("link %d -> %d is given up after %d tries: %s", link.from_id, link.to_id, link.tries, reason)
            return
        backoff_ns = round(self._config.confirm_s * 2.0 ** (link.tries - 1) * NANOSECONDS)
        link.not_before_ns = None if self._now_ns is None else self._now_ns + backoff_ns
        self._to_send.append(link)

    def _limit(self, queue: deque[Any]) -> None:
        while len(queue) > MAX_WAITING:
            queue.popleft()
            self._counters.add("given_up")

    # -- for diagnostics -------------------------------------------------------------------------------------------

    def counters(self) -> Mapping[str, int]:
        """What became of the closures, and how many wait for what."""
        waiting = {
            "waiting_for_ids": len(self._waiting),
            "waiting_to_be_sent": len(self._to_send) + (self._in_call is not None),
            "waiting_for_graph": len(self._unconfirmed),
        }
        return {**self._counters.values, **waiting}

    def close(self) -> None:
        """Nothing is kept."""


def _pair(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)
