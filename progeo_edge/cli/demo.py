"""progeo-demo: see the whole thing work, without data and without weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from progeo_edge.cli.console import console, new_app, progress, run_app

if TYPE_CHECKING:
    from progeo_edge.demo import DemoResult

SHORT_FRAMES = 120

HELP = """
Drive a robot through a small rendered street world, find its loops, and compare them with the truth.

The world has two laps under different light, a pass in the opposite direction, and facades that look alike in different
places; the odometry drifts. Nothing is downloaded. At the end, open `OUT/report.html`.

**Examples**

    progeo-demo --out demo
    progeo-demo --out demo2 --seed 7       # another world
"""

app = new_app(HELP)


@app.command(help=HELP)
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for map, closures and report")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="which world")] = 0,
    short: Annotated[bool, typer.Option("--short", help=f"only the first {SHORT_FRAMES} frames: a smoke test")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace the results that are in --out")] = False,
) -> None:
    """Render, run, judge, print."""
    from progeo_edge.cli.run import print_summary
    from progeo_edge.demo import demo_source, run_demo

    source = demo_source(seed, SHORT_FRAMES if short else None)
    with progress() as bar:
        task = bar.add_task("driving and looking for loops", total=source.num_frames)
        summary, result = run_demo(source, out, force=force, observers=(lambda *_: bar.advance(task),))
    print_summary(out, summary, report=True)
    _print_result(result)


def _print_result(result: DemoResult) -> None:
    stdout = console()
    stdout.print(
        f"against the truth: precision [bold]{100 * result.precision:.1f} %[/bold] ({result.num_false} false of "
        f"{result.num_closures}), {result.num_recognised} of {result.num_revisits} revisiting keyframes recognised"
    )
    if result.num_closures:
        stdout.print(
            f"relative poses: median error {100 * result.translation_error_m:.1f} cm, "
            f"{result.rotation_error_deg:.2f} deg"
        )
    if result.optimised_rmse_m is None:
        stdout.print(f"trajectory error: {result.odometry_rmse_m:.2f} m (no closure, or no solver: extra 'graph')")
    else:
        stdout.print(
            f"trajectory error: [bold]{result.odometry_rmse_m:.2f} m[/bold] by odometry, "
            f"[bold]{result.optimised_rmse_m:.2f} m[/bold] with loop closures"
        )


def main() -> None:
    """Entry point of `progeo-demo`."""
    run_app(app)
