"""The pages that `progeo-eval --html` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from progeo_edge.cli.eval_tables import PROFILE_COLUMNS, TRAJECTORY_COLUMNS, profile_rows, trajectory_rows
from progeo_edge.evaluation.loops_result import LoopsResult
from progeo_edge.evaluation.page import Section, write_page
from progeo_edge.evaluation.plots import (
    draw_curves,
    draw_rates,
    draw_reliability,
    draw_trajectory,
    draw_trajectory_errors,
    svg,
)
from progeo_edge.evaluation.trajectory import TrajectoryResult
from progeo_edge.profiles import JudgedVariant, draw_variants

MAX_ROWS = 200


def loops_page(path: Path, title: str, result: LoopsResult) -> None:
    """Everything about the closures of a run."""
    sections = [_accepted(result)]
    rates, reliability = result.rates, result.reliability
    if rates is not None:
        rows = [
            (a.query, a.reference, f"{a.similarity:.3f}", "" if a.probability is None else f"{a.probability:.3f}")
            for a in rates.false_accepts[:MAX_ROWS]
        ]
        sections.append(
            Section(
                "False accepts per hour",
                (
                    f"before geometry {rates.before_geometry.text()}, after geometry {rates.after_geometry.text()}",
                    "Keyframes whose best candidate passed the gates before geometry though it is wrong:",
                ),
                svg(lambda axes: draw_rates(axes, rates)),
                ("query", "reference", "similarity", "probability"),
                rows,
            )
        )
    if reliability is not None:
        ece, brier, base = reliability.ece.value, reliability.brier.value, reliability.brier_of_base_rate
        lines = [
            f"expected calibration error {_plain(ece)}, Brier score {_plain(brier)} "
            f"({base:.3f} by always stating the share right)"
        ]
        plot = svg(lambda axes: draw_reliability(axes, reliability))
        sections.append(Section("Do the probabilities mean what they say?", lines, plot))
    if result.curves:
        sections.append(Section("Other thresholds", svg=svg(lambda axes: draw_curves(axes, result))))
    counts = sorted(result.statuses.items(), key=lambda item: -item[1])
    ends = [(name, str(count), str(result.candidate_statuses.get(name, 0))) for name, count in counts]
    ends += [(n, "0", str(c)) for n, c in result.candidate_statuses.items() if n not in result.statuses]
    sections.append(Section("Where it ended", columns=("status", "keyframes", "candidates"), rows=ends))
    write_page(path, title, sections)


def trajectory_page(path: Path, title: str, result: TrajectoryResult) -> None:
    """Path, errors along it, and the figures."""
    lines = [
        f"left out because it contradicts the rest: {query} -> {reference}" for query, reference in result.left_out
    ]
    write_page(
        path,
        title,
        [
            Section("From above", lines, svg(lambda axes: draw_trajectory(axes, result))),
            Section("Along the drive", svg=svg(lambda axes: draw_trajectory_errors(axes, result))),
            Section("Figures", columns=TRAJECTORY_COLUMNS, rows=trajectory_rows(result)),
        ],
    )


def profiles_page(path: Path, title: str, judged: Sequence[JudgedVariant]) -> None:
    """The Pareto plot and the table."""
    write_page(
        path,
        title,
        [
            Section(
                "Recall against false closures",
                ("Nothing beats a setting on the front in recall and in false closures at once.",),
                svg(lambda axes: draw_variants(axes, judged)),
                PROFILE_COLUMNS,
                profile_rows(judged),
            )
        ],
    )


def _accepted(result: LoopsResult) -> Section:
    lines = [
        f"{result.num_keyframes} keyframes, {result.num_revisits} revisits in {result.num_events} events",
        f"precision {result.precision.percent()} %, recall {result.recall.percent()} %, "
        f"events closed {result.event_recall.percent()} %",
        f"{result.num_closures} closures: {len(result.false_closures)} false, {result.num_neutral_closures} neutral",
    ]
    lines += [f"event never closed: {first} to {last}" for first, last in result.missed_events[:MAX_ROWS]]
    rows = [
        (c.query, c.reference, f"{c.similarity:.3f}", "" if c.num_inliers is None else str(c.num_inliers))
        for c in result.false_closures[:MAX_ROWS]
    ]
    return Section(
        "Accepted by the run", lines, columns=("false: query", "reference", "similarity", "inliers"), rows=rows
    )


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
