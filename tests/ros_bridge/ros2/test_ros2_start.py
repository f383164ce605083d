"""Parameters from files and the command line, when the node starts."""

from __future__ import annotations

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: source its setup.bash (rclpy is not importable)")

from rcl_interfaces.srv import GetParameters  # noqa: E402

from tests.ros_bridge.ros2.ros2_client import running  # noqa: E402


def test_an_unknown_name_is_warned_of_with_the_nearest_one(client, tmp_path):
    with running(tmp_path, {"exclusion.time": 3.0}) as node:
        client.state()
        assert "parameter exclusion.time is unknown and has no effect; did you mean exclusion.time_s?" in node.output


@pytest.mark.parametrize(
    ("name", "value"), [("search.top_k", 0), ("search.top_k", "many"), ("verification.ratio", 2.0)]
)
def test_a_wrong_value_at_the_start_ends_the_node_with_a_sentence(tmp_path, name, value):
    with running(tmp_path, {name: value}) as node:
        assert node.process.wait(20) == 2
        assert name in node.output
        assert "Traceback" not in node.output


def test_profiles_are_defaults_that_own_values_win_over(client, tmp_path):
    with running(tmp_path, {"profile": "balanced", "verification.min_matches": 25}):
        names = ["verification.min_inliers", "verification.min_matches"]
        answer = client.call("/progeo/get_parameters", GetParameters, GetParameters.Request(names=names))
        assert [value.integer_value for value in answer.values] == [20, 25]
        assert client.change_state("configure")


def test_an_empty_list_of_adapters_and_qos_overrides_from_a_file_are_taken(client, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(
        "progeo:\n  ros__parameters:\n    adapters: ['']\n    exclusion:\n      time_s: 20\n"
        "    qos_overrides:\n      /loop_closures:\n        publisher:\n          depth: 7\n"
    )
    with running(tmp_path, {}, "--params-file", str(file)) as node:
        assert client.change_state("configure")
        assert "unknown" not in node.output
        infos = client.node.get_publishers_info_by_topic("/loop_closures")
        assert infos
