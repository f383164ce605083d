"""Strict settings from a YAML file and `a.b=c` assignments: what the runtime's and the training's configs share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from progeo_edge.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused, defaults validated too.

    Its validator is built when it is first used: building all of them is a tenth of the runtime's import.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, defer_build=True)


AnySection = TypeVar("AnySection", bound=Section)


def merge_layers(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Nested plain values, later layers winning key by key."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer)
    return merged


def read_yaml(path: Path) -> dict[str, Any]:
    """Sections of a YAML file; an empty file has none.

    Raises:
        ConfigError: unreadable, or no mapping at its top.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"config file {path} cannot be read: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"config file {path} holds a {type(values).__name__}; expected sections such as 'search:'")
    return values


def read_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Dotted assignments such as "search.top_k=10" as nested values; the right sides are YAML.

    Raises:
        ConfigError: an item that is no assignment, or whose value cannot be read.
    """
    values: dict[str, Any] = {}
    for item in assignments:
        _set_dotted(values, item)
    return values


def validate(kind: type[AnySection], values: Mapping[str, Any], documentation: str) -> AnySection:
    """Check plain values against a config class.

    Args:
        kind: The config class.
        values: Nested plain values.
        documentation: Where a person finds the list of settings, for the message.

    Raises:
        ConfigError: one clause per bad key, with the nearest known one for an unknown key.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        known = known_keys(kind())
        raise ConfigError("; ".join(_explain(item, known, documentation) for item in error.errors())) from None


def known_keys(config: Section) -> list[str]:
    """Every dotted name of a config with sections, for messages and documentation."""
    keys = []
    for name, value in config:
        keys += [f"{name}.{inner}" for inner in type(value).model_fields] if isinstance(value, Section) else [name]
    return keys


def to_yaml(config: Section) -> str:
    """The effective config as YAML, in the order of the classes."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _set_dotted(target: dict[str, Any], assignment: str) -> None:
    import yaml

    key, separator, text = assignment.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {assignment!r} is no assignment; write it as section.name=value")
    *sections, name = key.strip().split(".")
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {assignment!r}: {section} is a value, not a section")
    try:
        target[name] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment!r}: the value cannot be read: {error}") from error


def _merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in extra.items():
        old = result.get(key)
        result[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def _explain(error: ErrorDetails, known: Sequence[str], documentation: str) -> str:
    dotted = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(dotted, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"{documentation} lists the settings"
        return f"setting {dotted!r} is unknown; {hint}"
    return f"setting {dotted} = {error['input']!r}: {error['msg']}"
