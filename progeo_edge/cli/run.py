"""progeo-run: a recording in, verified loop closures and a report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from progeo_edge.cli.console import console, new_app, progress, run_app

if TYPE_CHECKING:
    from progeo_edge.map_store import MapStore
    from progeo_edge.runner import Observer, RunSummary

HELP = """
Find the places a recording comes back to.

SOURCE is a folder of images, a video, a CSV list of images with times, a TUM RGB-D, EuRoC or KITTI odometry folder,
or a ROS 1 or ROS 2 bag. What it is, is found out by looking; `--kind` says it instead.

**Examples**

    progeo-run drive.mp4 --out out                                  # no weights needed, closures without a pose
    progeo-run bag/ --out out --camera camera.yaml --rate 5         # with intrinsics: relative poses
    progeo-run monday.mp4 --out mon && progeo-run tuesday.mp4 --out tue --map mon/map.progeo

Look at `out/report.html`. When nothing closes, it says why, candidate by candidate.
"""

app = new_app(HELP)


@app.command(help=HELP)
def run(
    source: Annotated[Path, typer.Argument(help="folder, video, CSV list, data set or bag")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for map, closures and report")],
    encoder: Annotated[
        str,
        typer.Option(
            help="vlad (built in), a bundle folder, an .onnx file beside a .yaml, or a .safetensors checkpoint"
        ),
    ] = "vlad",
    backend: Annotated[
        Literal["auto", "tensorrt", "openvino", "onnx"],
        typer.Option(help="of a bundle; auto: TensorRT where its engine is built, else OpenVINO or ONNX Runtime"),
    ] = "auto",
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        typer.Option(help="of a bundle; by default fp16 with TensorRT where the bundle has it, else fp32"),
    ] = None,
    whitening: Annotated[
        Path | None, typer.Option(help="whitening of this encoder, from progeo-calibrate --whiten")
    ] = None,
    camera: Annotated[
        Path | None, typer.Option(help="camera YAML: ours, a ROS camera_info file, or that of a rig (docs/rigs.md)")
    ] = None,
    cameras: Annotated[
        str | None, typer.Option(help="folder, EuRoC: subfolders of a rig's cameras, as front,rear")
    ] = None,
    existing_map: Annotated[
        Path | None,
        typer.Option("--map", help="known map to recognise places of; it is copied into --out, never changed"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the interrupted run in --out")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace the results that are in --out")] = False,
    profile: Annotated[str | None, typer.Option(help="conservative (default), balanced or recall")] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="YAML with settings; see docs/config.md")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="one setting, as section.name=value")] = None,
    kind: Annotated[str, typer.Option(help="auto, folder, list, video, tum, euroc, kitti or bag")] = "auto",
    rate: Annotated[float | None, typer.Option(help="frames per second to look at; all without it")] = None,
    stamps: Annotated[Path | None, typer.Option(help="file with the times of an image folder")] = None,
    fps: Annotated[float | None, typer.Option(help="image folder without times: frames per second")] = None,
    poses: Annotated[Path | None, typer.Option(help="image folder: CSV with the odometry of its images")] = None,
    image_topic: Annotated[
        str | None, typer.Option(help="bag: topic of the images; of a rig front=TOPIC,rear=TOPIC")
    ] = None,
    odom_topic: Annotated[str | None, typer.Option(help="bag: topic of the odometry")] = None,
    depth_topic: Annotated[str | None, typer.Option(help="bag: topic of the depth images")] = None,
    right_topic: Annotated[str | None, typer.Option(help="bag: topic of the right images of a rectified pair")] = None,
    camera_info_topic: Annotated[str | None, typer.Option(help="bag: topic of the camera_info")] = None,
    viz: Annotated[str | None, typer.Option(help="rerun: watch live; FILE.rrd: record for later (extra viz)")] = None,
    report: Annotated[bool, typer.Option(help="write report.html")] = True,
) -> None:
    """Wire source, encoder, map and detector together; run; write the results; say what was found."""
    from progeo_edge.camera_file import load_cameras
    from progeo_edge.config import load_config
    from progeo_edge.detector import LoopDetector
    from progeo_edge.encoders import load_encoder
    from progeo_edge.run_folder import finish_run, open_run_folder
    from progeo_edge.runner import run as run_source
    from progeo_edge.sources import open_source

    # A recording has no hurry, and without a deadline the same input gives the same closures.
    config = load_config(
        config_file, profile=profile, overrides=settings or (), defaults={"budget": {"deadline_ms": 0.0}}
    )
    calibration = load_cameras(camera) if camera else None
    frames = open_source(
        source,
        kind=kind,
        rate_hz=rate,
        fps=fps,
        stamps=stamps,
        poses=poses,
        camera=calibration,
        cameras=cameras,
        image_topic=image_topic,
        odom_topic=odom_topic,
        depth_topic=depth_topic,
        right_topic=right_topic,
        camera_info_topic=camera_info_topic,
    )
    model = load_encoder(
        encoder,
        backend=backend,
        precision=precision,
        whitening=whitening,
        threads=config.encoder.threads,
        spin=config.encoder.spin,
    )
    with open_run_folder(out, model.spec, config, existing_map=existing_map, resume=resume, force=force) as map_store:
        detector = LoopDetector(model, map_store, frames.camera, config, session=frames.name, resume=resume)
        skip_until_ns = _last_stamp_ns(map_store) if resume else None
        with progress() as bar:
            task = bar.add_task("looking for loops", total=frames.num_frames)
            observers: list[Observer] = [lambda *_: bar.advance(task)]
            if viz is not None:
                observers.append(_live_view(viz, map_store))
            summary = run_source(frames, detector, out, observers=tuple(observers), skip_until_ns=skip_until_ns)
        detector.close()
        finish_run(out, map_store, with_report=report)
    model.close()
    print_summary(out, summary, report)


def print_summary(out: Path, summary: RunSummary, report: bool) -> None:
    """What was found, where it is, and what it cost."""
    from rich.markup import escape
    from rich.table import Table

    stdout = console()
    stdout.print(
        f"[bold]{summary.num_closures}[/bold] loop closures in {summary.num_keyframes} keyframes of "
        f"{summary.num_frames} frames from {escape(summary.source)}"
    )
    if summary.skipped:
        stdout.print(f"[yellow]{len(summary.skipped)} frames skipped[/yellow], the first: {_first(summary.skipped)}")
    reasons = {name: n for name, n in summary.statuses.items() if name not in ("ACCEPTED", "NOT_A_KEYFRAME")}
    if reasons:
        ranked = sorted(reasons.items(), key=lambda item: -item[1])
        stdout.print("no closure because: " + ", ".join(f"{name} {n}" for name, n in ranked))
    table = Table("stage", "p50 ms", "p90 ms", "p99 ms", "max ms")
    for stage, values in summary.stages_ms.items():
        table.add_row(stage, *(f"{values[key]:.2f}" for key in ("p50", "p90", "p99", "max")))
    if summary.stages_ms:
        stdout.print(table)
    if "resident_growth_per_keyframe_bytes" in summary.memory:
        stdout.print(
            f"memory: {summary.memory['resident_growth_per_keyframe_bytes'] / 1024:.1f} KiB resident and "
            f"{summary.memory.get('map_per_keyframe_bytes', 0.0) / 1024:.1f} KiB on disk per keyframe"
        )
    stdout.print(f"written to {escape(str(out))}/" + (": open report.html" if report else ""))


def _first(skipped: list[dict[str, str]]) -> str:
    from rich.markup import escape

    return escape(f"{skipped[0]['name']}: {skipped[0]['reason']}")


def _last_stamp_ns(map_store: MapStore) -> int | None:
    """Of the session that goes on; earlier sessions of the map have other clocks."""
    session = map_store.sessions()[-1].id
    stamps_ns = [info.stamp_ns for info in map_store.infos() if info.session == session]
    return stamps_ns[-1] if stamps_ns else None


def _live_view(target: str, map_store: MapStore) -> Observer:
    from progeo_edge.live_view import open_live_view

    return open_live_view(target, map_store)


def main() -> None:
    """Entry point of `progeo-run`."""
    run_app(app)
