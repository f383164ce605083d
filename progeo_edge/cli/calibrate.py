"""progeo-calibrate: which similarity is enough here? Learned without labels, told in false closures per hour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from progeo_edge.cli.console import console, new_app, progress, run_app

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from progeo_edge.bundle import ModelSpec
    from progeo_edge.calibration import Calibration
    from progeo_edge.config import Config, EncoderConfig

HELP = """
Learn which similarity is enough to believe that two images show one place, without labels.

SOURCE_OR_MAP is a map of `progeo-run`, in which the result is stored, or a recording as `progeo-run` takes it. Images
that odometry puts too far apart to be one place, or without odometry those where the robot cannot be since it is
elsewhere, say how similar different places get here; neighbours in time and verified closures say how similar one place
is. You state what you can judge: false closures per hour before geometry (`--rate`), not a cosine.

A run calibrates itself while it goes; this command does it beforehand, afterwards, or only to look.

**Examples**

    progeo-calibrate out/map.progeo                          # learn from a map and store it there
    progeo-calibrate drive.mp4 --picture histogram.svg       # from a recording, only to look
    progeo-calibrate out/map.progeo --rate 10 --json
    progeo-calibrate drive.mp4 --encoder BUNDLE --whiten site.whitening   # learn a whitening instead; docs/whitening.md
"""

app = new_app(HELP)


@app.command(help=HELP)
def calibrate(
    source_or_map: Annotated[Path, typer.Argument(help="map file, or folder, video, CSV list, data set, bag")],
    rate: Annotated[float | None, typer.Option(help="false closures per hour before geometry; by default 1")] = None,
    picture: Annotated[Path | None, typer.Option(help="write the histogram as SVG, one per camera")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    store: Annotated[bool, typer.Option(help="store the result in the map")] = True,
    whiten: Annotated[
        Path | None, typer.Option(help="learn a whitening from these frames into this file, and nothing else")
    ] = None,
    dimension: Annotated[
        int | None, typer.Option(help="of the whitening: axes to keep; by default half of them, at most 512")
    ] = None,
    encoder: Annotated[str, typer.Option(help="of a recording: as for progeo-run")] = "vlad",
    backend: Annotated[Literal["auto", "tensorrt", "openvino", "onnx"], typer.Option(help="of a bundle")] = "auto",
    camera: Annotated[Path | None, typer.Option(help="of a recording: camera YAML")] = None,
    poses: Annotated[Path | None, typer.Option(help="image folder: CSV with the odometry of its images")] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="YAML with settings; see docs/config.md")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="one setting, as section.name=value")] = None,
) -> None:
    """Calibrate from a map or a recording, and say what was learned."""
    from progeo_edge.config import load_config

    overrides = [*(settings or ()), *([] if rate is None else [f"calibration.max_false_per_hour={rate}"])]
    config = load_config(config_file, overrides=overrides, defaults={"budget": {"deadline_ms": 0.0}})
    if whiten is not None:
        _whiten(source_or_map, whiten, dimension, encoder=encoder, backend=backend, cpu=config.encoder)
        return
    if _is_map(source_or_map):
        found = _from_map(source_or_map, config, store=store)
    else:
        found = _from_recording(source_or_map, config, encoder=encoder, backend=backend, camera=camera, poses=poses)
    promised = config.calibration.max_false_per_hour
    if picture is not None:
        _draw(found, promised, picture)
    if as_json:
        print(json.dumps({name: _summary(calibration, promised) for name, calibration in found.items()}, indent=2))
    else:
        _print(found, promised)


def _is_map(path: Path) -> bool:
    """A SQLite file; everything else is a recording."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _from_map(path: Path, config: Config, *, store: bool) -> dict[str, Calibration]:
    from progeo_edge.map_replay import calibrate_map
    from progeo_edge.map_store import MapStore

    with MapStore.open(path, read_only=not store) as map_store, progress("keyframes") as bar:
        task = bar.add_task("looking at the map", total=len(map_store))
        return calibrate_map(map_store, config, lambda: bar.advance(task))


def _from_recording(
    path: Path,
    config: Config,
    *,
    encoder: str,
    backend: Literal["auto", "tensorrt", "openvino", "onnx"],
    camera: Path | None,
    poses: Path | None,
) -> dict[str, Calibration]:
    from progeo_edge.camera_file import load_camera
    from progeo_edge.detector import LoopDetector
    from progeo_edge.encoders import load_encoder
    from progeo_edge.map_store import MapStore
    from progeo_edge.sources import open_source

    frames = open_source(path, camera=load_camera(camera) if camera else None, poses=poses)
    model = load_encoder(encoder, backend=backend, threads=config.encoder.threads, spin=config.encoder.spin)
    with MapStore.create(None, model.spec) as map_store:
        detector = LoopDetector(model, map_store, frames.camera, config)
        with progress() as bar:
            task = bar.add_task("looking at the recording", total=frames.num_frames)
            for frame in frames:
                detector.process(frame)
                bar.advance(task)
        cameras = sorted({info.camera for info in map_store.infos()})
        found = {name: detector.calibrator.refit(name) for name in cameras}
    model.close()
    return found


def _whiten(
    path: Path,
    out: Path,
    dimension: int | None,
    *,
    encoder: str,
    backend: Literal["auto", "tensorrt", "openvino", "onnx"],
    cpu: EncoderConfig,
) -> None:
    """Learn a whitening from the descriptors of a map, or of all frames of a recording."""
    from rich.markup import escape

    from progeo_edge.encoders.whitening import fit_whitening, save_whitening
    from progeo_edge.map_store import MapStore

    if _is_map(path):
        with MapStore.open(path, read_only=True) as map_store:
            descriptors, spec = map_store.descriptors()[1], map_store.spec
    else:
        descriptors, spec = _describe(path, encoder, backend, cpu)
    whitening = fit_whitening(descriptors, spec, dimension=dimension)
    save_whitening(out, whitening)
    kept = whitening.header.dimension
    console().print(
        f"whitening of {spec.name} from {len(descriptors)} frames, {spec.dimension} to {kept} dimensions, written to "
        f"{escape(str(out))}: use it with --whitening; maps made without it cannot be used with it"
    )


def _describe(
    path: Path, encoder: str, backend: Literal["auto", "tensorrt", "openvino", "onnx"], cpu: EncoderConfig
) -> tuple[NDArray[np.float32], ModelSpec]:
    import numpy as np

    from progeo_edge.encoders import load_encoder
    from progeo_edge.sources import open_source

    frames = open_source(path)
    model = load_encoder(encoder, backend=backend, threads=cpu.threads, spin=cpu.spin)
    described = []
    with progress() as bar:
        task = bar.add_task("describing frames", total=frames.num_frames)
        for frame in frames:
            described.append(model.encode([frame.image])[0])
            bar.advance(task)
    model.close()
    return np.array(described, np.float32).reshape(-1, model.spec.dimension), model.spec


def _summary(calibration: Calibration, promised: float) -> dict[str, object]:
    gate = calibration.min_similarity(calibration.num_keyframes, promised)
    return {
        "false_per_hour": promised,
        "min_similarity": gate,
        "num_keyframes": calibration.num_keyframes,
        "share_of_same_place_above": calibration.share_above(gate),
        "separability": calibration.separability(promised).value,
        "advice": calibration.advice(promised),
        "calibration": calibration.to_dict(),
    }


def _draw(found: dict[str, Calibration], promised: float, picture: Path) -> None:
    from progeo_edge.atomic import write_text
    from progeo_edge.report.calibration import calibration_histogram

    for name, calibration in found.items():
        path = picture if len(found) == 1 else picture.with_stem(f"{picture.stem}_{name}")
        write_text(path, calibration_histogram(calibration, promised))


def _print(found: dict[str, Calibration], promised: float) -> None:
    from rich.markup import escape
    from rich.table import Table

    from progeo_edge.report.calibration import gate_rows

    stdout = console()
    for name, calibration in found.items():
        stdout.print(
            f"[bold]{escape(name)}[/bold]: {calibration.tail.num_queries} keyframes with an impostor, "
            f"{calibration.num_same_place} {'verified pairs' if calibration.verified else 'pairs of neighbours'} of "
            f"one place, {calibration.queries_per_hour:.0f} keyframes per hour"
        )
        table = Table("keyframes in the map", "false per hour", "cosine needed", "same place above it")
        for size, rate, gate, share in gate_rows(calibration):
            table.add_row(size, f"{rate:g}", f"{gate:.3f}", f"{100 * share:.0f} %")
        stdout.print(table)
        stdout.print(f"{calibration.separability(promised).value}: {calibration.advice(promised)}")


def main() -> None:
    """Entry point of `progeo-calibrate`."""
    run_app(app)
