"""package.xml, launch files and the RViz view name what exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from catkin_pkg.package import parse_package

from progeo_edge.settings import known_keys
from progeo_ros.config import NodeConfig
from progeo_ros.message_types import MessageTypes
from progeo_ros.parameters import configs_from
from progeo_ros.publications import publications
from progeo_ros.rosbags_types import RosbagsTypes

# catkin_pkg calls pyparsing by the names it had before version 3.
pytestmark = pytest.mark.filterwarnings("ignore:'.* deprecated")

BRIDGE = Path(__file__).parents[2] / "ros_bridge"
PACKAGES = ("progeo_msgs", "progeo_ros")
LAUNCH_FILES = sorted((BRIDGE / "progeo_ros" / "launch").glob("*.launch.py"))

# Keys that rosdep resolves: packages released in ros/rosdistro, humble/distribution.yaml and jazzy/distribution.yaml
# (ROS 2), noetic/distribution.yaml (ROS 1), and rosdep/python.yaml (both), as of commit 8468e88ccd, 2026-08-22.
BOTH = {
    *("diagnostic_msgs", "geometry_msgs", "nav_msgs", "sensor_msgs", "std_msgs", "std_srvs"),
    *("tf2_msgs", "visualization_msgs"),
    *("python3-numpy", "python3-opencv", "python3-pytest"),
}
RELEASED = {
    "2": {
        *BOTH,
        *("ament_cmake", "rosidl_default_generators", "rosidl_default_runtime", "builtin_interfaces"),
        *("launch", "launch_ros", "launch_testing", "launch_testing_ros", "lifecycle_msgs", "rclpy", "ros2bag"),
    },
    "1": {*BOTH, "catkin", "message_generation", "message_runtime", "rospy"},
}


def package(name, ros_version):
    found = parse_package(BRIDGE / name)
    found.evaluate_conditions({"ROS_VERSION": ros_version})
    return found


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("ros_version", ["1", "2"])
def test_rosdep_knows_every_dependency(name, ros_version):
    found = package(name, ros_version)
    dependencies = [
        *(found.build_depends + found.buildtool_depends + found.exec_depends + found.test_depends),
        *(found.build_export_depends + found.buildtool_export_depends),
    ]
    keys = {dependency.name for dependency in dependencies if dependency.evaluated_condition}
    assert keys
    assert keys - set(PACKAGES) <= RELEASED[ros_version]


@pytest.mark.parametrize(
    ("name", "ros_version", "build_type"),
    [
        ("progeo_msgs", "2", "ament_cmake"),
        ("progeo_msgs", "1", "catkin"),
        ("progeo_ros", "2", "ament_python"),
        ("progeo_ros", "1", "catkin"),
    ],
)
def test_each_package_is_built_as_its_ros_wants(name, ros_version, build_type):
    assert package(name, ros_version).get_build_type() == build_type


def test_messages_are_a_group_member_in_ros_2_only():
    groups = {version: package("progeo_msgs", version).member_of_groups for version in ("1", "2")}
    assert [group.name for group in groups["2"] if group.evaluated_condition] == ["rosidl_interface_packages"]
    assert not any(group.evaluated_condition for group in groups["1"])


def test_versions_and_maintainers_agree():
    one, other = (package(name, "2") for name in PACKAGES)
    assert one.version == other.version
    assert f'version="{one.version}"' in (BRIDGE / "progeo_ros" / "setup.py").read_text()
    assert [person.email for person in one.maintainers] == [person.email for person in other.maintainers]


def imported(path):
    tree = ast.parse(path.read_text())
    return {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.stem)
def test_launch_files_import_what_package_xml_declares(path):
    declared = {dependency.name for dependency in package("progeo_ros", "2").exec_depends}
    ours = imported(path) - {"__future__", "pathlib", "typing", "ament_index_python"}
    assert ours <= declared


def test_launch_starts_a_program_that_setup_installs():
    text = (BRIDGE / "progeo_ros" / "launch" / "progeo.launch.py").read_text()
    (executable,) = set(re.findall(r'executable="(progeo[^"]*)"', text))
    assert f'"{executable} = ' in (BRIDGE / "progeo_ros" / "setup.py").read_text()


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.stem)
def test_launch_sets_parameters_that_exist(path):
    keys = known_keys(NodeConfig())
    sections = {key.partition(".")[0] for key in keys}
    named = {text for text in re.findall(r'"([a-z_]+\.[a-z_]+)"', path.read_text()) if text.split(".")[0] in sections}
    assert named <= set(keys)


def launch_functions():
    """What progeo.launch.py makes of its arguments; the file itself needs ROS to be imported."""
    path = BRIDGE / "progeo_ros" / "launch" / "progeo.launch.py"
    body: list[ast.stmt] = [
        node
        for node in ast.parse(path.read_text()).body
        if (isinstance(node, ast.FunctionDef) and node.name in ("overrides", "remappings", "is_true"))
        or (isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ARGUMENTS")
    ]
    scope: dict[str, Any] = {"Any": Any, "SHARE": BRIDGE / "progeo_ros"}
    exec(compile(ast.Module(body, []), str(path), "exec"), scope)
    defaults = {name: default for name, default, _ in scope["ARGUMENTS"]}
    return (
        lambda **given: scope["overrides"]({**defaults, **given}),
        lambda **given: dict(scope["remappings"]({**defaults, **given})),
    )


def test_launch_connects_the_topics_of_the_robot():
    _, remappings = launch_functions()
    assert remappings() == {}
    given = remappings(image="/front/image_raw/compressed", depth="/front/depth", odom="/wheel/odom")
    assert given == {
        "image": "/front/image_raw",
        "image/compressed": "/front/image_raw/compressed",
        "camera_info": "/front/camera_info",
        "depth": "/front/depth",
        "odom": "/wheel/odom",
    }
    assert remappings(image="/front/image_raw", camera_info="/calibration")["camera_info"] == "/calibration"


def test_launch_sets_what_the_arguments_imply():
    overrides, _ = launch_functions()
    assert overrides() == {"autostart": True, "use_sim_time": False}, "nothing that the file may say"
    given = overrides(
        image="/a/compressed", right_image="/b", keyframe="/c", map="m", base_frame="b", adapters="recorder, cuvslam"
    )
    del given["autostart"], given["use_sim_time"]
    node_config, _ = configs_from(given)
    assert (node_config.input.transport, node_config.input.right, node_config.input.depth) == (
        "compressed",
        True,
        False,
    )
    assert node_config.input.external_keyframes
    assert (node_config.map.path, node_config.frames.base) == ("m", "b")
    assert node_config.adapters == ("recorder", "cuvslam")


def test_launch_switches_are_taken_as_people_write_them():
    overrides, _ = launch_functions()
    for text, value in (("True", True), ("1", True), ("false", False), ("False", False), ("0", False)):
        assert overrides(use_sim_time=text)["use_sim_time"] is value
    with pytest.raises(ValueError, match="use_sim_time:=yes is no switch; give true or false"):
        overrides(use_sim_time="yes")


def test_rviz_shows_topics_of_the_node():
    view = yaml.safe_load((BRIDGE / "progeo_ros" / "rviz" / "progeo.rviz").read_text())
    types: MessageTypes = RosbagsTypes()
    published = {f"/{p.topic}": p for p in publications(NodeConfig(), types, True)}
    kinds = {
        "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
        "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
        "rviz_default_plugins/PoseWithCovariance": "geometry_msgs/msg/PoseWithCovarianceStamped",
    }
    shown = [display for display in view["Visualization Manager"]["Displays"] if "Topic" in display]
    outputs = [display for display in shown if display["Topic"]["Value"] not in ("/image", "/odom")]
    assert {display["Topic"]["Value"] for display in outputs} == {
        "/match_image",
        "/loop_markers",
        "/relocalization_pose",
    }
    for display in outputs:
        publication = published[display["Topic"]["Value"]]
        assert kinds[display["Class"]] == publication.msgtype
        latched = display["Topic"]["Durability Policy"] == "Transient Local"
        assert latched == publication.latched
