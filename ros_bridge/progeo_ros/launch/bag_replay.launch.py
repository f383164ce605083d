"""Plays a bag to the node, on the bag's own clock. Without ROS, `progeo-replay` does the same and drops no image.

ros2 launch progeo_ros bag_replay.launch.py bag:=drive image:=/camera/image_raw odom:=/odom
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    TimerAction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

LAUNCH = Path(get_package_share_directory("progeo_ros")) / "launch"

# (name, default, description)
ARGUMENTS = (
    ("bag", "", "bag to play"),
    ("rate", "1.0", "speed"),
    ("delay_s", "5.0", "time that the node gets to load its model before the bag starts"),
    ("record", "", "bag to record everything into; empty: none"),
)


def generate_launch_description() -> LaunchDescription:
    """Called by ros2 launch; the arguments of progeo.launch.py are understood too."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH / "progeo.launch.py")),
        launch_arguments={"use_sim_time": "true"}.items(),
    )
    return LaunchDescription([*arguments, node, OpaqueFunction(function=play)])


def play(context: LaunchContext) -> list[Any]:
    """The player, once the node had its time, and the recorder, which must be there before."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    if not given["bag"]:
        raise RuntimeError("no bag to play; give bag:=PATH")
    command = ["ros2", "bag", "play", given["bag"], "--clock", "--rate", given["rate"]]
    actions: list[Any] = [
        TimerAction(period=float(given["delay_s"]), actions=[ExecuteProcess(cmd=command, output="screen")])
    ]
    if given["record"]:
        actions.append(
            ExecuteProcess(cmd=["ros2", "bag", "record", "--all", "--output", given["record"]], output="screen")
        )
    return actions
