"""A ROS 1 of the test's own: a master on a free port of the loopback, and processes around it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xmlrpc.client import ServerProxy

import numpy as np

from tests.ros_bridge.ros1.ros1_environment import python_folder
from tests.small_world import camera, two_passes

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 30.0
HERE = "tests.ros_bridge.ros1"


class Ros1:
    """A master, and the processes that the test has started around it, which all end with it.

    Args:
        folder: For logs, parameter files and what listeners heard.
        packages: Folder that catkin installed progeo_msgs and progeo_ros to.
    """

    def __init__(self, folder: Path, packages: Path) -> None:
        self.folder = folder
        self.packages = packages
        self.processes: list[subprocess.Popen[str]] = []
        port = _free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ROS_")},
            "ROS_MASTER_URI": f"http://127.0.0.1:{port}",
            "ROS_IP": "127.0.0.1",
            "ROS_HOME": str(folder / "home"),
            "ROS_LOG_DIR": str(folder / "log"),
            "ROS_PACKAGE_PATH": str(packages / "share"),
            "CMAKE_PREFIX_PATH": str(packages),
            # Scripts that begin with "env python3" take the Python of the test.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONUNBUFFERED": "1",
        }
        self.start("master", ["rosmaster", "--core", "-p", str(port)])
        wait_until(lambda: _answers(port), "the master does not answer")

    def start(self, name: str, command: Sequence[str], *, with_messages: bool = True) -> subprocess.Popen[str]:
        """Start a process whose output goes to NAME.out and NAME.err."""
        paths = [str(ROOT), str(ROOT / "ros_bridge" / "progeo_ros")]
        if with_messages:
            paths.append(str(python_folder(self.packages)))
        environment = {**self.environment, "PYTHONPATH": os.pathsep.join(paths)}
        with self.output(name).open("w") as out, self.errors(name).open("w") as err:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err, text=True)
        self.processes.append(process)
        return process

    def output(self, name: str) -> Path:
        return self.folder / f"{name}.out"

    def errors(self, name: str) -> Path:
        return self.folder / f"{name}.err"

    def set_parameters(self, namespace: str, values: dict[str, Any]) -> None:
        """As `rosparam load FILE NAMESPACE` does it."""
        with ServerProxy(self.environment["ROS_MASTER_URI"]) as master:
            master.setParam("/test", namespace, values)

    def delete_parameter(self, name: str) -> None:
        with ServerProxy(self.environment["ROS_MASTER_URI"]) as master:
            master.deleteParam("/test", name)

    def launch(self, *arguments: str) -> subprocess.Popen[str]:
        """The launch file, as catkin installed it, with its arguments."""
        return self.start("launch", ["roslaunch", "progeo_ros", "progeo_ros1.launch", *arguments])

    def start_node(self, namespace: str, *, with_messages: bool = True) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "progeo_ros.ros1.main", f"__ns:={namespace}"]
        return self.start(f"node{namespace.replace('/', '-')}", command, with_messages=with_messages)

    def listen(self, namespace: str, name: str, *topics: str) -> Listener:
        """A process that hears "topic:package/Type" from now on."""
        path = self.folder / f"{name}.jsonl"
        command = [sys.executable, "-m", f"{HERE}.ros1_listener", str(path), *topics, f"__ns:={namespace}"]
        self.start(name, command)
        wait_until(lambda: "listening" in self.output(name).read_text(), f"{name} does not start")
        return Listener(path)

    def call(self, namespace: str, recording: Path, *calls: tuple[str, str, dict[str, Any]]) -> list[Any]:
        """Call services (name, "package/Type", fields) by a process; their answers."""
        name = f"caller-{len(self.processes)}"
        command = [sys.executable, "-m", f"{HERE}.ros1_caller", str(recording), json.dumps(calls), f"__ns:={namespace}"]
        assert self.finish(self.start(name, command)) == 0, self.errors(name).read_text()
        return [json.loads(line) for line in self.output(name).read_text().splitlines()]

    def play(self, namespace: str, recording: Path, *options: str) -> subprocess.Popen[str]:
        """A process that publishes a recording and ends with it."""
        command = [sys.executable, "-m", f"{HERE}.ros1_player", str(recording), *options, f"__ns:={namespace}"]
        return self.start(f"player-{len(self.processes)}", command)

    def finish(self, process: subprocess.Popen[str]) -> int:
        """Wait for the end of a process; its exit code."""
        return process.wait(PATIENCE_S)

    def close(self) -> None:
        """End all, the master last."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
            if process.poll() is None:
                process.kill()
                process.wait()


class Listener:
    """What a listening process has heard."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def heard(self, topic: str) -> list[Any]:
        """The messages of a topic so far; a line that is still being written is left out."""
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        items = [json.loads(line) for line in lines if line.endswith("\n")]
        return [item["message"] for item in items if item["topic"] == topic]

    def wait_for(self, topic: str, count: int) -> list[Any]:
        """At least so many messages of a topic."""
        wait_until(lambda: len(self.heard(topic)) >= count, f"{topic} came {len(self.heard(topic))} times, not {count}")
        return self.heard(topic)


def write_recording(path: Path) -> Path:
    """Two passes of the small street as the player reads them."""
    frames = two_passes()[0]
    np.savez(
        path,
        images=np.stack([frame.image for frame in frames]),
        depth_m=np.stack([frame.depth_m for frame in frames if frame.depth_m is not None]),
        stamps_ns=np.array([frame.stamp_ns for frame in frames]),
        T_odom_base=np.stack([frame.T_odom_base for frame in frames if frame.T_odom_base is not None]),
        K=camera().K,
        T_base_camera=camera().T_base_camera,
    )
    return path


def wait_until(condition: Callable[[], bool], otherwise: str, timeout_s: float = PATIENCE_S) -> None:
    """Fail with a sentence when a condition does not come true in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
