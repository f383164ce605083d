"""The node alone: configured and activated at once, its topics connected to those of the camera.

ros2 launch progeo_ros progeo.launch.py image:=/camera/image_raw odom:=/odom
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(get_package_share_directory("progeo_ros"))

# (name, default, description)
ARGUMENTS = (
    ("image", "image", "images; a name that ends in /compressed is taken as CompressedImage"),
    ("camera_info", "", "intrinsics; empty: camera_info beside the images"),
    ("depth", "", "depth registered to the images; empty: none"),
    ("right_image", "", "right images of a rectified pair; empty: none"),
    ("odom", "odom", "odometry (nav_msgs/Odometry)"),
    ("keyframe", "", "stamps of the images to keep (std_msgs/Header); empty: the node chooses"),
    ("params_file", str(SHARE / "config" / "progeo.yaml"), "parameters"),
    ("model", "", "'vlad' or a bundle; empty: as in params_file"),
    ("map", "", "map to go on with; empty: as in params_file"),
    ("base_frame", "", "frame that poses are of; empty: as in params_file"),
    ("adapters", "", "consumers to serve, separated by commas; empty: as in params_file"),
    ("name", "progeo", "name of the node"),
    ("namespace", "", "namespace of the node and of its topics"),
    ("autostart", "true", "configure and activate; false leaves it to a lifecycle manager"),
    ("use_sim_time", "false", "take the time from /clock"),
    ("log_level", "info", "debug, info, warn or error"),
    ("rviz", "false", "open RViz with the node's outputs"),
)


def generate_launch_description() -> LaunchDescription:
    """Called by ros2 launch."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Any]:
    """The node and RViz, with all arguments known."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    actions = [
        Node(
            package="progeo_ros",
            executable="progeo-node",
            name=given["name"],
            namespace=given["namespace"],
            parameters=[given["params_file"], overrides(given)],
            remappings=remappings(given),
            arguments=["--ros-args", "--log-level", given["log_level"]],
            output="screen",
        )
    ]
    if is_true(given, "rviz"):
        rviz = ["-d", str(SHARE / "rviz" / "progeo.rviz")]
        actions.append(Node(package="rviz2", executable="rviz2", arguments=rviz, remappings=remappings(given)))
    return actions


def overrides(given: dict[str, str]) -> dict[str, Any]:
    """Parameters that follow from the arguments; they win over the file."""
    values: dict[str, Any] = {name: is_true(given, name) for name in ("autostart", "use_sim_time")}
    if given["image"].endswith("/compressed"):
        values["input.transport"] = "compressed"
    for argument, parameter in (("depth", "input.depth"), ("right_image", "input.right")):
        if given[argument]:
            values[parameter] = True
    if given["keyframe"]:
        values["input.external_keyframes"] = True
    for argument, parameter in (("model", "model.path"), ("map", "map.path"), ("base_frame", "frames.base")):
        if given[argument]:
            values[parameter] = given[argument]
    if given["adapters"]:
        values["adapters"] = [name.strip() for name in given["adapters"].split(",")]
    return values


def is_true(given: dict[str, str], name: str) -> bool:
    """A switch, in any of the forms that launch files know."""
    text = given[name].lower()
    if text not in ("true", "1", "false", "0"):
        raise ValueError(f"{name}:={given[name]} is no switch; give true or false")
    return text in ("true", "1")


def remappings(given: dict[str, str]) -> list[tuple[str, str]]:
    """From the node's topics to those of the robot."""
    image = given["image"].removesuffix("/compressed")
    beside = f"{image.rpartition('/')[0]}/camera_info" if "/" in image else "camera_info"
    wanted = {
        "image": image,
        "image/compressed": f"{image}/compressed",
        "camera_info": given["camera_info"] or beside,
        "depth": given["depth"],
        "right/image": given["right_image"],
        "odom": given["odom"],
        "keyframe": given["keyframe"],
    }
    return [(ours, theirs) for ours, theirs in wanted.items() if theirs and theirs != ours]
