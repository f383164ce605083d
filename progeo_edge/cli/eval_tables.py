"""What `progeo-eval` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from progeo_edge.cli.console import console, error_console

if TYPE_CHECKING:
    from progeo_edge.evaluation.loops_result import LoopsResult
    from progeo_edge.evaluation.retrieval import RetrievalResult


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
            f"note: {result.num_unlisted} keyframes are not named in the table; they count as places seen once"
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


def _print_counts(what: str, counts: Mapping[str, int]) -> None:
    listed = ", ".join(f"{status} {count}" for status, count in sorted(counts.items(), key=lambda item: -item[1]))
    console().print(f"{what}: {listed or 'none'}")
