"""What adapters ask for is done in a real ROS: the first message arrives, and a call ends with an answer or without."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from progeo_ros.adapters import Action, Call, Counters, Publish, Subscription

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: source its setup.bash (rclpy is not importable)")

from progeo_ros.adapter_wiring import AdapterWiring  # noqa: E402
from progeo_ros.ros2 import middleware  # noqa: E402
from progeo_ros.ros2.middleware import Rclpy  # noqa: E402
from tests.ros_bridge.ros2.ros2_client import wait_until  # noqa: E402

TRIGGER = "std_srvs/srv/Trigger"
HEADER = "std_msgs/msg/Header"


class Echo:
    """Sends back what it hears, and asks a service at every tick until it has an answer."""

    name = "echo"
    required_types: tuple[str, ...] = (HEADER,)

    def __init__(self, types: Any) -> None:
        self.types = types
        self.replies: list[Any] = []
        self.wants_answer = True
        self.closed = False

    def subscriptions(self) -> tuple[Subscription, ...]:
        return (Subscription("heard", HEADER, self.on_header),)

    def on_header(self, message: Any) -> Iterable[Action]:
        if message.frame_id == "broken":
            raise ValueError("a message that the adapter does not understand")
        yield Publish("said", HEADER, message)

    def on_outcome(self, outcome: Any) -> Iterable[Action]:
        return ()

    def on_tick(self, now_ns: int) -> Iterable[Action]:
        if self.wants_answer:
            self.wants_answer = False
            yield Call("answering", TRIGGER, self.types.make(f"{TRIGGER}_Request"), self.on_reply)

    def on_reply(self, reply: Any | None) -> Iterable[Action]:
        self.replies.append(reply)
        return ()

    def counters(self) -> dict[str, int]:
        return Counters().values

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def wired(client):
    errors: list[str] = []
    echo = Echo(client.types)
    wiring = AdapterWiring((echo,), Rclpy(client.node), lambda who, error: errors.append(f"{who}: {error}"))
    yield echo, wiring, errors
    wiring.close()
    assert echo.closed


def tick_until(wiring: AdapterWiring, condition: Any, timeout_s: float = 10.0) -> None:
    def ticked() -> Any:
        wiring.on_tick(0)
        return condition()

    wait_until(ticked, timeout_s)


def test_the_very_first_message_reaches_a_subscriber(client, wired):
    _, wiring, errors = wired
    said = client.listen("said", HEADER)
    publisher = client.node.create_publisher(client.types.find(HEADER), "heard", 10)
    wait_until(lambda: publisher.get_subscription_count(), 5)
    publisher.publish(client.types.make(HEADER, frame_id="first"))
    tick_until(wiring, lambda: said)
    publisher.publish(client.types.make(HEADER, frame_id="broken"))
    publisher.publish(client.types.make(HEADER, frame_id="second"))
    wait_until(lambda: len(said) == 2, 5)
    assert [message.frame_id for message in said] == ["first", "second"]
    assert errors == ["adapter echo: a message that the adapter does not understand"]
    client.node.destroy_publisher(publisher)


def test_a_call_waits_for_its_service_and_gets_the_answer(client, wired):
    echo, wiring, _ = wired
    wiring.on_tick(0)

    def answer(request: Any, response: Any) -> Any:
        response.success, response.message = True, "here"
        return response

    service = client.node.create_service(client.types.find(TRIGGER), "answering", answer)
    tick_until(wiring, lambda: echo.replies)
    assert echo.replies[0].message == "here"
    client.node.destroy_service(service)


def test_a_call_without_a_service_ends_without_an_answer(wired, monkeypatch):
    monkeypatch.setattr(middleware, "CALL_TIMEOUT_S", 0.3)
    echo, wiring, _ = wired
    tick_until(wiring, lambda: echo.replies)
    assert echo.replies == [None]
