"""RTAB-Map with an RGB-D camera, and progeo_ros beside it, which sends its loop closures as links.

The camera's driver runs already; depth is registered to the images.

ros2 launch progeo_ros rtabmap_example.launch.py rgb:=/camera/color/image_raw depth:=/camera/depth/image_rect_raw
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

LAUNCH = Path(get_package_share_directory("progeo_ros")) / "launch"

# (name, default, description)
ARGUMENTS = (
    ("rgb", "/camera/color/image_raw", "colour images"),
    ("camera_info", "/camera/color/camera_info", "their intrinsics"),
    ("depth", "/camera/aligned_depth_to_color/image_raw", "depth registered to them"),
    ("frame_id", "base_link", "base frame of the robot; tf leads from it to the camera"),
    ("map", "", "map of progeo_ros to go on with; empty: a new one"),
    ("model", "", "'vlad' or a bundle; empty: as in config/progeo.yaml"),
    ("own_loops", "true", "RTAB-Map looks for loop closures of its own too"),
    ("use_sim_time", "false", "take the time from /clock"),
)


def generate_launch_description() -> LaunchDescription:
    """Called by ros2 launch."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Any]:
    """Odometry and graph of RTAB-Map, and the node."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    remappings = [
        ("rgb/image", given["rgb"]),
        ("rgb/camera_info", given["camera_info"]),
        ("depth/image", given["depth"]),
    ]
    parameters = {
        "frame_id": given["frame_id"],
        "subscribe_depth": True,
        "subscribe_odom_info": True,
        "approx_sync": True,
        "use_sim_time": given["use_sim_time"].lower() in ("true", "1"),
    }
    graph = dict(parameters)
    if given["own_loops"].lower() not in ("true", "1"):
        graph["Kp/MaxFeatures"] = "-1"  # no bag of words; parameters of its library are strings
    progeo = {
        "image": given["rgb"],
        "camera_info": given["camera_info"],
        "depth": given["depth"],
        "odom": "/rtabmap/odom",
        "base_frame": given["frame_id"],
        "map": given["map"],
        "model": given["model"],
        "adapters": "rtabmap_links",
        "use_sim_time": given["use_sim_time"],
    }
    return [
        rtabmap("rtabmap_odom", "rgbd_odometry", parameters, remappings),
        rtabmap("rtabmap_slam", "rtabmap", graph, remappings, "-d"),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(LAUNCH / "progeo.launch.py")), launch_arguments=progeo.items()
        ),
    ]


def rtabmap(
    package: str, executable: str, parameters: dict[str, Any], remappings: list[tuple[str, str]], *arguments: str
) -> Node:
    """One node of RTAB-Map; the namespace is the one that the adapter expects (rtabmap.namespace)."""
    return Node(
        package=package,
        executable=executable,
        namespace="rtabmap",
        parameters=[parameters],
        remappings=remappings,
        arguments=list(arguments),
        output="screen",
    )
