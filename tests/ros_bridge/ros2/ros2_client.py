"""The node under test as a process, and a client that listens, asks and publishes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile

from progeo_ros.ros2.types import RclpyTypes

ROOT = Path(__file__).parents[3]
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "shutdown": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
}
# The short stretch of the tests: revisits after 2 s and 4 m, small images, no deadline on a busy machine.
SHORT_STREET = {
    "exclusion.time_s": 2.0,
    "exclusion.distance_m": 4.0,
    "exclusion.keyframes": 4,
    "budget.deadline_ms": 0.0,
    "verification.working_size_px": 320,
    "verification.max_features": 500,
    "input.depth": True,
}


def environment() -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "ros_bridge" / "progeo_ros"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


class NodeProcess:
    """`progeo-node` with parameters.

    Args:
        log: Where its output goes.
        parameters: By dotted name.
        arguments: Further ones after --ros-args.
        name: Of the node.
    """

    def __init__(self, log: Path, parameters: dict[str, Any], *arguments: str, extra: dict[str, str] | None = None):
        self.log = log
        command = [sys.executable, "-m", "progeo_ros.ros2.main", "--ros-args", *arguments]
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", f"{name}:={text}"]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env={**environment(), **(extra or {})}
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def resident_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def interrupt(self, timeout_s: float = 15.0) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout_s)

    def end(self) -> None:
        """By Ctrl-C: DDS believes for many seconds that a killed process still offers its services."""
        if not self.is_alive():
            return
        try:
            self.interrupt()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise


@contextmanager
def running(tmp_path: Path, parameters: dict[str, Any], *arguments: str, **extra: Any) -> Iterator[NodeProcess]:
    """A node with a map in a temporary folder; ended at the end."""
    given = {"map.path": tmp_path / "map.progeo", **parameters}
    node = NodeProcess(tmp_path / f"node-{time.monotonic_ns()}.log", given, *arguments, **extra)
    try:
        yield node
    finally:
        node.end()


class Client:
    """Listens, asks and publishes, in a thread of its own."""

    def __init__(self) -> None:
        rclpy.init()
        self.node = rclpy.create_node(f"test_client_{os.getpid()}")
        self.types = RclpyTypes()
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5)
        self.node.destroy_node()
        rclpy.try_shutdown()

    def listen(self, topic: str, msgtype: str, *, latched: bool = False, depth: int = 100) -> list[Any]:
        """Messages of a topic, from now on (latched: and the last ones before)."""
        received: list[Any] = []
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        self.node.create_subscription(
            self.types.find(msgtype), topic, received.append, QoSProfile(depth=depth, durability=durability)
        )
        return received

    def call(self, service: str, srvtype: Any, request: Any, timeout_s: float = 20.0) -> Any:
        """Answer of a service."""
        kind = self.types.find(srvtype) if isinstance(srvtype, str) else srvtype
        client = self.node.create_client(kind, service)
        try:
            assert client.wait_for_service(timeout_s), f"service {service} is not offered"
            done = threading.Event()
            future = client.call_async(request)
            future.add_done_callback(lambda _: done.set())
            assert done.wait(timeout_s), f"service {service} has not answered in {timeout_s} s"
            return future.result()
        finally:
            self.node.destroy_client(client)

    def ask(self, name: str, srvtype: str, **fields: Any) -> Any:
        """Answer of one of the node's own services."""
        return self.call(f"/progeo/{name}", srvtype, self.types.make(f"{srvtype}_Request", **fields))

    def change_state(self, name: str) -> bool:
        """A transition of the node."""
        request = ChangeState.Request(transition=Transition(id=TRANSITIONS[name]))
        return bool(self.call("/progeo/change_state", ChangeState, request, 30.0).success)

    def state(self) -> str:
        """Label of the node's state."""
        return str(self.call("/progeo/get_state", GetState, GetState.Request()).current_state.label)

    def set_parameter(self, name: str, value: Any) -> tuple[bool, str]:
        """Whether a parameter was taken, and the reason why not."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        result = self.call("/progeo/set_parameters", SetParameters, request).results[0]
        return bool(result.successful), str(result.reason)

    def describe(self, name: str) -> Any:
        """Descriptor of a parameter."""
        request = DescribeParameters.Request(names=[name])
        return self.call("/progeo/describe_parameters", DescribeParameters, request).descriptors[0]


def wait_until(condition: Callable[[], Any], timeout_s: float = 20.0, what: str = "it") -> Any:
    """The first true value of a condition; fails after a time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} has not happened in {timeout_s} s")
