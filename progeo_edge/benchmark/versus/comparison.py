"""What a comparison says: one row per contender, each with its time, its ratios, and whether its answers agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from progeo_edge.benchmark.statistics import Ratio, Summary, ratio_over_rounds


@dataclass(frozen=True)
class Row:
    """One contender.

    Attributes:
        name: Of the contender.
        is_ours: Whether it is progeo-edge.
        time_ms: Over all its measurements.
        round_medians_ms: One per round, the same rounds for all rows of a comparison.
        agreement: Figures that show that nobody is fast by being wrong, by what they are.
        facts: What really ran, as the peer says it.
    """

    name: str
    is_ours: bool
    time_ms: Summary
    round_medians_ms: tuple[float, ...]
    agreement: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """The same work, done by several contenders in turn.

    Attributes:
        group: What is compared: "frame to candidates", "index".
        case: On what: "640x480", "random unit vectors, 10000".
        rows: One per contender that took part.
        absent: Contenders that did not, and why.
        notes: Sentences that a reader needs in order to judge the figures.
        size: Number of descriptors, where the group is plotted over it.
    """

    group: str
    case: str
    rows: tuple[Row, ...]
    absent: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    size: int | None = None

    @property
    def ours(self) -> Row | None:
        """The row that ratios refer to: of ours the fastest by its median, of those that miss the fewest answers."""
        own = [row for row in self.rows if row.is_ours]
        return min(own, key=lambda row: (-row.agreement.get("recall@1", 1.0), row.time_ms.p50), default=None)

    def times_ours(self, row: Row) -> Ratio | None:
        """How many times as long as ours a contender takes; None when ours is absent."""
        ours = self.ours
        return None if ours is None else ratio_over_rounds(row.round_medians_ms, ours.round_medians_ms)

    def as_json(self) -> dict[str, Any]:
        """For the result file, with the ratios spelled out."""
        ours = self.ours
        rows = []
        for row in self.rows:
            ratio = self.times_ours(row)
            rows.append({**asdict(row), "times_ours": None if ratio is None else asdict(ratio)})
        return {
            "group": self.group,
            "case": self.case,
            "size": self.size,
            "ours": None if ours is None else ours.name,
            "rows": rows,
            "absent": dict(self.absent),
            "notes": list(self.notes),
        }
