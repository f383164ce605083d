"""Parameter files of ROS as the replay reads them."""

from __future__ import annotations

import pytest

from progeo_edge.errors import ConfigError
from progeo_ros.replay.settings import load_settings, read_parameter_file


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "params.yaml"
        path.write_text(text)
        return path

    return write


NESTED = """
/**:
  ros__parameters:
    use_sim_time: true
    search:
      top_k: 7
    frames.base: base_footprint
    qos_overrides:
      /image.subscription.depth: 3
"""


def test_nested_and_dotted_names_are_the_same_and_those_of_ros_are_left_out(file):
    assert read_parameter_file(file(NESTED)) == {"search.top_k": 7, "frames.base": "base_footprint"}


@pytest.mark.parametrize(
    "head",
    ["progeo:", "/progeo:", "/robot1/progeo:", "/**/progeo:", "robot1:\n  progeo:"],
)
def test_the_node_is_found_in_every_namespace(file, head):
    indent = "  " * (head.count("\n") + 1)
    path = file(f"{head}\n{indent}ros__parameters:\n{indent}  search.top_k: 3\n")
    assert read_parameter_file(path) == {"search.top_k": 3}


def test_later_entries_win_and_those_of_other_nodes_are_not_ours(file):
    text = "/**:\n  ros__parameters: {search.top_k: 3}\nrtabmap:\n  ros__parameters: {search.top_k: 4}\n"
    assert read_parameter_file(file(text)) == {"search.top_k": 3}
    ours = text + "progeo:\n  ros__parameters: {search: {top_k: 5}}\n"
    assert read_parameter_file(file(ours)) == {"search.top_k": 5}


@pytest.mark.parametrize("text", ["search: {top_k: 3}\n", "rtabmap:\n  ros__parameters: {a: 1}\n", ""])
def test_a_file_without_our_node_is_refused(file, text):
    with pytest.raises(ConfigError, match=r"no parameters for node 'progeo'; expected '/\*\*:'"):
        read_parameter_file(file(text))


def test_a_file_that_is_no_yaml_is_refused(file):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_parameter_file(file("a: [1"))


def test_assignments_win_over_the_file(file):
    node_config, config = load_settings(file(NESTED), ["search.top_k=9", "input.odometry=none"])
    assert (config.search.top_k, node_config.frames.base, node_config.input.odometry) == (9, "base_footprint", "none")


def test_a_recording_has_no_deadline_unless_it_is_set(file):
    assert load_settings(None)[1].budget.deadline_ms == 0
    assert load_settings(None, ["budget.deadline_ms=80"])[1].budget.deadline_ms == 80


def test_the_profile_changes_what_is_not_set(file):
    path = file("/**:\n  ros__parameters: {profile: balanced, verification.min_matches: 25}\n")
    _, config = load_settings(path)
    assert (config.verification.min_inliers, config.verification.min_matches) == (20, 25)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("serch.top_k=3", "'serch.top_k' is unknown; did you mean 'search.top_k'"),
        ("modell.path=x", "did you mean 'model.path'"),
        ("search.top_k=0", "search.top_k = 0"),
        ("input.odometry=gps", "input.odometry = 'gps'"),
        ("profile=bold", "profile 'bold' is unknown"),
        ("adapters=[rtab]", "adapters"),
        ("nothing", "is no assignment"),
    ],
)
def test_what_is_wrong_is_said(assignment, message):
    with pytest.raises(ConfigError, match=None) as error:
        load_settings(None, [assignment])
    assert message in str(error.value)
