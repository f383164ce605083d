"""What all commands share: how they print, how they fail, and how they show progress."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from progeo_edge.errors import ProgeoError

if TYPE_CHECKING:
    import typer
    from rich.console import Console
    from rich.progress import Progress

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def new_app(help: str) -> typer.Typer:
    """A typer app as every command uses it: Markdown help, plain tracebacks, no shell-completion options.

    Args:
        help: What the command does, with examples; Markdown.
    """
    import typer

    return typer.Typer(
        help=help,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def console() -> Console:
    """Rich console on stdout, for results."""
    from rich.console import Console

    return Console(highlight=False)


def error_console() -> Console:
    """Rich console on stderr, for progress, warnings and errors."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def run_app(app: typer.Typer) -> NoReturn:
    """Run a command and leave the process.

    Exit codes: 0 done; 2 for wrong arguments and for a `ProgeoError`, which becomes one red line "error: ..." on
    stderr; 130 when interrupted. Any other exception keeps its traceback.
    """
    try:
        app()
    except ProgeoError as error:
        print_error(str(error))
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(0)


def print_error(message: str) -> None:
    """One red line "error: message" on stderr; line breaks become spaces and nothing in it is read as markup."""
    from rich.text import Text

    error_console().print(Text(f"error: {' '.join(message.split())}", style="red"), soft_wrap=True)


def progress(unit: str = "frames") -> Progress:
    """Progress bar on stderr with done/total, rate and time left; silent when stderr is no terminal.

    Use as `with progress() as bar: task = bar.add_task("reading", total=n); bar.advance(task)`. A total of None
    shows a moving bar without the time left.

    Args:
        unit: What is counted, for the rate ("frames/s").
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            rate = task.finished_speed or task.speed
            return Text("" if rate is None else f"{rate:.1f} {unit}/s")

    stderr = error_console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
    )
