"""Settings from the parameter server, in the form of ROS 1 and in that of the parameter files of ROS 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from progeo_edge.config import Config
from progeo_ros.config import NodeConfig
from progeo_ros.parameters import configs_from

EVERY_NODE = "/**"
"""Where `rosparam load` puts what a parameter file of ROS 2 has for every node."""
WRAPPING = "ros__parameters"
OF_ROS_2 = ("use_sim_time",)
"""Stands in files of ROS 2 and means nothing here: rospy takes the global parameter /use_sim_time."""


def settings_from(for_every_node: Any, private: Any) -> tuple[NodeConfig, Config]:  # noqa: ANN401
    """The settings in classes.

    Args:
        for_every_node: What the parameter server has under `EVERY_NODE`.
        private: What it has under the name of the node; wins.

    Raises:
        ConfigError: unknown name, wrong type or out of range, one clause per parameter.
    """
    given = {**dotted(for_every_node), **dotted(private)}
    return configs_from({name: value for name, value in given.items() if name not in OF_ROS_2})


def dotted(values: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401
    """Values by dotted name. A file may nest the names or write them with dots, and may have the wrapping of ROS 2.

    Args:
        values: As `rospy.get_param` gives them; a node without parameters has no mapping but an empty text.
        prefix: Of all names, with its dot.
    """
    if not isinstance(values, Mapping):
        return {}
    names: dict[str, Any] = {}
    for name, value in values.items():
        if not prefix and name == WRAPPING:
            names = {**names, **dotted(value)}
        elif isinstance(value, Mapping):
            names.update(dotted(value, f"{prefix}{name}."))
        else:
            names[f"{prefix}{name}"] = value
    return names
