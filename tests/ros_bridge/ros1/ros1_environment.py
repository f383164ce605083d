"""What the tests need of a ROS 1 (Debian and Ubuntu carry it), and what catkin makes of our packages."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

BRIDGE = Path(__file__).resolve().parents[3] / "ros_bridge"
PACKAGES = (
    *("rospy", "rosgraph", "rosmaster", "std_msgs", "std_srvs", "geometry_msgs", "sensor_msgs", "nav_msgs"),
    *("diagnostic_msgs", "visualization_msgs", "tf2_msgs"),
)
PROGRAMS = ("rosmaster", "roslaunch", "cmake", "catkin_find")


def what_is_missing() -> str | None:
    """Why the tests cannot run here, for the summary; None when all is there."""
    packages = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    programs = [name for name in PROGRAMS if shutil.which(name) is None]
    if packages:
        return f"no ROS 1: {sys.executable} cannot import {', '.join(packages)}"
    if programs:
        return f"ROS 1 is incomplete: there is no {', '.join(programs)}"
    return None


def build_packages(folder: Path) -> Path:
    """Build and install progeo_msgs and progeo_ros with catkin, outside the source tree.

    Returns:
        The folder they are installed to.
    """
    install = folder / "install"
    for package in ("progeo_msgs", "progeo_ros"):
        build = str(folder / package)
        # catkin wants the Python it was packaged for; the test may run in another.
        settings = [f"-DCMAKE_INSTALL_PREFIX={install}", "-DPYTHON_EXECUTABLE=/usr/bin/python3"]
        _run(["cmake", "-S", str(BRIDGE / package), "-B", build, *settings])
        _run(["cmake", "--build", build])
        _run(["cmake", "--install", build])
    return install


def python_folder(install: Path) -> Path:
    """Where catkin puts modules of Python."""
    return install / "lib" / "python3" / "dist-packages"


def _run(command: list[str]) -> None:
    environment = {**os.environ, "ROS_VERSION": "1", "ROS_LANG_DISABLE": "gencpp:genlisp"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
