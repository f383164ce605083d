"""Comparisons for people: a table for the terminal, Markdown to paste into an issue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from progeo_edge.benchmark.result_file import BenchmarkResult
from progeo_edge.benchmark.rows import machine_lines
from progeo_edge.benchmark.statistics import Ratio
from progeo_edge.benchmark.versus.comparison import Comparison, Row

if TYPE_CHECKING:
    from rich.table import Table

_FACTS = {
    "index": {"build_s": "build s", "memory_mb": "MB"},
    "frame to candidates": {"resident_mb": "MB"},
}
"""Facts of the peers that belong into a table, and the head of their column, by group."""


def table_of(comparison: Comparison) -> Table:
    """One row per contender, the fastest first, narrow enough for 80 columns; Markdown has the smallest times, too."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    head, rows = _cells(comparison, full=False)
    title = Text(f"{comparison.group}: {comparison.case}")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
    for row, cells in zip(fastest_first(comparison), rows, strict=True):
        table.add_row(*(Text(cell) for cell in cells), style="bold" if row is comparison.ours else None)
    return table


def remarks(comparison: Comparison) -> list[str]:
    """What stands below a table: notes, and who is absent and why."""
    absent = [f"absent: {name}: {reason}" for name, reason in comparison.absent.items()]
    return [*comparison.notes, *absent]


def markdown(comparisons: Sequence[Comparison], result: BenchmarkResult) -> str:
    """Everything as Markdown, without paths."""
    lines = [f"**progeo-bench vs**, progeo-edge {result.progeo_edge}, {result.date}", ""]
    lines += [*(f"- {line}" for line in machine_lines(result.machine)), ""]
    lines += [
        "Times in milliseconds. *times ours*: how many times as long as the fastest of ours (in bold), the median over "
        "the rounds of one interleaved run, and its smallest and largest round.",
        "",
    ]
    for comparison in comparisons:
        head, rows = _cells(comparison, full=True)
        lines += [f"### {comparison.group}", "", f"{comparison.case}.", ""]
        lines += ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
        for row, cells in zip(fastest_first(comparison), rows, strict=True):
            shown = [f"**{cell}**" if row is comparison.ours and cell else cell for cell in cells]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in shown) + " |")
        lines += ["", *(f"- {remark}" for remark in remarks(comparison)), ""]
        runs = {row.name: row.facts["runs"] for row in comparison.rows if "runs" in row.facts}
        if runs:
            lines += ["- " + "; ".join(f"{name}: {what}" for name, what in runs.items()), ""]
    return "\n".join(lines)


def fastest_first(comparison: Comparison) -> list[Row]:
    """Rows by their median."""
    return sorted(comparison.rows, key=lambda row: row.time_ms.p50)


def _cells(comparison: Comparison, *, full: bool) -> tuple[list[str], list[list[str]]]:
    rows = fastest_first(comparison)
    agreements = list(dict.fromkeys(name for row in rows for name in row.agreement))
    shown = _FACTS["index"] if comparison.size is not None else _FACTS.get(comparison.group, {})
    times = ("p50", "min", "p90") if full else ("p50",)
    head = ["", *(f"{name} ms" for name in times), "times ours", *agreements, *shown.values()]
    cells = [
        [
            row.name,
            *(short(getattr(row.time_ms, name)) for name in times),
            "1" if row is comparison.ours else ratio_text(comparison.times_ours(row)),
            *(number(row.agreement.get(name)) for name in agreements),
            *("" if row.facts.get(name) is None else f"{row.facts[name]:.0f}" for name in shown),
        ]
        for row in rows
    ]
    return head, cells


def ratio_text(ratio: Ratio | None) -> str:
    """Median, smallest and largest round, as "5.9 (5.6 to 6.3)"."""
    return "" if ratio is None else f"{short(ratio.median)} ({short(ratio.low)} to {short(ratio.high)})"


def short(value: float) -> str:
    """Of a time or a ratio as many digits as mean something."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 4}f}"


def number(value: float | None) -> str:
    """Three digits that count, more where a share is nearly 1; empty for None."""
    if value is None:
        return ""
    if 0.99 < abs(value) < 1.0:
        return f"{value:.5f}".rstrip("0")
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    text = f"{value:.3g}"
    return f"{value:.5f}" if "e" in text else text
