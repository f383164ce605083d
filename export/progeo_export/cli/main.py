"""progeo-export: a checkpoint in, a bundle that has proven itself out; on a device, a bundle in, an engine out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from progeo_edge.cli.console import console, new_app, run_app

if TYPE_CHECKING:
    from progeo_edge.bundle import Manifest, Precision
    from progeo_export.pipeline import ExportOptions

HELP = """
Turn a trained encoder into files that a robot can run without torch.

**1. On a machine with torch**, a *checkpoint* (the weights that training wrote) becomes a *bundle*: a folder with the
network as ONNX graphs, a manifest, and a few images with the descriptors that belong to them. SOURCE is a checkpoint of
progeo-train, a published `.pth` of ProGEO, CosPlace or EigenPlaces, or an open_clip name (not trained for places).

    progeo-export best.safetensors --fp16 -o my_bundle

**2. Copy the folder to the robot, and ask whether it computes the same there.**

    progeo-verify my_bundle

**3. On an NVIDIA Jetson**, build its engine: SOURCE is the bundle now, and no torch is needed. It takes minutes, once.

    progeo-export my_bundle --fp16

**Precisions.** FP32 is always written, and right for CPUs. FP16 is half as large, and what GPUs are made for.
INT8 is smaller still and loses accuracy; it needs images of the robot's camera (`--calibration`).

**The export fails, with the figures, when a graph does not compute what the checkpoint computes**: FP32 is compared
with torch, FP16 is computed with every tensor really in half, INT8 is judged by retrieval. docs/export.md states the
limits.

**More examples**

    # 8 bit, with images of your camera
    progeo-export best.safetensors --int8 --calibration images/ -o my_bundle

    # another input size, height x width
    progeo-export best.safetensors --fp16 --size 384x512 -o my_bundle

    # a bundle as one file to publish, and back
    progeo-export my_bundle --tar my_bundle.tar
    progeo-export my_bundle.tar -o my_bundle
"""

_FILES, _GRAPHS = "Files", "When a checkpoint is exported"

app = new_app(HELP)


@app.command(help=HELP)
def export(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="checkpoint, open_clip name, bundle or tar", metavar="SOURCE")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="folder of the new bundle", rich_help_panel=_FILES)
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="replace an existing bundle; quantise attention too", rich_help_panel=_FILES),
    ] = False,
    tar: Annotated[Path | None, typer.Option(help="write a bundle as one file", rich_help_panel=_FILES)] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="also a half-precision graph; of a bundle: its engine")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="also an 8-bit graph, with --calibration; of a bundle: its engine")
    ] = False,
    int8_for: Annotated[
        Literal["tensorrt", "cpu"],
        typer.Option(help="who runs the 8-bit graph; ONNX Runtime is slow with that of tensorrt"),
    ] = "tensorrt",
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="folder of real images, best of the robot's own camera, 500 or more", rich_help_panel=_GRAPHS
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="folder to judge the graphs on, with places.csv; default: rendered streets", rich_help_panel=_GRAPHS
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="input as HxW, such as 384x512; default: its own", rich_help_panel=_GRAPHS)
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=256, help="most images at a time", rich_help_panel=_GRAPHS)] = 8,
    opset: Annotated[
        int, typer.Option(help="version of ONNX's operators: 18, or 17 for TensorRT 8.6", rich_help_panel=_GRAPHS)
    ] = 18,
    input_kind: Annotated[
        str, typer.Option("--input", help="uint8 (pixels) or float (RGB planes, 0 to 1)", rich_help_panel=_GRAPHS)
    ] = "uint8",
    fuse_resize: Annotated[
        str | None,
        typer.Option(help="put the resize into the graph, for camera frames of this HxW", rich_help_panel=_GRAPHS),
    ] = None,
) -> None:
    """Export, build, pack or unpack; see `HELP`."""
    from progeo_export.cli.jobs import job_of, refuse_other_options

    job = job_of(source, tar)
    refuse_other_options(context, job, source)
    if job == "unpack":
        _unpack(Path(source), _named(out), force)
    elif job == "pack" and tar is not None:
        _pack(Path(source), tar)
    elif job == "engine":
        _build_engine(Path(source), "fp16" if fp16 else "int8" if int8 else "fp32")
    else:
        folder = _named(out)
        options = _options(fp16, int8, int8_for, calibration, size, max_batch, opset, input_kind, fuse_resize, force)
        _export(source, folder, images, calibration, options)


def _export(source: str, out: Path, images: Path | None, calibration: Path | None, options: ExportOptions) -> None:
    from dataclasses import replace

    from progeo_edge.cli.console import progress
    from progeo_edge.evaluation.retrieval import list_images
    from progeo_export.bundle_writer import refuse_existing
    from progeo_export.checkpoint_input import open_model
    from progeo_export.int8 import MAX_IMAGES
    from progeo_export.pipeline import export_bundle
    from progeo_export.probe_images import read_images, read_places, rendered_places

    # What a mistyped name breaks comes first: the images take seconds, the steps minutes.
    refuse_existing(out, force=options.force)
    for folder in (images, calibration):
        if folder is not None:
            list_images(folder)
    with progress("steps") as bar:
        task = bar.add_task("opening the model", total=None)
        model = open_model(source, options.size_px)
        bar.update(task, advance=1, description="preparing images to judge by")
        probe = rendered_places() if images is None else read_places(images)
        if calibration is not None:
            options = replace(options, calibration=tuple(read_images(calibration, max_images=MAX_IMAGES)))
        manifest = export_bundle(model, out, probe, options, lambda step: bar.update(task, advance=1, description=step))
    print_figures(manifest, out)


def print_figures(manifest: Manifest, out: Path) -> None:
    """What each graph was measured to do."""
    from rich.table import Table

    table = Table("graph", "MB", "min cosine", "loss of inter-place distance", "recall@1", "of torch")
    for precision, figures in manifest.parity.items():
        size_mb = (out / manifest.graphs[precision]).stat().st_size / 1e6
        table.add_row(
            precision,
            f"{size_mb:.1f}",
            f"{figures['min_cosine']:.6f}",
            f"{100 * figures['interplace_loss_mean']:.3f} % (worst {100 * figures['interplace_loss_max']:.2f} %)",
            f"{100 * figures['recall_at_1']:.1f} %",
            f"{100 * figures['recall_at_1_fp32']:.1f} %",
        )
    stdout = console()
    stdout.print(table)
    for note in manifest.notes:
        stdout.print(f"- {note}", markup=False, soft_wrap=True)
    stdout.print(f"bundle in {out}; progeo-verify {out} checks it on the device", markup=False, soft_wrap=True)


def _options(
    fp16: bool,
    int8: bool,
    int8_for: Literal["tensorrt", "cpu"],
    calibration: Path | None,
    size: str | None,
    max_batch: int,
    opset: int,
    input_kind: str,
    fuse_resize: str | None,
    force: bool,
) -> ExportOptions:
    from progeo_edge.errors import ConfigError

    if int8 and calibration is None:
        raise ConfigError("--int8 needs --calibration DIR: real images, best of the robot's own camera, 500 or more")
    if opset not in (17, 18):
        raise ConfigError(f"--opset {opset} is not offered; 18 is the default, 17 is for TensorRT 8.6")
    if input_kind not in ("uint8", "float"):
        raise ConfigError(f"--input {input_kind} is unknown; choose uint8 or float")
    size_px, fuse_resize_px = _size(size, "--size"), _size(fuse_resize, "--fuse-resize")
    if input_kind == "float" and fuse_resize_px is not None:
        raise ConfigError(
            "--fuse-resize takes camera frames as uint8, so a fused resize has no --input float; drop one"
        )
    from progeo_export.pipeline import ExportOptions

    return ExportOptions(
        fp16=fp16,
        int8=int8,
        int8_for=int8_for,
        size_px=size_px,
        max_batch=max_batch,
        opset=17 if opset == 17 else 18,
        input_kind="float" if input_kind == "float" else "uint8",
        fuse_resize_px=fuse_resize_px,
        force=force,
    )


def _size(text: str | None, option: str) -> tuple[int, int] | None:
    from progeo_edge.errors import ConfigError

    if text is None:
        return None
    height, separator, width = text.lower().partition("x")
    if not (separator and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ConfigError(f"{option} {text} is no size; write height x width in pixels, such as 384x512")
    return int(height), int(width)


def _named(out: Path | None) -> Path:
    from progeo_edge.errors import ConfigError

    if out is None:
        raise ConfigError("the bundle needs a folder; name it with --out")
    return out


def _build_engine(bundle: Path, precision: Precision) -> None:
    from progeo_edge.bundle import read_manifest
    from progeo_edge.cli.console import progress
    from progeo_edge.encoders.tensorrt import TensorRTEncoder

    read_manifest(bundle)
    _need_tensorrt()
    with progress("steps") as bar:
        task = bar.add_task(f"building the {precision} engine", total=None)
        encoder = TensorRTEncoder(
            bundle,
            precision,
            progress=lambda at: bar.update(
                task, completed=at.step, total=at.steps or None, description=f"{at.phase}, {at.elapsed_s:.0f} s"
            ),
        )
    encoder.close()
    console().print(f"the {precision} engine of {bundle} is built and agrees with the golden outputs", markup=False)


def _need_tensorrt() -> None:
    import importlib

    from progeo_edge.errors import ModelError

    try:
        importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise ModelError(
            f"an engine is built by TensorRT, which cannot be imported here ({error}): run this on the device that "
            "will use it, where JetPack brings TensorRT, in a virtual environment with --system-site-packages and pip "
            "install 'progeo-edge[tensorrt]'; elsewhere progeo-run takes the bundle through ONNX Runtime, without an "
            "engine"
        ) from error


def _pack(bundle: Path, tar: Path) -> None:
    from progeo_export.publish import pack

    console().print(f"packed {bundle} into {pack(bundle, tar)}", markup=False)


def _unpack(tar: Path, out: Path, force: bool) -> None:
    from progeo_export.publish import unpack

    manifest = unpack(tar, out, force=force)
    console().print(f"unpacked {manifest.name} into {out}", markup=False)


def main() -> None:
    """Entry point."""
    run_app(app)


if __name__ == "__main__":
    main()
