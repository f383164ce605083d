"""What `progeo-eval` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from progeo_edge.cli.console import console, error_console

if TYPE_CHECKING:
    from progeo_edge.evaluation.loops_result import LoopsResult
    from progeo_edge.evaluation.promise import FalseRates
    from progeo_edge.evaluation.reliability import Reliability
    from progeo_edge.evaluation.retrieval import RetrievalResult
    from progeo_edge.evaluation.trajectory import ErrorFigures, TrajectoryResult
    from progeo_edge.profiles import JudgedVariant

MAX_NAMED = 10
TRAJECTORY_COLUMNS = ("error: rmse (median, max)", "odometry", "with closures")
PROFILE_COLUMNS = (
    *("setting", "closures", "false", "precision", "recall", "events closed"),
    *("false/h before geometry", "false/h after", "on the front"),
)


def print_retrieval(name: str, result: RetrievalResult, encode_ms: Mapping[str, float]) -> None:
    """Recall@N and what it was counted over."""
    from rich.table import Table

    out = console()
    out.print(f"{name}: recall in percent [95 % interval]")
    table = Table()
    table.add_column("N")
    table.add_column("recall@N", justify="right")
    for n, interval in result.recall.items():
        table.add_row(str(n), interval.percent())
    out.print(table)
    out.print(
        f"{result.num_queries} queries, {result.num_database} database images; "
        f"{result.num_without_positive} images without a positive left out; "
        f"encode {encode_ms['p50']:.1f} ms (p50), {encode_ms['p99']:.1f} ms (p99)"
    )


def print_loops(result: LoopsResult) -> None:
    """What the run accepted, what each score could reach, and the statuses."""
    from rich.table import Table

    out = console()
    out.print(
        f"{result.num_keyframes} keyframes, {result.num_revisits} revisits in {result.num_events} events "
        f"({result.num_excluded} more only within the exclusion of {result.exclusion_s:g} s)"
    )
    if result.num_unlisted:
        error_console().print(
            f"note: {result.num_unlisted} keyframes are not in the truth: without a label they count as places seen "
            "once, without a true pose they are not judged"
        )
    accepted = Table(title="accepted by the run, percent [95 % interval]")
    for column in ("precision", "recall", "events closed"):
        accepted.add_column(column, justify="right")
    accepted.add_row(result.precision.percent(), result.recall.percent(), result.event_recall.percent())
    out.print(accepted)
    out.print(
        f"{result.num_closures} closures: {len(result.false_closures)} false, "
        f"{result.num_neutral_closures} in the neutral band"
    )
    for closure in result.false_closures:
        inliers = "unverified" if closure.num_inliers is None else f"{closure.num_inliers} inliers"
        out.print(f"  false: {closure.query} -> {closure.reference}, similarity {closure.similarity:.3f}, {inliers}")
    for first, last in result.missed_events[:MAX_NAMED]:
        out.print(f"  event never closed: {first} to {last}", markup=False)
    if len(result.missed_events) > MAX_NAMED:
        out.print(f"  and {len(result.missed_events) - MAX_NAMED} more")
    if result.rates is None:
        out.print("no rate per hour: the keyframes of the run span no time")
    else:
        _print_rates(result.rates)
    if result.reliability is not None:
        _print_reliability(result.reliability)
    curves = Table(title="best candidate by threshold, percent [95 % interval]")
    for column in ("score", "AP", "max F1", "R@100P", "R@95P"):
        curves.add_column(column, justify="left" if column == "score" else "right")
    for curve in result.curves:
        figures = (curve.average_precision, curve.max_f1, curve.recall_at_100, curve.recall_at_95)
        curves.add_row(curve.score, *(interval.percent(bound_digits=0) for interval in figures))
    out.print(curves)
    _print_counts("keyframes", result.statuses)
    _print_counts("candidates", result.candidate_statuses)
    out.print(f"intervals: circular block bootstrap over keyframes, blocks of {result.block_length}")


def _print_rates(rates: FalseRates) -> None:
    out = console()
    before, after = rates.before_geometry, rates.after_geometry
    out.print(f"false accepts before geometry: {before.text()}, {before.count} keyframes in {before.hours:.2f} hours")
    if rates.promised_per_hour is not None:
        out.print(f"  promised {rates.promised_per_hour:g} per hour: {rates.verdict}")
    out.print(f"false closures after geometry: {after.text()} in {after.hours:.2f} hours")


def _print_reliability(reliability: Reliability) -> None:
    from rich.table import Table

    table = Table(title="probability against the share right, percent, exact 95 % interval")
    for column in ("stated", "candidates", "mean stated", "observed right"):
        table.add_column(column, justify="right")
    for one in reliability.bins:
        stated = f"{100 * one.low:.0f} to {100 * one.high:.0f}"
        table.add_row(stated, str(one.count), f"{100 * one.stated:.1f}", one.observed.percent())
    out = console()
    out.print(table)
    ece, brier = reliability.ece, reliability.brier
    out.print(
        f"expected calibration error {ece.percent()} percent points; Brier score {brier.value or 0.0:.3f} "
        f"({reliability.brier_of_base_rate:.3f} by always stating the share right)"
    )


def print_trajectory(result: TrajectoryResult, written: Sequence[Path]) -> None:
    """The errors before and after, the closures left out, and how to look with evo."""
    from rich.table import Table

    out = console()
    out.print(f"{result.num_keyframes} keyframes with a true pose, {result.num_closures} closures with a pose")
    table = Table(*TRAJECTORY_COLUMNS)
    for row in trajectory_rows(result):
        table.add_row(*row)
    out.print(table)
    if result.with_closures is None:
        out.print(
            "the run has no closure with a pose"
            if result.num_closures == 0
            else "GTSAM is not installed: pip install 'progeo-edge\\[graph]'"
        )
    for query, reference in result.left_out:
        out.print(f"  left out because it contradicts the rest: {query} -> {reference}", markup=False)
    names = [path.name for path in written]
    for path in written:
        if path.name != "truth.tum" and "truth.tum" in names:
            out.print(f"evo_ape tum {path.parent / 'truth.tum'} {path} --align", soft_wrap=True, markup=False)


def trajectory_rows(result: TrajectoryResult) -> list[tuple[str, ...]]:
    """Rows of `TRAJECTORY_COLUMNS`."""
    distance = f"{result.odometry.rpe_distance_m:g} m"
    names = {
        "ATE in m": "ate_m",
        "ATE in deg": "ate_deg",
        "RPE per keyframe in m": "rpe_step_m",
        "RPE per keyframe in deg": "rpe_step_deg",
        f"RPE over {distance} in m": "rpe_m",
        f"RPE over {distance} in deg": "rpe_deg",
    }
    return [
        (title, _figures(getattr(result.odometry, name)), _figures(getattr(result.with_closures, name, None)))
        for title, name in names.items()
    ]


def _figures(figures: ErrorFigures | None) -> str:
    return "-" if figures is None else f"{figures.rmse:.3f} ({figures.median:.3f}, {figures.max:.3f})"


def print_profiles(judged: Sequence[JudgedVariant]) -> None:
    """One row per setting; the page has more columns."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="percent and false closures per hour [95 % interval]; * on the Pareto front")
    table.add_column("setting", overflow="fold", min_width=16)
    for name in ("closures", "false", "recall", "false/h"):
        table.add_column(name, justify="right")
    for one in judged:
        result, rates = one.result, one.result.rates
        after = "-" if rates is None else rates.after_geometry.text().removesuffix(" per hour")
        name = one.variant.name + (" *" if one.on_front else "")
        counts = (str(result.num_closures), str(one.num_false))
        table.add_row(escape(name), *counts, result.recall.percent(0), after)
    console().print(table)
    first = judged[0].result
    console().print(
        f"{first.num_keyframes} keyframes, {first.num_revisits} revisits in {first.num_events} events "
        f"in the run of {judged[0].variant.name}"
    )


def profile_rows(judged: Sequence[JudgedVariant]) -> list[tuple[str, ...]]:
    """Rows of `PROFILE_COLUMNS`."""
    rows = []
    for one in judged:
        result, rates = one.result, one.result.rates
        per_hour = ("-", "-") if rates is None else (rates.before_geometry.text(), rates.after_geometry.text())
        rows.append(
            (
                one.variant.name,
                str(result.num_closures),
                str(one.num_false),
                result.precision.percent(),
                result.recall.percent(),
                result.event_recall.percent(),
                *(text.removesuffix(" per hour") for text in per_hour),
                "yes" if one.on_front else "",
            )
        )
    return rows


def _print_counts(what: str, counts: Mapping[str, int]) -> None:
    listed = ", ".join(f"{status} {count}" for status, count in sorted(counts.items(), key=lambda item: -item[1]))
    console().print(f"{what}: {listed or 'none'}")
