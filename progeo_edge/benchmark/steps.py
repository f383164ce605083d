"""How a long measurement says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Steps = Callable[[str, int], Callable[[], None]]
"""Begins a phase, given its name and the number of its steps; the function returned is called after each of them."""


def silent(name: str, total: int) -> Callable[[], None]:
    """Say nothing."""
    return lambda: None
