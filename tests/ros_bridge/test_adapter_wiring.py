"""Adapters are served one at a time, whatever one of them or a service does."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest

from progeo_ros import adapter_wiring
from progeo_ros.adapter_wiring import AdapterWiring
from progeo_ros.adapters import Action, Call, Publish, Subscription
from tests.ros_bridge.fake_ros import FakeRos

HEADER = "std_msgs/msg/Header"


class Talker:
    """Sends on what it hears, and calls a service at every tick."""

    required_types: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.replied = threading.Event()
        self.reply: Any = "none yet"
        self.closed = False

    def subscriptions(self) -> tuple[Subscription, ...]:
        return (Subscription(f"to {self.name}", HEADER, self._on_message),)

    def _on_message(self, message: Any) -> Iterable[Action]:
        if message == "broken":
            raise ValueError("not understood")
        yield Publish(f"from {self.name}", HEADER, message)

    def on_outcome(self, outcome: Any) -> Iterable[Action]:
        return self._on_message(outcome)

    def on_tick(self, now_ns: int) -> Iterable[Action]:
        yield Call("service", HEADER, now_ns, self._on_reply)

    def _on_reply(self, reply: Any | None) -> Iterable[Action]:
        self.reply = reply
        self.replied.set()
        return ()

    def counters(self) -> dict[str, int]:
        return {"heard": 1}

    def close(self) -> None:
        self.closed = True


class Bench:
    """Two adapters in a wiring, whose time the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr("progeo_ros.adapter_wiring.time.monotonic", lambda: self.now_s)
        self.ros = FakeRos()
        self.errors: list[str] = []
        self.one, self.two = Talker("one"), Talker("two")
        self.wiring = AdapterWiring(
            [self.one, self.two], self.ros, lambda who, error: self.errors.append(f"{who}: {error}")
        )


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


def test_first_messages_wait_until_subscribers_have_found_the_topic(bench):
    for message in ("first", "second"):
        bench.ros.heard["to one"](message)
    assert bench.ros.sent == {"from one": []}
    bench.now_s = adapter_wiring.SETTLE_S
    bench.wiring.on_tick(0)
    assert bench.ros.sent == {"from one": ["first", "second"]}
    bench.ros.heard["to one"]("third")
    assert bench.ros.sent["from one"][2:] == ["third"], "a topic that was found keeps nobody waiting"


def test_one_that_fails_does_not_keep_the_others_from_working(bench):
    bench.ros.heard["to one"]("broken")
    bench.wiring.on_outcome("broken")
    assert bench.errors == ["adapter one: not understood", "adapter one: not understood", "adapter two: not understood"]
    bench.wiring.on_outcome("fine")
    assert set(bench.ros.sent) == {"from one", "from two"}


def test_an_answer_goes_to_who_asked(bench):
    bench.ros.answer = lambda call: call.request + 1
    bench.wiring.on_tick(41)
    assert bench.one.replied.wait(10)
    assert bench.two.replied.wait(10)
    assert (bench.one.reply, bench.two.reply) == (42, 42)


def test_a_call_that_raises_is_reported_and_has_no_answer(bench):
    def fail(call: Call) -> None:
        raise TypeError("no such request")

    bench.ros.answer = fail
    bench.wiring.on_tick(0)
    assert bench.one.replied.wait(10)
    assert bench.one.reply is None
    assert "adapter one: no such request" in bench.errors


def test_closing_lets_adapters_finish_and_hears_no_more(bench):
    asked, go = threading.Barrier(3), threading.Event()

    def late(call: Call) -> str:
        asked.wait(10)
        go.wait(10)
        return "late"

    bench.ros.answer = late
    bench.wiring.on_outcome("message")
    before = set(threading.enumerate())
    bench.wiring.on_tick(0)
    calls = set(threading.enumerate()) - before
    asked.wait(10)
    bench.wiring.close()
    assert bench.one.closed
    assert bench.two.closed
    assert (bench.ros.heard, bench.ros.sent) == ({}, {})
    go.set()
    for call in calls:
        call.join(10)
    assert len(calls) == 2
    assert bench.one.reply == bench.two.reply == "none yet"


def test_counters_are_by_name(bench):
    assert bench.wiring.counters() == {"one": {"heard": 1}, "two": {"heard": 1}}
