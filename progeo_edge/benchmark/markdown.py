"""A result as a Markdown block to paste into an issue."""

from __future__ import annotations

from progeo_edge.benchmark.result_file import BenchmarkResult
from progeo_edge.benchmark.rows import HEADINGS, absent_lines, cells, groups, headline, index_lines, memory_lines


def markdown(result: BenchmarkResult) -> str:
    """The block; it holds names of files but no paths."""
    lines = [f"**progeo-bench {result.kind}**, progeo-edge {result.progeo_edge}, {result.date}", ""]
    lines += [f"- {_plain(line)}" for line in headline(result)]
    for title, members in groups(result):
        lines += ["", f"| {title} | {' | '.join(HEADINGS)} |", f"|---|{'---:|' * len(HEADINGS)}"]
        lines += [f"| {_plain(name)} | {' | '.join(cells(values))} |" for name, values in members]
    notes = {"Index": index_lines(result), "Memory": memory_lines(result), "Not measured": absent_lines(result)}
    for title, entries in notes.items():
        if entries:
            lines += ["", f"{title}:", "", *(f"- {_plain(entry)}" for entry in entries)]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Nothing in a name may end a cell."""
    return text.replace("|", "\\|").replace("\n", " ")
