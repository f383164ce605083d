"""`progeo-eval profiles`: the shipped profiles, and a sweep of one setting, over one source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from progeo_edge.cli.console import progress
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
    open_encoder,
    read_truth,
    write_json,
)
from progeo_edge.cli.eval_tables import print_profiles

if TYPE_CHECKING:
    from progeo_edge.profiles import Variant
    from progeo_edge.runner import Observer
    from progeo_edge.sources.base import Source

PROFILES_HELP = """Run the shipped profiles over one source, judge each, and show which are worth having.

One table and one plot: recall against false closures per hour, and the Pareto front, which no other setting beats in
both. `--sweep` adds one setting at several values, on top of the first profile. Each run is kept below --out, with its
report.

Examples:

- `progeo-eval profiles drive.mp4 --camera camera.yaml --truth rtk.tum --out compared --html compared.html`

- `progeo-eval profiles keyframes.csv --matches matches.csv --out compared --plot pareto.png`

- `progeo-eval profiles drive.mp4 --truth rtk.tum --out compared --profile conservative
  --sweep verification.min_inliers=15,20,30,45,60`
"""


def profiles(
    source: Annotated[Path, typer.Argument(help="folder, video, CSV list, data set or bag", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder; one run below it per setting", show_default=False)],
    matches: MatchesOption = None,
    truth: TruthOption = None,
    radius_m: RadiusOption = 10.0,
    max_angle_deg: AngleOption = 60.0,
    neutral_m: NeutralOption = 20.0,
    profile: Annotated[list[str] | None, typer.Option(help="only this profile; may be given several times")] = None,
    sweep: Annotated[str | None, typer.Option(help="one setting at several values: section.name=a,b,c")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="a setting of all runs, as section.name=value")
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="vlad, thumbnail, orb-bow, a bundle, or a .safetensors checkpoint")
    ] = "vlad",
    camera: Annotated[Path | None, typer.Option(help="camera YAML: ours, or a ROS camera_info file")] = None,
    kind: Annotated[str, typer.Option(help="auto, folder, list, video, tum, euroc, kitti or bag")] = "auto",
    rate: Annotated[float | None, typer.Option(help="frames per second to look at; all without it")] = None,
    stamps: Annotated[Path | None, typer.Option(help="file with the times of an image folder")] = None,
    fps: Annotated[float | None, typer.Option(help="image folder without times: frames per second")] = None,
    poses: Annotated[Path | None, typer.Option(help="image folder: CSV with the odometry of its images")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace earlier results in --out")] = False,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
    plot: PlotOption = None,
    html: HtmlOption = None,
) -> None:
    """Compare profiles; see `PROFILES_HELP`."""
    from progeo_edge.camera_file import load_camera
    from progeo_edge.cli.eval_pages import profiles_page
    from progeo_edge.config import PROFILES
    from progeo_edge.evaluation.plots import check_plot_path, save_plot
    from progeo_edge.profiles import compare, draw_variants, variants
    from progeo_edge.sources import open_source

    if plot is not None:
        check_plot_path(plot)
    check_html_path(html)
    known = read_truth(matches, truth, radius_m, max_angle_deg, neutral_m)
    chosen = variants(profile or tuple(PROFILES), sweep, settings or ())
    calibration = load_camera(camera) if camera else None

    def opened() -> Source:
        return open_source(source, kind=kind, rate_hz=rate, fps=fps, stamps=stamps, poses=poses, camera=calibration)

    num_frames = opened().num_frames
    model = open_encoder(encoder, cpu=chosen[0].config.encoder)
    try:
        with progress() as bar:

            def observers(variant: Variant) -> tuple[Observer, ...]:
                task = bar.add_task(variant.name, total=num_frames)
                return (lambda *_: bar.advance(task),)

            judged = compare(opened, model, known, chosen, out, force=force, observers=observers, seed=seed)
    finally:
        model.close()
    record = {"source": str(source), "truth": str(known.path), "variants": [one.to_dict() for one in judged]}
    write_json(record, json_file)
    if json_file != Path("-"):
        print_profiles(judged)
    if plot is not None:
        save_plot(lambda axes: draw_variants(axes, judged), plot)
    if html is not None:
        profiles_page(html, f"{source} against {known.path.name}", judged)
