"""The end of the process, and what rclpy raises out of its executor."""

from __future__ import annotations

import ast
import importlib
import inspect
import signal
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: source its setup.bash (rclpy is not importable)")

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup  # noqa: E402
from rclpy.exceptions import InvalidHandle  # noqa: E402
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

import progeo_ros.ros2  # noqa: E402
from progeo_ros.ros2.main import spin, wait_for  # noqa: E402
from progeo_ros.ros2.node import ProgeoNode  # noqa: E402
from tests.ros_bridge.ros2.ros2_client import running  # noqa: E402

SOURCES = sorted(Path(progeo_ros.ros2.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("attempt", range(6))
def test_ctrl_c_at_the_first_callback_ends_the_process(client, tmp_path, attempt):
    """The executor starts its first thread then; Ctrl-C in the midst of that left the thread without an end."""
    with running(tmp_path, {}) as node:
        client.state()
        assert node.process.poll() is None
        node.process.send_signal(signal.SIGINT)
        assert node.process.wait(10) == 0
        assert "Traceback" not in node.output


class FakeExecutor:
    """Raises what it is given, one after the other, and then comes to its end."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def spin(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)


def test_a_message_for_a_subscription_that_is_gone_does_not_end_the_node():
    executor = FakeExecutor(InvalidHandle("destroyed"), InvalidHandle("destroyed"))
    spin(executor)
    assert executor.calls == 3


def test_any_other_error_ends_the_node_with_its_traceback():
    with pytest.raises(ZeroDivisionError):
        wait_for(FakeExecutor(ZeroDivisionError()))


def test_each_activation_has_a_callback_group_of_its_own(client, monkeypatch, tmp_path):
    """In rclpy of Humble a group stays occupied when its subscription goes while a message is about to be fetched."""
    # rclpy keeps the services of a lifecycle node in this process: by another name nobody asks them instead of a node.
    monkeypatch.setattr("progeo_ros.ros2.node.NODE_NAME", "in_process")
    node = ProgeoNode()
    try:
        node.set_parameters([Parameter("map.path", value=str(tmp_path / "map.progeo"))])
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        groups = []
        for _ in range(2):
            assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
            (image,) = [s for s in node.subscriptions if s.topic_name == "/image"]
            groups.append(image.callback_group)
            assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        assert all(isinstance(group, MutuallyExclusiveCallbackGroup) for group in groups)
        assert groups[0] is not groups[1]
    finally:
        node.destroy_node()


# -- the rclpy that is there -------------------------------------------------------------------------------------------


def imported_names() -> list[tuple[str, str]]:
    """Modules of ROS and what is imported from them."""
    found = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if isinstance(node, ast.ImportFrom) and module.split(".")[0] in ("rclpy", "rcl_interfaces"):
                found |= {(module, alias.name) for alias in node.names}
    return sorted(found)


def calls_of_the_node() -> list[tuple[str, int, tuple[str, ...], str]]:
    """Name, number of plain arguments, and keywords of every call of a method of rclpy's node."""
    found = []
    for source in SOURCES:
        for call in ast.walk(ast.parse(source.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            if ast.unparse(call.func.value) in ("self", "node", "self._node", "super()"):
                keywords = tuple(keyword.arg or "" for keyword in call.keywords)
                found.append((call.func.attr, len(call.args), keywords, f"{source.name}:{call.lineno}"))
    return [call for call in found if hasattr(LifecycleNode, call[0])]


@pytest.mark.parametrize(("module", "name"), imported_names())
def test_what_is_imported_is_there(module, name):
    assert hasattr(importlib.import_module(module), name)


def test_the_node_s_methods_take_what_they_are_given():
    calls = calls_of_the_node()
    assert {"create_timer", "create_subscription", "declare_parameter"} <= {call[0] for call in calls}
    for name, num_plain, keywords, where in calls:
        if name == "__init__":
            continue
        signature = inspect.signature(getattr(LifecycleNode, name))
        try:
            signature.bind(*[None] * (1 + num_plain), **dict.fromkeys(keywords))
        except TypeError as error:
            pytest.fail(f"{where}: {name}: {error}")


def test_the_private_names_are_there(client):
    """There is no public way to these two."""
    node = LifecycleNode("names")
    try:
        assert callable(node._service_change_state.callback)
        assert isinstance(node._parameter_overrides, dict)
    finally:
        node.destroy_node()
