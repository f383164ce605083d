"""Settings of a replay: a ROS parameter file and assignments, under the names that the node's parameters have."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from progeo_edge.config import Config
from progeo_edge.errors import ConfigError
from progeo_edge.settings import read_assignments, read_yaml
from progeo_ros.config import NodeConfig
from progeo_ros.parameters import configs_from, parameter_specs

NODE_NAME = "progeo"
OF_ROS = ("use_sim_time", "qos_overrides", "start_type_description_service", "autostart")
"""Parameters that every node has, or that only a running one needs."""
UNHURRIED = {"budget.deadline_ms": 0.0}
"""A recording has no hurry, and without a deadline the same input gives the same closures."""


def load_settings(params: Path | None, assignments: Sequence[str] = ()) -> tuple[NodeConfig, Config]:
    """Defaults, then the profile, then the file, then the assignments, later ones winning.

    Args:
        params: ROS parameter file, as `--params-file` of the node takes it; None for none.
        assignments: "search.top_k=10".

    Raises:
        ConfigError: unreadable file, no parameters for the node in it, unknown setting, wrong type or range.
    """
    given = {} if params is None else read_parameter_file(params)
    given.update(_dotted(read_assignments(assignments)))
    known = [spec.name for spec in parameter_specs()]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "config/progeo.yaml lists all"
            raise ConfigError(f"setting {name!r} is unknown; {hint}")
    return configs_from({**UNHURRIED, **given})


def read_parameter_file(path: Path, node_name: str = NODE_NAME) -> dict[str, Any]:
    """What a ROS parameter file sets for a node, by dotted name.

    Entries for every node ("/**") and for the node in any namespace are taken, in the order of the file. Names may be
    nested or dotted ("search.top_k: 10").

    Raises:
        ConfigError: the file cannot be read, or says nothing about the node.
    """
    found = [values for names, values in _nodes(read_yaml(path), ()) if names and names[-1] in ("*", "**", node_name)]
    if not found:
        raise ConfigError(
            f"parameter file {path} has no parameters for node {node_name!r}; expected '/**:' or '{node_name}:', and "
            f"'ros__parameters:' below it"
        )
    given = {name: value for values in found for name, value in _dotted(values).items()}
    return {name: value for name, value in given.items() if name.partition(".")[0] not in OF_ROS}


def _nodes(tree: Mapping[Any, Any], names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Every node in the file, with its namespaces, and its parameters."""
    for key, value in tree.items():
        if key == "ros__parameters":
            yield names, value if isinstance(value, Mapping) else {}
        elif isinstance(value, Mapping):
            yield from _nodes(value, (*names, *(part for part in str(key).split("/") if part)))


def _dotted(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat
