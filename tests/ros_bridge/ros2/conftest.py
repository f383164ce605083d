"""Everything in this folder needs ROS 2 (rclpy) and is skipped, with the reason, where it is not there.

Plain pytest with subprocesses: each test has its own node process, and may kill it; launch_testing would start all
processes of a file once, and ask for a test runner of its own.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before the first message class is imported: a field of a wrong type is an error, not a surprise of the receiver.
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"
# Apart from everything else that runs on this machine.
os.environ.setdefault("ROS_DOMAIN_ID", str(50 + os.getpid() % 50))

MISSING = None if importlib.util.find_spec("rclpy") else "needs ROS 2: source its setup.bash (rclpy is not importable)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if MISSING is not None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two passes of a rendered street, as a file that the player reads."""
    from tests.ros_bridge.ros2.street_player import write_street

    return write_street(tmp_path_factory.mktemp("street") / "street.npz")


@pytest.fixture(scope="session")
def client() -> Iterator[object]:
    """A node that listens and asks."""
    from tests.ros_bridge.ros2.ros2_client import Client

    client = Client()
    yield client
    client.close()
