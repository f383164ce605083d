"""config/progeo.yaml says what the code says, and is a parameter file that ROS reads."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml

from progeo_edge.config import Config
from progeo_edge.settings import known_keys
from progeo_ros.config import NodeConfig
from progeo_ros.parameters import configs_from, parameter_specs

ROOT = Path(__file__).parents[2]
FILE = ROOT / "ros_bridge" / "progeo_ros" / "config" / "progeo.yaml"


@pytest.fixture(scope="module")
def text():
    return FILE.read_text(encoding="utf-8")


def test_the_file_is_current(text):
    made = runpy.run_path(str(ROOT / "tools" / "list_ros_parameters.py"))["parameter_file"]()
    assert made == text, "run: python tools/list_ros_parameters.py > ros_bridge/progeo_ros/config/progeo.yaml"


def test_every_setting_stands_in_it_once(text):
    named = re.findall(r"^    (?:# )?([a-z_0-9]+(?:\.[a-z_0-9]+)?): ", text, flags=re.MULTILINE)
    assert sorted(named) == sorted([*known_keys(NodeConfig()), *known_keys(Config())])


def test_what_is_commented_out_is_the_default(text):
    everything = yaml.safe_load(re.sub(r"^    # ([a-z_0-9.]+: )", r"    \1", text, flags=re.MULTILINE))
    values = everything["/**"]["ros__parameters"]
    assert configs_from(values) == (NodeConfig(), Config())


def test_values_have_the_type_that_the_node_declares(text):
    """ROS does not turn 5 into 5.0: a number without a point is refused for a parameter that is one."""
    everything = yaml.safe_load(re.sub(r"^    # ([a-z_0-9.]+: )", r"    \1", text, flags=re.MULTILINE))
    kinds = {"bool": bool, "int": int, "float": float, "str": str, "strings": list}
    for spec in parameter_specs():
        value = everything["/**"]["ros__parameters"][spec.name]
        assert type(value) is kinds[spec.kind], spec.name


def test_as_it_is_it_changes_nothing(text):
    """No empty sections either, which ROS refuses."""
    values = yaml.safe_load(text)["/**"]["ros__parameters"]
    assert None not in values.values()
    assert configs_from(values) == (NodeConfig(), Config())
