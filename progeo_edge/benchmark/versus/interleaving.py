"""Contenders in turn: a short block each per round, in an order that rotates, so that all meet the same disturbance."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from progeo_edge.benchmark.peers.process import PeerGoneError, PeerProcess
from progeo_edge.benchmark.statistics import round_medians, summarise
from progeo_edge.benchmark.versus.comparison import Row

PAUSE_S = 0.02
"""Between two blocks: thread pools that spin for a while after their work have come to rest by then."""

T = TypeVar("T")

Progress = Callable[[str], None]
"""Told what is being done, after each piece of work."""


@dataclass(frozen=True)
class Contender:
    """Who takes part.

    Attributes:
        name: In tables.
        target: "module:Class" of its peer.
        settings: For the peer, plain JSON.
        is_ours: Whether it is progeo-edge.
        ready_timeout_s: How long it may take to open.
    """

    name: str
    target: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_ours: bool = False
    ready_timeout_s: float = 600.0


@dataclass(frozen=True)
class Pace:
    """How much is measured.

    Attributes:
        rounds: How often everybody has a turn.
        block: Items per turn.
        warm_up: Items before the first turn, which are not counted.
    """

    rounds: int = 9
    block: int = 5
    warm_up: int = 5


class Field:
    """The contenders that could be opened, and why the others could not.

    Attributes:
        peers: Open processes by the contender's name, in the order given.
        absent: Reasons by name; grows when one fails later.
    """

    def __init__(self, contenders: Sequence[Contender], absent: Mapping[str, str]) -> None:
        self.contenders = {one.name: one for one in contenders}
        self.peers: dict[str, PeerProcess] = {}
        self.absent = dict(absent)

    def drop(self, name: str, reason: str) -> None:
        """Take one out of the field for good."""
        self.peers.pop(name).close()
        self.absent[name] = reason

    def absent_but(self, *prefixes: str) -> dict[str, str]:
        """Who is absent, without those whose names begin so."""
        return {name: reason for name, reason in self.absent.items() if not name.startswith(prefixes)}

    def able(self, step: str) -> list[str]:
        """Names of those that can do a step."""
        return [name for name, peer in self.peers.items() if step in peer.steps]


@contextmanager
def opened(
    contenders: Sequence[Contender], *, threads: int, absent: Mapping[str, str], progress: Progress
) -> Iterator[Field]:
    """Open all peers, one after the other, and close them at the end."""
    entered = Field(contenders, absent)
    try:
        for contender in contenders:
            try:
                entered.peers[contender.name] = PeerProcess(
                    contender.target,
                    contender.settings,
                    threads=threads,
                    ready_timeout_s=contender.ready_timeout_s,
                )
            except PeerGoneError as error:
                entered.absent[contender.name] = str(error)
            progress(f"opened {contender.name}")
        yield entered
    finally:
        for peer in entered.peers.values():
            peer.close()


def measure(entered: Field, step: str, pace: Pace, *, progress: Progress, pause_s: float = PAUSE_S) -> list[Row]:
    """Time one step of everybody who can do it.

    Returns:
        Rows without agreement, in the order of the contenders. Who fails in the middle is dropped from the field.
    """
    names = entered.able(step)
    blocks: dict[str, list[list[float]]] = {name: [] for name in names}
    for name in names:
        _time_block(entered, name, step, range(pace.warm_up))
    for round_number in range(pace.rounds):
        first = round_number * pace.block
        for name in rotated(names, round_number):
            time.sleep(pause_s)
            # The first item only wakes caches and threads up again.
            times_ms = _time_block(entered, name, step, [first, *range(first, first + pace.block)])
            if times_ms is not None:
                blocks[name].append(times_ms[1:])
        progress(f"{step}, round {round_number + 1}")
    return [_row(entered, name, blocks[name]) for name in names if name in entered.peers]


def answers_of(entered: Field, name: str, step: str, items: Sequence[int]) -> list[np.ndarray[Any, Any]] | None:
    """What a contender gives for each item, or None when it fails, which drops it from the field."""
    try:
        return entered.peers[name].answers(step, items)
    except PeerGoneError as error:
        entered.drop(name, str(error))
        return None


def _time_block(entered: Field, name: str, step: str, items: Sequence[int]) -> list[float] | None:
    if name not in entered.peers:
        return None
    try:
        return entered.peers[name].times_ms(step, items)
    except PeerGoneError as error:
        entered.drop(name, str(error))
        return None


def rotated(names: Sequence[T], by: int) -> list[T]:
    """Everybody in turn begins; every second time around the order is turned over, so that neighbours change too."""
    if not names:
        return []
    laps, offset = divmod(by, len(names))
    order = [*names[offset:], *names[:offset]]
    return order[::-1] if laps % 2 else order


def _row(entered: Field, name: str, blocks: list[list[float]]) -> Row:
    peer = entered.peers[name]
    return Row(
        name=name,
        is_ours=entered.contenders[name].is_ours,
        time_ms=summarise(np.concatenate(blocks)),
        round_medians_ms=tuple(round_medians(blocks)),
        facts={**peer.facts, **peer.memory()},
    )
