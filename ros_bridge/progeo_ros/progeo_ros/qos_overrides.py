"""Parameters `qos_overrides.TOPIC.publisher|subscription.POLICY`, checked before ROS takes them without a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from progeo_edge.errors import ConfigError

PREFIX = "qos_overrides."
EXAMPLE = "qos_overrides./loop_closures.publisher.depth: 10"
_CHOICES = {
    "history": ("keep_last", "keep_all", "system_default"),
    "reliability": ("reliable", "best_effort", "system_default"),
    "durability": ("volatile", "transient_local", "system_default"),
}
_POLICIES = (*_CHOICES, "depth")


def refuse_wrong_profiles(given: Mapping[str, Any]) -> None:
    """Make sure that overrides of profiles can be used.

    Args:
        given: Values by full name; those of other parameters are left alone.

    Raises:
        ConfigError: name or value is wrong; the sentence says what was expected.
    """
    for name, value in given.items():
        if name.startswith(PREFIX):
            _refuse_wrong_value(name, _policy(name), value)


def _policy(name: str) -> str:
    topic, _, rest = name[len(PREFIX) :].rpartition(".")[0].rpartition(".")
    policy = name.rpartition(".")[2]
    if not topic.startswith("/") or rest not in ("publisher", "subscription"):
        raise ConfigError(
            f"parameter {name} names no publisher or subscription; expected the full name of a topic, as in {EXAMPLE}"
        )
    if policy not in _POLICIES:
        raise ConfigError(f"parameter {name}: policy {policy!r} is unknown; choose one of {', '.join(_POLICIES)}")
    return policy


def _refuse_wrong_value(name: str, policy: str, value: Any) -> None:  # noqa: ANN401
    if policy == "depth":
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"parameter {name} = {value!r}: expected a whole number of messages, 1 or more")
    elif not isinstance(value, str) or value.lower() not in _CHOICES[policy]:
        raise ConfigError(f"parameter {name} = {value!r}: choose one of {', '.join(_CHOICES[policy])}")
