"""Writes the parameter file of the ROS node from the classes that hold the settings.

python tools/list_ros_parameters.py > ros_bridge/progeo_ros/config/progeo.yaml
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from progeo_edge.config import Config
from progeo_edge.settings import Section
from progeo_ros.config import NodeConfig

HEAD = """# Parameters of progeo_ros, with their defaults; made by tools/list_ros_parameters.py.
#
# What is commented out holds all the same: take the "# " away to change it. The names are those of `progeo-run --set`
# and of `ros2 param`. The profile (conservative, balanced, recall) changes several of the defaults of the detector,
# but nothing that is written out here.
#
# `/**` is every node; the name of the node may stand there instead.

/**:
  ros__parameters:
"""

FIRST = ("model.path", "map.path", "frames.base", "input.odometry", "profile")
"""What most users set: written out, all others are commented."""


def parameter_file() -> str:
    """The whole file."""
    lines = [HEAD.rstrip("\n")]
    for config, title in ((NodeConfig(), "the node"), (Config(), "the detector (docs/pipeline.md gives the reasons)")):
        lines += ["", f"    # -- {title} --"]
        lines += [line for name, value in config for line in _entry(config, name, value)]
    return "\n".join(lines) + "\n"


def _entry(config: Section, name: str, value: Any) -> list[str]:  # noqa: ANN401
    if not isinstance(value, Section):
        return ["", _line(name, value, type(config).model_fields[name])]
    title = (type(value).__doc__ or "").strip()
    fields = type(value).model_fields
    return [
        "",
        f"    # {title}",
        *(_line(f"{name}.{key}", getattr(value, key), field) for key, field in fields.items()),
    ]


def _line(name: str, value: Any, field: FieldInfo) -> str:  # noqa: ANN401
    text = f"{name}: {_yaml(value)}"
    said = "; ".join(part for part in (_choices(field), field.description) if part)
    comment = f"  # {said}" if said else ""
    return f"    {text}{comment}" if name in FIRST else f"    # {text}{comment}"


def _choices(field: FieldInfo) -> str:
    """What a setting may be, where it is one word of several."""
    kinds = [field.annotation, *get_args(field.annotation)]
    words = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
    return " | ".join(words)


def _yaml(value: Any) -> str:  # noqa: ANN401
    """As ROS reads it: strings in quotes, numbers with a point where the setting is one."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


if __name__ == "__main__":
    sys.stdout.write(parameter_file())
