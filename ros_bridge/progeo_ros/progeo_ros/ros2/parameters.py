"""Declares every setting as a parameter of a node, and reads them back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, ParameterType
from rclpy.node import Node
from rclpy.parameter import Parameter

from progeo_ros import qos_overrides
from progeo_ros.parameters import ParameterSpec, parameter_specs, unknown_names

_TYPES = {
    "bool": ParameterType.PARAMETER_BOOL,
    "int": ParameterType.PARAMETER_INTEGER,
    "float": ParameterType.PARAMETER_DOUBLE,
    "str": ParameterType.PARAMETER_STRING,
    "strings": ParameterType.PARAMETER_STRING_ARRAY,
}
_LARGEST_FLOAT = 1e308
_LARGEST_INT = 2**63 - 1
_NOT_OURS = (qos_overrides.PREFIX, "use_sim_time", "start_type_description_service", "autostart")


def declare_settings(node: Node) -> dict[str, ParameterSpec]:
    """Declare all parameters; the defaults of the detector's are those of the parameter `profile`.

    Returns:
        Their specifications by name.

    Raises:
        rclpy.exceptions.InvalidParameterValueException: a value from file or command line is out of range.
        rclpy.exceptions.InvalidParameterTypeException: or of the wrong type.
    """
    by_name = {spec.name: spec for spec in parameter_specs()}
    _declare(node, by_name["profile"])
    profile = str(node.get_parameter("profile").value)
    by_name = {spec.name: spec for spec in parameter_specs(profile)}
    for name, spec in by_name.items():
        if name != "profile":
            _declare(node, spec)
    return by_name


def read_settings(node: Node, specs: Mapping[str, ParameterSpec], changes: Iterable[Parameter] = ()) -> dict[str, Any]:
    """Values by dotted name, with changes that are not in force yet."""
    values = {name: node.get_parameter(name).value for name in specs}
    values.update({parameter.name: parameter.value for parameter in changes if parameter.name in specs})
    return {name: _plain(value, specs[name]) for name, value in values.items()}


def unknown_settings(node: Node, specs: Mapping[str, ParameterSpec]) -> list[str]:
    """A sentence for each value from file or command line that no parameter takes: ROS ignores those without a word."""
    given = node._parameter_overrides  # there is no public way to them without declaring them
    return unknown_names([name for name in given if not name.startswith(_NOT_OURS)], specs)


def profile_overrides(node: Node) -> dict[str, Any]:
    """Values from file or command line that change profiles of quality of service, by full name."""
    given = node._parameter_overrides
    return {name: parameter.value for name, parameter in given.items() if name.startswith(qos_overrides.PREFIX)}


def _declare(node: Node, spec: ParameterSpec) -> None:
    node.declare_parameter(spec.name, spec.default, _descriptor(spec))


def _descriptor(spec: ParameterSpec) -> ParameterDescriptor:
    constraints = []
    if spec.choices:
        constraints.append(f"one of: {', '.join(spec.choices)}" if spec.kind == "str" else ", ".join(spec.choices))
    if spec.read_only:
        constraints.append("can only be changed while the node is unconfigured")
    descriptor = ParameterDescriptor(
        name=spec.name,
        type=_TYPES[spec.kind],
        description=spec.description,
        additional_constraints="; ".join(constraints),
        # A whole number is a fine value in metres, and an empty list has no type in ROS: our own check decides.
        dynamic_typing=spec.kind in ("float", "strings"),
    )
    if spec.minimum is not None or spec.maximum is not None:
        if spec.kind == "int":
            descriptor.integer_range = [_integer_range(spec)]
        else:
            descriptor.floating_point_range = [_float_range(spec)]
    return descriptor


def _integer_range(spec: ParameterSpec) -> IntegerRange:
    low = -_LARGEST_INT if spec.minimum is None else int(spec.minimum)
    high = _LARGEST_INT if spec.maximum is None else int(spec.maximum)
    return IntegerRange(from_value=low, to_value=high, step=0)


def _float_range(spec: ParameterSpec) -> FloatingPointRange:
    low = -_LARGEST_FLOAT if spec.minimum is None else float(spec.minimum)
    high = _LARGEST_FLOAT if spec.maximum is None else float(spec.maximum)
    return FloatingPointRange(from_value=low, to_value=high, step=0.0)


def _plain(value: Any, spec: ParameterSpec) -> Any:  # noqa: ANN401
    """Whole numbers are fine as floats; an empty list arrives as None from a file, or has an empty string in it."""
    if spec.kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if spec.kind == "strings" and (value is None or isinstance(value, list | tuple)):
        return [text for text in value or () if text]
    return value
