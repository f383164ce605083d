"""What adapters ask for is done by rospy: subscriptions, latched topics, and calls whatever comes of them."""

from __future__ import annotations

import sys

from tests.ros_bridge.ros1.ros1_system import HERE, Ros1


def test_calls_are_answered_no_first_message_is_lost_and_an_adapter_that_fails_works_on(ros: Ros1) -> None:
    listener = ros.listen("/adapter", "told", "told:std_msgs/String")
    process = ros.start("adapter", [sys.executable, "-m", f"{HERE}.ros1_adapter", "__ns:=/adapter"])
    told = listener.wait_for("told", 4)
    assert [message["data"] for message in told] == [
        "here, after []",
        "nothing",  # no such service
        "nothing",  # the service failed
        "here, after ['adapter asking: as asked']",
    ]
    assert process.poll() is None
