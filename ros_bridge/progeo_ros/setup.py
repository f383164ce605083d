"""Installs progeo_ros, by colcon (ROS 2) or by pip (the replay of bags, and ROS 1)."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "progeo_ros"


def files(folder: str, pattern: str) -> list[str]:
    """Files of a folder, relative as setuptools wants them."""
    return sorted(str(path) for path in Path(folder).glob(pattern))


setup(
    name=PACKAGE,
    version="0.1.0",
    description="Visual place recognition and verified loop closures for the SLAM system a robot already runs",
    license="Apache-2.0",
    maintainer="progeo-edge maintainers",
    maintainer_email="maintainers@progeo-edge.invalid",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    python_requires=">=3.10",
    install_requires=["setuptools"],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", files("launch", "*.launch*")),
        (f"share/{PACKAGE}/config", files("config", "*.yaml")),
        (f"share/{PACKAGE}/rviz", files("rviz", "*.rviz")),
        # With pip there is no progeo_msgs; the replay reads and writes its messages by these definitions.
        (f"share/{PACKAGE}/definitions/msg", files("../progeo_msgs/msg", "*.msg")),
        (f"share/{PACKAGE}/definitions/srv", files("../progeo_msgs/srv", "*.srv")),
    ],
    entry_points={
        "console_scripts": [
            "progeo-node = progeo_ros.ros2.main:main",
            "progeo-node-ros1 = progeo_ros.ros1.main:main",
            "progeo-replay = progeo_ros.replay.command:main",
        ]
    },
)
