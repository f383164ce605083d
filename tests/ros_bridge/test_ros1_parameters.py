"""Settings of the ROS 1 node, as the parameter server and files of both versions of ROS give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from progeo_edge.errors import ConfigError
from progeo_ros.ros1.parameters import settings_from

NESTED = {"search": {"top_k": 7}, "map": {"session": "survey"}, "adapters": ["recorder"]}
DOTTED = {"search.top_k": 7, "map.session": "survey", "adapters": ["recorder"]}
PARAMETER_FILE = Path(__file__).resolve().parents[2] / "ros_bridge" / "progeo_ros" / "config" / "progeo.yaml"


@pytest.mark.parametrize("values", [NESTED, DOTTED, {"ros__parameters": DOTTED}, {"ros__parameters": NESTED}])
def test_names_may_be_nested_or_dotted_and_wrapped(values: dict[str, Any]) -> None:
    for for_every_node, private in ((values, {}), ({}, values)):  # type: tuple[dict[str, Any], dict[str, Any]]
        config, detector_config = settings_from(for_every_node, private)
        assert detector_config.search.top_k == 7
        assert config.map.session == "survey"
        assert config.adapters == ("recorder",)


def test_private_parameters_win_over_the_file_and_that_over_those_for_every_node(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("search: {top_k: 2, rerank: false}\n")
    every = {"ros__parameters": {"search": {"top_k": 1, "rerank": True}, "map.session": "all"}}
    config, detector_config = settings_from(every, {"params_file": str(path), "search": {"top_k": 3}})
    assert (detector_config.search.top_k, detector_config.search.rerank, config.map.session) == (3, False, "all")


@pytest.mark.parametrize("name", ["/**", "progeo", "/progeo"])
def test_a_file_of_ros_2_is_read_for_this_node_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"{name}:\n  ros__parameters:\n    search.top_k: 4\nother:\n  ros__parameters: {{rate: 3}}\n")
    _, detector_config = settings_from({}, {"params_file": str(path)})
    assert detector_config.search.top_k == 4


def test_the_parameter_file_of_the_package_can_be_used() -> None:
    assert settings_from({}, {"params_file": str(PARAMETER_FILE)}) == settings_from({}, {})


def test_a_node_without_parameters_has_the_defaults() -> None:
    assert settings_from("", "") == settings_from({}, {"use_sim_time": True})


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'search\.top_k'"):
        settings_from({}, {"search": {"top_q": 3}})
    with pytest.raises(ConfigError, match=r"absent\.yaml cannot be read"):
        settings_from({}, {"params_file": str(tmp_path / "absent.yaml")})
