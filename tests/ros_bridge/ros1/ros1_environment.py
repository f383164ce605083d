"""What the tests need of a ROS 1 (Debian and Ubuntu carry it), and progeo_msgs built by its catkin."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

MESSAGES = Path(__file__).resolve().parents[3] / "ros_bridge" / "progeo_msgs"
PACKAGES = (
    *("rospy", "rosgraph", "rosmaster", "std_msgs", "std_srvs", "geometry_msgs", "sensor_msgs", "nav_msgs"),
    *("diagnostic_msgs", "visualization_msgs", "tf2_msgs"),
)
PROGRAMS = ("rosmaster", "cmake", "catkin_find")


def what_is_missing() -> str | None:
    """Why the tests cannot run here, for the summary; None when all is there."""
    packages = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    programs = [name for name in PROGRAMS if shutil.which(name) is None]
    if packages:
        return f"no ROS 1: {sys.executable} cannot import {', '.join(packages)}"
    if programs:
        return f"ROS 1 is incomplete: there is no {', '.join(programs)}"
    return None


def build_messages(folder: Path) -> Path:
    """Build and install progeo_msgs with catkin, outside the source tree.

    Returns:
        The folder to put on Python's path.
    """
    # The Python of the test has its own PATH; catkin wants the one of the system, for which it was packaged.
    environment = {**os.environ, "ROS_VERSION": "1", "ROS_LANG_DISABLE": "gencpp:genlisp"}
    configure = ["cmake", "-S", str(MESSAGES), "-B", str(folder / "build"), f"-DCMAKE_INSTALL_PREFIX={folder}/install"]
    for command in (
        [*configure, "-DPYTHON_EXECUTABLE=/usr/bin/python3"],
        ["cmake", "--build", str(folder / "build")],
        ["cmake", "--install", str(folder / "build")],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "install" / "lib" / "python3" / "dist-packages"
