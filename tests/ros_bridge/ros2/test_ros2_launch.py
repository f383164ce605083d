"""progeo.launch.py as ros2 launch runs it; needs the packages built by colcon and sourced."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys

import pytest

from tests.ros_bridge.ros2.conftest import MISSING

if MISSING is None:
    from rclpy.parameter import parameter_value_to_python

    from tests.ros_bridge.ros2.ros2_client import environment, wait_until


def installed() -> bool:
    if importlib.util.find_spec("ros2launch") is None:
        return False
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        get_package_prefix("progeo_ros")
    except PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(not installed(), reason="needs ros2launch, and progeo_ros built by colcon and sourced")
def test_the_node_is_active_with_its_topics_connected(client, tmp_path):
    from lifecycle_msgs.srv import GetState
    from rcl_interfaces.srv import GetParameters

    arguments = ["image:=/front/image_raw/compressed", "depth:=/front/depth", "odom:=/wheel/odom", "namespace:=robot"]
    arguments += [f"map:={tmp_path / 'map.progeo'}", "base_frame:=base_footprint"]
    command = [sys.executable, "-c", "from ros2cli.cli import main; main()", "launch", "progeo_ros", "progeo.launch.py"]
    with (tmp_path / "launch.log").open("w") as log:
        launched = subprocess.Popen([*command, *arguments], stdout=log, stderr=subprocess.STDOUT, env=environment())
    try:

        def is_active() -> bool:
            answer = client.call("/robot/progeo/get_state", GetState, GetState.Request(), 30.0)
            return bool(answer.current_state.label == "active")

        wait_until(is_active, 30.0, "activation")
        heard = dict(client.node.get_subscriber_names_and_types_by_node("progeo", "/robot"))
        assert {"/front/image_raw/compressed", "/front/camera_info", "/front/depth", "/wheel/odom"} <= set(heard)
        names = ["input.transport", "input.depth", "frames.base"]
        answer = client.call("/robot/progeo/get_parameters", GetParameters, GetParameters.Request(names=names))
        values = [parameter_value_to_python(value) for value in answer.values]
        assert values == ["compressed", True, "base_footprint"]
        assert (tmp_path / "map.progeo").exists()
    finally:
        launched.send_signal(signal.SIGINT)
        launched.wait(30)
