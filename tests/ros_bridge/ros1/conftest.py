"""Everything in this folder needs ROS 1 and is skipped, with the reason, where it is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ros_bridge.ros1.ros1_environment import build_packages, python_folder, what_is_missing
from tests.ros_bridge.ros1.ros1_system import Ros1

MISSING = what_is_missing()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if MISSING is not None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(scope="session")
def ros1_packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that catkin installed progeo_msgs and progeo_ros to; progeo_msgs can be imported."""
    install = build_packages(tmp_path_factory.mktemp("catkin"))
    sys.path.insert(0, str(python_folder(install)))
    yield install
    sys.path.remove(str(python_folder(install)))


@pytest.fixture(scope="session")
def ros(tmp_path_factory: pytest.TempPathFactory, ros1_packages: Path) -> Iterator[Ros1]:
    """A master, and whatever tests start around it."""
    system = Ros1(tmp_path_factory.mktemp("ros1"), ros1_packages)
    yield system
    system.close()
