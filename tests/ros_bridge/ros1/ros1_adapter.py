"""An adapter in its wiring: it tells what the services that it is asked for have answered. A process of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import rospy
from std_msgs.msg import String
from std_srvs.srv import Trigger, TriggerResponse

from progeo_ros.adapter_wiring import AdapterWiring
from progeo_ros.adapters import Action, Call, Publish, Subscription
from progeo_ros.events import Outcome
from progeo_ros.ros1.middleware import Rospy
from progeo_ros.ros1.types import GenpyTypes


class Asking:
    """Calls the service that a message names, and publishes the answer.

    Attributes:
        told: Answers so far.
    """

    name = "asking"
    required_types: tuple[str, ...] = ("std_srvs/srv/Trigger",)

    def __init__(self, types: GenpyTypes) -> None:
        self._types = types
        self.told = 0

    def subscriptions(self) -> tuple[Subscription, ...]:
        return (Subscription("ask", "std_msgs/msg/String", self._on_ask),)

    def _on_ask(self, message: Any) -> Iterable[Action]:
        if message.data == "fail":
            raise ValueError("as asked")
        request = self._types.make("std_srvs/srv/Trigger_Request")
        return [Call(message.data, "std_srvs/srv/Trigger", request, self._on_reply)]

    def _on_reply(self, reply: Any | None) -> Iterable[Action]:
        self.told += 1
        return [self._tell("nothing" if reply is None else reply.message)]

    def on_outcome(self, outcome: Outcome) -> Iterable[Action]:
        return ()

    def on_tick(self, now_ns: int) -> Iterable[Action]:
        return ()

    def counters(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        """Nothing is held."""

    def _tell(self, text: str) -> Publish:
        return Publish("told", "std_msgs/msg/String", self._types.make("std_msgs/msg/String", data=text))


def main() -> None:
    rospy.init_node("adapter")
    ros = Rospy()
    asking = Asking(ros.types)
    failures: list[str] = []
    rospy.Service("there", Trigger, lambda request: TriggerResponse(True, f"here, after {failures}"))
    rospy.Service("broken", Trigger, lambda request: 1 / 0)
    wiring = AdapterWiring([asking], ros, lambda who, error: failures.append(f"{who}: {error}"))
    threading.Thread(target=_tick, args=(wiring,), daemon=True).start()
    asker = rospy.Publisher("ask", String, queue_size=10)
    _wait_until(lambda: asker.get_num_connections() > 0)
    for number, service in enumerate(("there", "absent", "broken")):
        asker.publish(String(service))
        _wait_until(lambda number=number: asking.told > number)  # type: ignore[misc]
    asker.publish(String("fail"))
    _wait_until(lambda: bool(failures))
    asker.publish(String("there"))
    rospy.spin()
    wiring.close()


def _tick(wiring: AdapterWiring) -> None:
    while not rospy.is_shutdown():
        time.sleep(0.2)
        wiring.on_tick(0)


def _wait_until(condition: Callable[[], bool]) -> None:
    while not condition() and not rospy.is_shutdown():
        time.sleep(0.02)


if __name__ == "__main__":
    main()
