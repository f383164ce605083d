"""progeo-bench: how many milliseconds, on this machine, at which percentile, for which stage?"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from progeo_edge.cli.bench_compare import COMPARE_HELP, compare
from progeo_edge.cli.bench_run import RUN_HELP, run
from progeo_edge.cli.bench_soak import SOAK_HELP, soak
from progeo_edge.cli.bench_vs import VS_HELP, vs
from progeo_edge.cli.console import new_app, run_app

HELP = """
Measure what this machine needs from a camera image to a verified loop closure.

`progeo-bench BUNDLE` is short for `progeo-bench run BUNDLE`, and `progeo-bench BUNDLE --vs` for
`progeo-bench vs BUNDLE`. Each command has a `--help` of its own. docs/benchmark.md says what each figure means.

**Examples**

    progeo-bench vlad                                  # no model, no data: a rendered street
    progeo-bench my-bundle --source drive.mp4 --json today.json --plot today.svg
    progeo-bench compare yesterday.json today.json     # what changed beyond the noise
    progeo-bench my-bundle --vs --quick                # the same work through what else there is
    progeo-bench soak my-bundle --speed-up 50          # a robot that drives for 24 hours
"""

COMMANDS = ("run", "vs", "compare", "soak")

app = new_app(HELP)
app.command(help=RUN_HELP)(run)
app.command(help=VS_HELP)(vs)
app.command(help=COMPARE_HELP)(compare)
app.command(help=SOAK_HELP)(soak)


@app.callback(help=HELP)
def bench() -> None:
    """Only the commands do something."""


def with_command(arguments: Sequence[str]) -> list[str]:
    """What the user typed, with the command that is meant in front.

    `--vs` anywhere means the command `vs`; a first word that is no command is the encoder of `run`. A bundle in a
    folder of a command's name is written as ./compare.
    """
    if "--vs" in arguments:
        return ["vs", *(argument for argument in arguments if argument not in ("--vs", "vs"))]
    if not arguments or arguments[0] in (*COMMANDS, "-h", "--help"):
        return list(arguments)
    return ["run", *arguments]


def main() -> None:
    """Entry point of `progeo-bench`."""
    sys.argv[1:] = with_command(sys.argv[1:])
    run_app(app)


if __name__ == "__main__":
    main()
