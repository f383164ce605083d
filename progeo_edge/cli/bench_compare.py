"""`progeo-bench compare`: what changed beyond the noise?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from progeo_edge.cli.console import console

COMPARE_HELP = """
Two results of one kind, series by series: faster, slower, or within the noise.

The rounds of a result do the same work, so the spread between them is the noise. A series has changed when the exact
rank test (Mann-Whitney, two-sided) over the rounds gives p of at most 0.01, and the medians differ by more than twice
the combined standard deviation of the rounds and by more than 3 %. It warns where machines, versions, options or
sources differ, and where one of the machines was busy or throttled.

**Examples**

    progeo-bench vlad --json before.json                            # change something, then again:
    progeo-bench vlad --json after.json
    progeo-bench compare before.json after.json
    progeo-bench compare before.json after.json --fail-above 10%    # for CI: exit code 1 when something got slower

**Exit code**: 0; 1 with `--fail-above` when a series got worse beyond the noise and by more than that; 2 for files that
cannot be compared.
"""

_EXIT_WORSE = 1


def compare(
    before: Annotated[Path, typer.Argument(help="JSON file of progeo-bench")],
    after: Annotated[Path, typer.Argument(help="another one, of the same kind")],
    fail_above: Annotated[
        str | None, typer.Option(help="exit with 1 when a series got worse by more than this, as 10%")
    ] = None,
) -> None:
    """Compare, print, and leave with the verdict."""
    from rich.text import Text

    from progeo_edge.benchmark.comparison import compare_results, worse_than
    from progeo_edge.benchmark.result_file import read_result
    from progeo_edge.cli.bench_tables import print_comparison

    limit = None if fail_above is None else _parse_percent(fail_above)
    comparison = compare_results(read_result(before), read_result(after))
    out = console()
    print_comparison(comparison, out)
    if limit is None:
        return
    worse = worse_than(comparison, limit)
    if worse:
        out.print(Text(f"worse by more than {fail_above}: {', '.join(worse)}", style="red"), soft_wrap=True)
        raise typer.Exit(_EXIT_WORSE)


def _parse_percent(text: str) -> float:
    """The share that 10% or 10 stand for, 0.1.

    Raises:
        ConfigError: anything else, or a negative number.
    """
    from progeo_edge.errors import ConfigError

    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%?\s*", text, re.ASCII)
    if match is None:
        raise ConfigError(f"--fail-above {text!r} is not understood; expected a percentage such as 10% or 2.5")
    return float(match[1]) / 100
