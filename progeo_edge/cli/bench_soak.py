"""`progeo-bench soak`: hours of a simulated robot, in as little time as the detector needs for its frames."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from progeo_edge.cli.console import console, error_console, progress

if TYPE_CHECKING:
    from progeo_edge.benchmark.soak.run import Plan, Soaked
    from progeo_edge.geometry import Cameras
    from progeo_edge.types import Frame

SOAK_HELP = """
Drive for hours, and see whether anything grows, slows down or gets lost.

The frames of a recording are driven along there and back, at the rate of a camera, with pauses, drops and bursts. They
go through the whole detector into a map of their own, behind a queue of one as the ROS node has it: the newest frame
wins. The clock jumps from frame to frame, so that 24 hours take as long as the detector works; `--real-time` waits as a
robot would. Ctrl-C ends it with what there is. docs/soak.md says what each figure means.

**Examples**

    progeo-bench soak my-bundle --hours-equivalent 24 --speed-up 50 --source drive.mp4 --json soak.json --plot soak.png
    progeo-bench soak vlad --hours-equivalent 0.5 --max-minutes 5
"""


def soak(
    encoder: Annotated[str, typer.Argument(help="bundle, .onnx beside a .yaml, or vlad", metavar="BUNDLE")] = "vlad",
    hours_equivalent: Annotated[float, typer.Option(min=0, help="of driving, on the robot's clock")] = 24.0,
    source: Annotated[Path | None, typer.Option(help="recording to loop; a rendered street without it")] = None,
    num_frames: Annotated[int, typer.Option("--frames", min=2, help="of it that are kept in memory and looped")] = 100,
    rate_hz: Annotated[float, typer.Option(min=0.1, help="frames per second of the camera")] = 10.0,
    speed_up: Annotated[
        float, typer.Option(min=1, help="how many times as fast the robot's clock runs as its camera")
    ] = 1.0,
    real_time: Annotated[bool, typer.Option("--real-time", help="wait for each frame, as on a robot")] = False,
    max_minutes: Annotated[float | None, typer.Option(help="end after this time with what there is")] = None,
    seed: Annotated[int, typer.Option(help="of pauses, drops and bursts")] = 0,
    drop: Annotated[float, typer.Option(min=0, max=1, help="probability that a frame never arrives")] = 0.01,
    pauses_per_hour: Annotated[float, typer.Option(min=0, help="of the camera, counted on the camera's clock")] = 20.0,
    bursts_per_hour: Annotated[float, typer.Option(min=0, help="frames that arrive together, likewise")] = 60.0,
    camera: Annotated[Path | None, typer.Option(help="camera YAML; see progeo-run")] = None,
    backend: Annotated[
        Literal["auto", "tensorrt", "openvino", "onnx"], typer.Option(help="of a bundle; see progeo-run")
    ] = "auto",
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None, typer.Option(help="of a bundle; see progeo-run")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="one setting, as section.name=value")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the result to this file")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="draw it: .png, .svg or .pdf")] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="write a table for an issue; - prints it")
    ] = None,
) -> None:
    """Wire frames, detector and map together; drive; show and keep the result."""
    from progeo_edge.benchmark.machine import describe_machine
    from progeo_edge.benchmark.plot import check_plot_path
    from progeo_edge.benchmark.result_file import new_result, write_result
    from progeo_edge.benchmark.soak.figures import figures_of
    from progeo_edge.benchmark.soak.run import Plan
    from progeo_edge.benchmark.soak.schedule import Disturbances
    from progeo_edge.benchmark.soak.show import markdown, save_plot, table_of
    from progeo_edge.cli.bench_tables import check_writable, write_block
    from progeo_edge.config import load_config
    from progeo_edge.detector import LoopDetector
    from progeo_edge.encoders import load_encoder
    from progeo_edge.map_store import MapStore

    check_writable(json_file)
    check_writable(markdown_file)
    if plot_file is not None:
        check_plot_path(plot_file)
    machine = describe_machine()
    disturbances = Disturbances(drop, pauses_per_hour, bursts_per_hour=bursts_per_hour)
    plan = Plan(hours_equivalent, rate_hz, speed_up, real_time, seed, disturbances)
    config = load_config(overrides=settings or ())
    model = load_encoder(
        encoder, backend=backend, precision=precision, threads=config.encoder.threads, spin=config.encoder.spin
    )
    frames, cameras, origin = _frames(source, camera, num_frames, rate_hz)
    with (
        TemporaryDirectory(prefix="progeo-soak-") as folder,
        MapStore.create(Path(folder) / "soak.progeo", model.spec) as map_store,
    ):
        detector = LoopDetector(model, map_store, cameras, config, session="soak")
        soaked = _drive(frames, detector, plan, max_minutes)
        detector.close()
    model.close()
    figures = figures_of(soaked, model.spec.dimension)
    options = {
        "model": Path(encoder).name,
        "source": origin,
        "frames": len(frames),
        "hours_equivalent": hours_equivalent,
        "rate_hz": rate_hz,
        "speed_up": speed_up,
        "real_time": real_time,
        "seed": seed,
        "drop_probability": drop,
        "pauses_per_hour": pauses_per_hour,
        "bursts_per_hour": bursts_per_hour,
        "settings": ", ".join(settings) if settings else None,
    }
    result = new_result("soak", options, machine, figures)
    console().print(table_of(figures))
    if json_file is not None:
        write_result(json_file, result)
    if markdown_file is not None:
        write_block(markdown(result), markdown_file)
    if plot_file is not None:
        save_plot(figures, plot_file)


def _frames(
    source: Path | None, camera: Path | None, count: int, rate_hz: float
) -> tuple[list[Frame], Cameras | None, str]:
    """The first frames of the source, its camera, and what it is."""
    from itertools import islice

    from progeo_edge.camera_file import load_cameras
    from progeo_edge.errors import SourceError
    from progeo_edge.sources import open_source
    from progeo_edge.world import StreetWorld, WorldSource, forward_camera, simulate_drive

    if source is None:
        world = StreetWorld(0)
        drive = simulate_drive(world, 0, frame_rate_hz=rate_hz, max_frames=count)
        rendered = WorldSource(world, drive, forward_camera(), depth=True)
        with progress() as bar:
            return list(bar.track(rendered, total=count, description="rendering")), rendered.camera, "rendered street"
    opened = open_source(source, camera=load_cameras(camera) if camera else None)
    frames = list(islice(opened, count))
    if not frames:
        raise SourceError(f"source {source} gave no frame; name one with images")
    return frames, opened.camera, source.name


def _drive(frames: list[Frame], detector: Any, plan: Plan, max_minutes: float | None) -> Soaked:  # noqa: ANN401
    from progeo_edge.benchmark.soak.run import soak as drive

    ends_s = None if max_minutes is None else time.monotonic() + 60.0 * max_minutes
    with progress() as bar, _interrupted() as interrupted:
        task = bar.add_task("driving", total=plan.num_frames)
        return drive(
            frames,
            detector,
            plan,
            stop=lambda: interrupted() or (ends_s is not None and time.monotonic() > ends_s),
            progress=lambda number: bar.update(task, completed=number + 1),
        )


@contextmanager
def _interrupted() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed: the frame at work is finished first. A second one ends the command at once."""
    pressed = False

    def handle(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)
        error_console().print("ending after this frame; once more to end at once")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
