"""Settings from parameter server and file, in the form of ROS 1 and in that of the parameter files of ROS 2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from progeo_edge.config import Config
from progeo_edge.settings import read_yaml
from progeo_ros.config import NodeConfig
from progeo_ros.parameters import configs_from

EVERY_NODE = "/**"
"""Where `rosparam load` puts what a parameter file of ROS 2 has for every node."""
WRAPPING = "ros__parameters"
FILE = "params_file"
OF_ROS = (FILE, "use_sim_time", "autostart")
"""Parameters that are no settings; rospy takes simulated time from the global /use_sim_time."""


def settings_from(for_every_node: Any, private: Any, node_name: str = "progeo") -> tuple[NodeConfig, Config]:  # noqa: ANN401
    """The settings in classes: for every node, then of the file that `params_file` names, then private; later ones win.

    Args:
        for_every_node: What the parameter server has under `EVERY_NODE`.
        private: What it has under the name of the node.
        node_name: Without namespace, for files of ROS 2 with several nodes.

    Raises:
        ConfigError: unreadable file, unknown name, wrong type or out of range, one clause per parameter.
    """
    own = dotted(private)
    path = own.get(FILE, "")
    given = {**dotted(for_every_node), **(_from_file(Path(path).expanduser(), node_name) if path else {}), **own}
    return configs_from({name: value for name, value in given.items() if name not in OF_ROS})


def dotted(values: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401
    """Values by dotted name. They may be nested or have dots already, and may stand in the wrapping of ROS 2.

    Args:
        values: As rospy.get_param and YAML give them; what is no mapping has no values.
        prefix: Of all names, with its dot.
    """
    if not isinstance(values, Mapping):
        return {}
    names: dict[str, Any] = {}
    for name, value in values.items():
        if name == WRAPPING and not prefix:
            names.update(dotted(value))
        elif isinstance(value, Mapping):
            names.update(dotted(value, f"{prefix}{name}."))
        else:
            names[f"{prefix}{name}"] = value
    return names


def _from_file(path: Path, node_name: str) -> dict[str, Any]:
    values = read_yaml(path)
    of_nodes = [values[name] for name in (EVERY_NODE, node_name, f"/{node_name}") if _is_wrapped(values.get(name))]
    if not of_nodes:
        return dotted(values)
    return {name: value for wrapped in of_nodes for name, value in dotted(wrapped).items()}


def _is_wrapped(values: Any) -> bool:  # noqa: ANN401
    return isinstance(values, Mapping) and WRAPPING in values
