"""`progeo-bench run`: the pipeline and its parts on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from progeo_edge.cli.console import console, error_console, progress

if TYPE_CHECKING:
    from progeo_edge.benchmark.footage import Footage
    from progeo_edge.benchmark.result_file import BenchmarkResult
    from progeo_edge.benchmark.steps import Steps
    from progeo_edge.config import Config

RUN_HELP = """
The pipeline and its parts: p50, p90, p99, maximum and jitter of every stage, without the warm-up.

BUNDLE is what `progeo-run --encoder` takes: `vlad`, a bundle folder, an .onnx file beside its .yaml. Every other frame
fills a map, those between are driven through the whole pipeline as a second lap, in several rounds over the same
frames. Then every part is measured alone, search in maps of several sizes, and the start of a fresh process.

**Examples**

    progeo-bench vlad                                             # no model and no data: a rendered street
    progeo-bench my-bundle --source drive.mp4 --camera camera.yaml --json today.json
    progeo-bench my-bundle --precision int8 --sizes 1k,10k,100k,1M --plot bench.svg
    progeo-bench my-bundle --source drive.mp4 --map site.progeo   # on the map of the site
    progeo-bench vlad --quick --markdown -                        # half a minute, to paste into an issue

**Before you trust a figure**: let nothing else run, plug in the supply, let the machine get warm, and on a Jetson
`sudo nvpmodel -m 0 && sudo jetson_clocks`. The result says clocks, power mode, temperature and load. `taskset -c 0,1
progeo-bench ...` shows what two cores can do.
"""

QUICK = {"frames": 20, "rounds": 3, "warmup": 3, "cold_starts": 2}


def run(
    bundle: Annotated[str, typer.Argument(help="vlad, a bundle folder, or an .onnx file beside its .yaml")],
    source: Annotated[
        Path | None, typer.Option(help="recording, as progeo-run takes it; a rendered street without one")
    ] = None,
    existing_map: Annotated[
        Path | None, typer.Option("--map", help="map to recognise places of; without it the source fills one")
    ] = None,
    sizes: Annotated[str, typer.Option(help="keyframes of the maps that are searched; none with ''")] = "1k,10k,100k",
    frames: Annotated[int, typer.Option(min=10, help="keyframes that are driven in each round")] = 60,
    warmup: Annotated[int, typer.Option(min=0, help="keyframes before them that do not count")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="how often; compare needs 5")] = 5,
    cold_starts: Annotated[int, typer.Option(min=0, help="fresh processes that are started; 0 for none")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="few frames and rounds: to look, not to compare")] = False,
    camera: Annotated[Path | None, typer.Option(help="camera YAML, as for progeo-run")] = None,
    backend: Annotated[
        Literal["auto", "tensorrt", "openvino", "onnx"], typer.Option(help="of a bundle, as for progeo-run")
    ] = "auto",
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None, typer.Option(help="of a bundle, as for progeo-run")
    ] = None,
    kind: Annotated[str, typer.Option(help="of the source, as for progeo-run")] = "auto",
    rate: Annotated[float | None, typer.Option(help="frames per second of the source to look at")] = None,
    poses: Annotated[Path | None, typer.Option(help="image folder: CSV with the odometry of its images")] = None,
    profile: Annotated[str | None, typer.Option(help="conservative (default), balanced or recall")] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="YAML with settings; see docs/config.md")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="one setting, as section.name=value")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write everything, for compare and scripts")] = None,
    plot: Annotated[Path | None, typer.Option(help="write a picture: .svg, .png or .pdf")] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="write a block for an issue; - prints it in place of the tables")
    ] = None,
) -> None:
    """Measure, print, write."""
    from progeo_edge.benchmark.machine import describe_machine
    from progeo_edge.benchmark.pipeline import DEFAULTS
    from progeo_edge.benchmark.plot import check_plot_path, write_plot
    from progeo_edge.benchmark.result_file import new_result, write_result
    from progeo_edge.benchmark.run import Plan, run_benchmark
    from progeo_edge.benchmark.search import parse_sizes
    from progeo_edge.cli.bench_tables import check_writable, print_result, write_markdown
    from progeo_edge.config import load_config

    for path in (json_file, markdown_file):
        check_writable(path)
    if plot is not None:
        check_plot_path(plot)
    if quick:
        frames, rounds, warmup, cold_starts = (QUICK[name] for name in ("frames", "rounds", "warmup", "cold_starts"))
    config = load_config(config_file, profile=profile, overrides=settings or (), defaults=DEFAULTS)
    plan = Plan(bundle, backend, precision, existing_map, parse_sizes(sizes), rounds, warmup, cold_starts)
    machine = describe_machine()
    with progress("steps") as bar:
        steps = _steps(bar.add_task, bar.advance)
        figures = run_benchmark(
            plan,
            config,
            lambda: _footage(source, kind, rate, poses, camera, frames + warmup, warmup, existing_map, steps),
            steps,
        )
    result = new_result(
        "run",
        {
            "bundle": Path(bundle).name,
            "source": None if source is None else source.name,
            "map": None if existing_map is None else existing_map.name,
            "camera": None if camera is None else camera.name,
            "backend": backend,
            "precision": precision,
            "sizes": list(plan.sizes),
            "frames": frames,
            "warmup": warmup,
            "rounds": rounds,
            "cold_starts": cold_starts,
            "rate_hz": rate,
            "profile": config.profile,
            "settings": _settings_unlike_defaults(config),
        },
        machine,
        figures,
    )
    if json_file is not None:
        write_result(json_file, result)
    if plot is not None:
        write_plot(result, plot)
    if markdown_file is not None:
        write_markdown(result, markdown_file)
    if markdown_file != Path("-"):
        print_result(result, console())
    _warn(result)


def _footage(
    source: Path | None,
    kind: str,
    rate: float | None,
    poses: Path | None,
    camera: Path | None,
    num_queries: int,
    warmup: int,
    existing_map: Path | None,
    steps: Steps,
) -> Footage:
    from progeo_edge.benchmark.footage import of_recording, of_rendered_street
    from progeo_edge.camera_file import load_cameras
    from progeo_edge.errors import ConfigError
    from progeo_edge.sources import open_source

    has_map = existing_map is not None
    if source is None:
        if camera is not None or poses is not None or rate is not None:
            raise ConfigError("--camera, --poses and --rate belong to a recording; name it with --source")
        return of_rendered_street(num_queries, has_map=has_map, steps=steps)
    calibration = load_cameras(camera) if camera is not None else None
    recording = open_source(source, kind=kind, rate_hz=rate, poses=poses, camera=calibration)
    return of_recording(recording, num_queries, has_map=has_map, warmup=warmup)


def _steps(add_task: Callable[..., object], advance: Callable[..., None]) -> Steps:
    def begin(name: str, total: int) -> Callable[[], None]:
        task = add_task(name, total=total)
        return lambda: advance(task)

    return begin


def _settings_unlike_defaults(config: Config) -> dict[str, object]:
    """Dotted names of what differs from the defaults of the library: enough to set it up again."""
    from progeo_edge.config import Config

    standard = Config().model_dump()
    return {
        f"{section}.{name}": value
        for section, values in config.model_dump().items()
        if isinstance(values, dict)
        for name, value in values.items()
        if value != standard[section][name]
    }


def _warn(result: BenchmarkResult) -> None:
    from rich.text import Text

    from progeo_edge.benchmark.comparison import disturbances

    for problem in disturbances(result):
        error_console().print(Text(f"warning: this run {problem}", style="yellow"), soft_wrap=True)
