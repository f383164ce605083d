"""How `progeo-bench` prints results and comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from progeo_edge.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from progeo_edge.benchmark.comparison import Change, Comparison
    from progeo_edge.benchmark.result_file import BenchmarkResult

_STYLES = {"less": "green", "more": "red", "within noise": "dim", "too few rounds": "yellow"}


def check_writable(path: Path | None) -> None:
    """Refuse before minutes of measuring what could not be written after them.

    Raises:
        InputError: the folder does not exist, or the path is a folder.
    """
    if path is None or path == Path("-"):
        return
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"{path} would lie in a folder that does not exist; make {path.parent} first")


def print_result(result: BenchmarkResult, out: Console) -> None:
    """Headline, one table, the index, and what is absent."""
    from rich.text import Text

    from progeo_edge.benchmark.rows import HEADINGS, absent_lines, cells, groups, headline, index_lines, memory_lines

    for line in headline(result):
        out.print(Text(line), soft_wrap=True)
    table = _table()
    table.add_column("", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for title, members in groups(result):
        table.add_section()
        table.add_row(Text(title, style="bold"))
        for name, values in members:
            style = "bold" if name == "total" else ""
            table.add_row(Text(f"  {name}", style=style), *cells(values))
    out.print(table)
    for line in (*index_lines(result), *memory_lines(result)):
        out.print(Text(line), soft_wrap=True)
    for line in absent_lines(result):
        out.print(Text(f"not measured: {line}", style="dim"), soft_wrap=True)


def _table() -> Table:
    """Narrow enough for a terminal of 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def write_markdown(result: BenchmarkResult, path: Path) -> None:
    """Write the block for an issue; "-" prints it.

    Raises:
        InputError: the file cannot be written.
    """
    from progeo_edge.benchmark.markdown import markdown

    write_block(markdown(result), path)


def write_block(text: str, path: Path) -> None:
    """Write a Markdown block; "-" prints it.

    Raises:
        InputError: the file cannot be written.
    """
    from progeo_edge import atomic

    if path == Path("-"):
        print(text, end="")
        return
    try:
        atomic.write_text(path, text)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}; choose another --markdown") from error


def print_comparison(comparison: Comparison, out: Console) -> None:
    """One row per series, and what makes the two results hard to compare."""
    from rich.text import Text

    from progeo_edge.benchmark.comparison import MIN_CHANGE, SIGNIFICANCE
    from progeo_edge.benchmark.rows import GROUPS, number

    table = _table()
    table.add_column("", no_wrap=True)
    for heading in ("before", "after", "change", "noise"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    group = ""
    for change in comparison.changes:
        prefix, _, name = change.name.partition(".")
        if prefix != group:
            group = prefix
            table.add_section()
            table.add_row(Text(GROUPS.get(prefix, f"{prefix}, {change.unit}"), style="bold"))
        table.add_row(
            Text(f"  {name}"),
            number(change.before),
            number(change.after),
            "" if change.ratio is None else f"{100 * (change.ratio - 1):+,.1f} %",
            f"±{100 * change.noise:.1f} %",
            Text(verdict_in_words(change), style=_STYLES[change.verdict.value]),
        )
    out.print(table)
    out.print(
        f"changed: by more than the noise and {100 * MIN_CHANGE:.0f} %, and p at most {SIGNIFICANCE} in the rank test "
        "over the rounds",
        soft_wrap=True,
    )
    for which, names in (("first", comparison.only_before), ("second", comparison.only_after)):
        if names:
            out.print(Text(f"only in the {which} result: {', '.join(names)}", style="dim"), soft_wrap=True)
    for warning in comparison.warnings:
        out.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)


def verdict_in_words(change: Change) -> str:
    """Times are faster or slower, everything else is less or more."""
    if change.unit != "ms":
        return change.verdict.value
    return {"less": "faster", "more": "slower"}.get(change.verdict.value, change.verdict.value)
