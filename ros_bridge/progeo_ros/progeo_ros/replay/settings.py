"""Settings of a replay: a ROS parameter file and assignments, under the names that the node's parameters have."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from progeo_edge.config import PROFILES, Config, config_from_dict
from progeo_edge.errors import ConfigError
from progeo_edge.settings import known_keys, merge_layers, read_assignments, read_yaml, validate
from progeo_ros.config import NodeConfig

NODE_NAME = "progeo"
OF_ROS = ("use_sim_time", "qos_overrides", "start_type_description_service", "autostart")
"""Parameters that every node has, or that only a running one needs."""
UNHURRIED = {"budget": {"deadline_ms": 0.0}}
"""A recording has no hurry, and without a deadline the same input gives the same closures."""


def load_settings(params: Path | None, assignments: Sequence[str] = ()) -> tuple[NodeConfig, Config]:
    """Defaults, then the profile, then the file, then the assignments, later ones winning.

    Args:
        params: ROS parameter file, as `--params-file` of the node takes it; None for none.
        assignments: "search.top_k=10".

    Raises:
        ConfigError: unreadable file, no parameters for the node in it, unknown setting, wrong type or range.
    """
    given = merge_layers([{} if params is None else read_parameter_file(params), read_assignments(assignments)])
    _refuse_unknown(given)
    profile = given.get("profile", "conservative")
    if profile not in PROFILES:
        raise ConfigError(f"profile {profile!r} is unknown; choose one of {', '.join(PROFILES)}")
    of_node = {name: value for name, value in given.items() if name in NodeConfig.model_fields}
    of_detector = {name: value for name, value in given.items() if name in Config.model_fields}
    return (
        validate(NodeConfig, of_node, "config/progeo.yaml"),
        config_from_dict(merge_layers([UNHURRIED, PROFILES[profile], of_detector])),
    )


def read_parameter_file(path: Path, node_name: str = NODE_NAME) -> dict[str, Any]:
    """What a ROS parameter file sets for a node, as nested sections.

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
    layers = [_nested(values) for values in found]
    return {name: value for name, value in merge_layers(layers).items() if name not in OF_ROS}


def _nodes(tree: Mapping[Any, Any], names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Every node in the file, with its namespaces, and its parameters."""
    for key, value in tree.items():
        if key == "ros__parameters":
            yield names, value if isinstance(value, Mapping) else {}
        elif isinstance(value, Mapping):
            yield from _nodes(value, (*names, *(part for part in str(key).split("/") if part)))


def _nested(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Dotted names as sections."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = str(key).split(".")
        layer: dict[str, Any] = {name: _nested(value) if isinstance(value, Mapping) else value}
        for section in reversed(sections):
            layer = {section: layer}
        result = merge_layers([result, layer])
    return result


def _refuse_unknown(given: Mapping[str, Any]) -> None:
    """Sections that are neither the node's nor the detector's; what is inside one, its class checks."""
    known = [*NodeConfig.model_fields, *Config.model_fields]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            names = [*known_keys(NodeConfig()), *known_keys(Config())]
            hint = f"did you mean {near[0]!r}?" if near else f"config/progeo.yaml lists all {len(names)} settings"
            raise ConfigError(f"setting {name!r} is unknown; {hint}")
