"""Timings by name and round, as a result holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from progeo_edge.benchmark.statistics import round_medians, summarise


class SeriesBook:
    """Collects measurements; a round is the same work done again, so that rounds differ by disturbance only.

    All series are such that less is better.
    """

    def __init__(self) -> None:
        self._units: dict[str, str] = {}
        self._rounds: dict[str, list[list[float]]] = {}

    def add_round(self, name: str, values: Sequence[float], unit: str = "ms") -> None:
        """Add one round of a series; a round without values, as of a stage that did not run, is left out.

        Args:
            name: Dotted, the part before the first dot groups: "pipeline.encode".
            values: In the order in which they were measured, in `unit`.
            unit: Of the series; the same in every round.
        """
        if len(values):
            self._units[name] = unit
            self._rounds.setdefault(name, []).append(list(values))

    def __contains__(self, name: object) -> bool:
        return name in self._rounds

    def as_json(self) -> dict[str, Any]:
        """By name: unit, the summary over all rounds, and the median of every round."""
        return {
            name: {
                "unit": self._units[name],
                "summary": asdict(summarise([value for values in rounds for value in values])),
                "rounds": round_medians(rounds),
            }
            for name, rounds in self._rounds.items()
        }
