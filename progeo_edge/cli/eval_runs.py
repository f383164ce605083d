"""`progeo-eval loops` and `progeo-eval trajectory`: what a run reached."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from progeo_edge.cli.eval_options import (
    AngleOption,
    HtmlOption,
    JsonOption,
    MatchesOption,
    NeutralOption,
    PlotOption,
    RadiusOption,
    SeedOption,
    TruthOption,
    check_html_path,
    read_truth,
    write_json,
)
from progeo_edge.cli.eval_tables import print_loops, print_trajectory

LOOPS_HELP = """Judge the closures of a run (the --out folder of progeo-run) against labelled pairs or true poses.

Prints what the run accepted (precision, recall, false closures by name, revisit events closed), false accepts per hour
against what was promised, whether the probabilities mean what they say, and what each score could reach at other
thresholds (average precision, max F1, R@100P, R@95P). Intervals are exact for counts, else by block bootstrap.

Examples:

- `progeo-eval loops out --matches matches.csv`

- `progeo-eval loops out --truth rtk.tum --radius-m 5 --html judged.html`

- `progeo-eval loops out --matches matches.csv --exclude-within-s 30 --json judged.json --plot curves.png`
"""

TRAJECTORY_HELP = """Trajectory error of a run against true poses, without and with its closures.

Absolute (ATE) after rigid alignment, and relative (RPE) per keyframe and over a distance, as evo computes them.
Closures that contradict the rest are named. Optimisation needs the extra `graph`.

Examples:

- `progeo-eval trajectory out --truth groundtruth.tum`

- `progeo-eval trajectory out --truth groundtruth.tum --html trajectory.html --tum tum`, then
  `evo_ape tum tum/truth.tum tum/closures.tum --align`
"""


def loops(
    run: Annotated[Path, typer.Argument(help="folder that progeo-run wrote", metavar="DIR", show_default=False)],
    matches: MatchesOption = None,
    truth: TruthOption = None,
    radius_m: RadiusOption = 10.0,
    max_angle_deg: AngleOption = 60.0,
    neutral_m: NeutralOption = 20.0,
    exclude_within_s: Annotated[
        float | None, typer.Option(min=0, help="positives closer in time need not be found; default: the run's own")
    ] = None,
    promise: Annotated[
        float | None, typer.Option(min=0, help="false accepts per hour before geometry; default: the run's own")
    ] = None,
    block_length: Annotated[
        int | None, typer.Option(min=1, help="keyframes resampled together; default: square root of their number")
    ] = None,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
    plot: PlotOption = None,
    html: HtmlOption = None,
) -> None:
    """Precision and recall of a run; see `LOOPS_HELP`."""
    from progeo_edge.cli.eval_pages import loops_page
    from progeo_edge.evaluation.loops import judge_loops
    from progeo_edge.evaluation.plots import check_plot_path, plot_curves
    from progeo_edge.evaluation.recorded_run import read_run

    if plot is not None:
        check_plot_path(plot)
    check_html_path(html)
    known = read_truth(matches, truth, radius_m, max_angle_deg, neutral_m)
    result = judge_loops(
        read_run(run),
        known,
        exclusion_s=exclude_within_s,
        promised_per_hour=promise,
        block_length=block_length,
        seed=seed,
    )
    write_json({"run": str(run), "truth": str(known.path)} | result.to_dict(), json_file)
    if json_file != Path("-"):
        print_loops(result)
    if plot is not None:
        plot_curves(result, plot)
    if html is not None:
        loops_page(html, f"{run} against {known.path.name}", result)


def trajectory(
    run: Annotated[Path, typer.Argument(help="folder that progeo-run wrote", metavar="DIR", show_default=False)],
    truth: Annotated[Path, typer.Option(help="true poses: TUM file, or CSV by image or time_s", show_default=False)],
    rpe_m: Annotated[float, typer.Option(help="distance of the relative pose error")] = 10.0,
    tum: Annotated[Path | None, typer.Option(help="folder for the trajectories as TUM files, for evo")] = None,
    json_file: JsonOption = None,
    plot: PlotOption = None,
    html: HtmlOption = None,
) -> None:
    """Trajectory error of a run; see `TRAJECTORY_HELP`."""
    from progeo_edge.cli.eval_pages import trajectory_page
    from progeo_edge.evaluation.plots import check_plot_path, draw_trajectory, save_plot
    from progeo_edge.evaluation.trajectory import judge_trajectory, write_trajectories
    from progeo_edge.evaluation.true_poses import read_true_poses

    if plot is not None:
        check_plot_path(plot)
    check_html_path(html)
    result = judge_trajectory(run, read_true_poses(truth), rpe_m)
    written = [] if tum is None else write_trajectories(result, tum)
    write_json({"run": str(run), "truth": str(truth)} | result.to_dict(), json_file)
    if json_file != Path("-"):
        print_trajectory(result, written)
    if plot is not None:
        save_plot(lambda axes: draw_trajectory(axes, result), plot)
    if html is not None:
        trajectory_page(html, f"{run} against {truth.name}", result)
