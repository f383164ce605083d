"""Every setting as a flat parameter with a dotted name, as ROS wants them; derived from the config classes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from progeo_edge import settings
from progeo_edge.config import PROFILES, Config, config_from_dict
from progeo_edge.errors import ConfigError
from progeo_edge.settings import Section
from progeo_ros.config import NodeConfig

Kind = Literal["bool", "int", "float", "str", "strings"]
Value = bool | int | float | str | list[str]

DOCUMENTATION = "the README of progeo_ros"

FIXED_WHILE_CONFIGURED = ("profile", "encoder.", "store.", "verification.detector", "verification.max_features")
"""Settings of the detector that the content of the map or the open encoder depends on, or that only choose defaults."""


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One setting.

    Attributes:
        name: Dotted, as in YAML: "exclusion.time_s".
        default: Of the profile.
        kind: Type of the value; "strings" is a list.
        description: One line, with the unit in the name.
        minimum: Smallest value, or the bound below which it must not be; None without one.
        maximum: Likewise.
        choices: Allowed texts; empty for any.
        read_only: Can only be changed while the node is unconfigured.
    """

    name: str
    default: Value
    kind: Kind
    description: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    read_only: bool


def parameter_specs(profile: str = "conservative") -> tuple[ParameterSpec, ...]:
    """All settings of node and detector, in the order of the classes.

    Args:
        profile: The defaults are those of this profile; an unknown one counts as conservative, and is refused with a
            sentence by `configs_from`.
    """
    known = profile if profile in PROFILES else "conservative"
    detector = config_from_dict({**PROFILES[known], "profile": known})
    return (*_specs(NodeConfig(), "", True), *_specs(detector, "", False))


def configs_from(values: Mapping[str, Any]) -> tuple[NodeConfig, Config]:
    """The settings in classes, from values by dotted name; names that are left out have their default.

    Raises:
        ConfigError: unknown name, wrong type or out of range, one clause per parameter.
    """
    nested = _nested(values)
    for_node = {name: value for name, value in nested.items() if name in NodeConfig.model_fields}
    for_detector = {name: value for name, value in nested.items() if name not in for_node}
    node_config = settings.validate(NodeConfig, for_node, DOCUMENTATION)
    profile = for_detector.get("profile", "conservative")
    if profile not in PROFILES:
        raise ConfigError(f"profile {profile!r} is unknown; choose one of {', '.join(PROFILES)}")
    return node_config, config_from_dict(settings.merge_layers([PROFILES[profile], for_detector]))


def refuse_change(names: Iterable[str], specs: Mapping[str, ParameterSpec]) -> None:
    """Make sure that parameters may change while the node is configured.

    Raises:
        ConfigError: one of them may not.
    """
    for name in names:
        if name in specs and specs[name].read_only:
            raise ConfigError(
                f"parameter {name} cannot change while the node is configured; clean it up, set the parameter and "
                "configure it again"
            )


def unknown_names(names: Iterable[str], specs: Mapping[str, ParameterSpec]) -> list[str]:
    """A sentence for each name that is no setting, with the nearest one."""
    sentences = []
    for name in sorted(set(names) - set(specs)):
        near = difflib.get_close_matches(name, list(specs), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"{DOCUMENTATION} lists the parameters"
        sentences.append(f"parameter {name} is unknown and has no effect; {hint}")
    return sentences


def _specs(section: Section, prefix: str, of_node: bool) -> list[ParameterSpec]:
    found: list[ParameterSpec] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            found += _specs(value, f"{prefix}{name}.", of_node)
        else:
            found.append(_spec(f"{prefix}{name}", field, value, of_node))
    return found


def _spec(name: str, field: FieldInfo, value: Any, of_node: bool) -> ParameterSpec:  # noqa: ANN401
    minimum, maximum = _bounds(field)
    return ParameterSpec(
        name=name,
        default=list(value) if isinstance(value, tuple) else value,
        kind=_kind(field.annotation),
        description=field.description or "",
        minimum=minimum,
        maximum=maximum,
        choices=_choices(field.annotation),
        read_only=of_node or name.startswith(FIXED_WHILE_CONFIGURED),
    )


def _kind(annotation: Any) -> Kind:  # noqa: ANN401
    if get_origin(annotation) is tuple:
        return "strings"
    if annotation in (bool, int, float):
        return cast(Kind, annotation.__name__)
    return "str"


def _choices(annotation: Any) -> tuple[str, ...]:  # noqa: ANN401
    if get_origin(annotation) is tuple:
        return _choices(get_args(annotation)[0])
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _bounds(field: FieldInfo) -> tuple[float | None, float | None]:
    minimum = maximum = None
    for item in field.metadata:
        if isinstance(item, Ge | Gt):
            minimum = cast(float, item.ge if isinstance(item, Ge) else item.gt)
        if isinstance(item, Le | Lt):
            maximum = cast(float, item.le if isinstance(item, Le) else item.lt)
    return minimum, maximum


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *sections, last = name.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = value
    return nested
