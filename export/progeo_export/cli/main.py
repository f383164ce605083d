"""progeo-export: a checkpoint in, a bundle that has proven itself out; on a device, a bundle in, an engine out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from progeo_edge.cli.console import console, new_app, run_app

if TYPE_CHECKING:
    from progeo_edge.bundle import Manifest, Precision
    from progeo_edge.types import Image
    from progeo_export.pipeline import ExportOptions

HELP = """
Turn a trained encoder into files that a robot can run without torch.

SOURCE is a checkpoint of progeo-train (`best.safetensors`), a published `.pth` of ProGEO, CosPlace or EigenPlaces, or
an open_clip name (`RN50:openai`; not trained for places). The result, a *bundle*, is a folder with ONNX graphs, a
manifest, and golden inputs and outputs by which any device can check itself (`progeo-verify`).

The export fails, with the figures, when a graph does not compute what the checkpoint computes: FP32 is compared with
torch, FP16 is computed with every tensor really in half, INT8 is judged by retrieval.

SOURCE may also be a bundle: then the TensorRT engine is built here, on the device, and checked; no torch is needed.

**Examples**

    progeo-export best.safetensors --fp16 -o my_bundle               # the usual way for a Jetson
    progeo-export best.safetensors --int8 --calibration images/ -o b # 8 bit, with images of your camera
    progeo-export best.safetensors --fp16 --size 384x512 -o b        # another input size, height x width
    progeo-export my_bundle --fp16                                   # on the Jetson: build and check the engine
    progeo-export my_bundle --tar my_bundle.tar                      # one file to publish
    progeo-export my_bundle.tar -o my_bundle                         # and back
"""

app = new_app(HELP)


@app.command(help=HELP)
def export(
    source: Annotated[str, typer.Argument(help="checkpoint, open_clip name, bundle or tar", metavar="SOURCE")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder of the bundle")] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="also a half-precision graph (or its engine)")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="also an 8-bit graph; needs --calibration")] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="folder of real images, best of the robot's own camera, 500 or more")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="folder to judge the graphs on, with places.csv; default: rendered streets")
    ] = None,
    size: Annotated[str | None, typer.Option(help="input as HxW, such as 384x512; default: its own")] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=256, help="largest batch")] = 8,
    opset: Annotated[int, typer.Option(help="18, or 17 for TensorRT 8.6")] = 18,
    input_kind: Annotated[str, typer.Option("--input", help="uint8 (pixels) or float (RGB planes, 0 to 1)")] = "uint8",
    fuse_resize: Annotated[
        str | None, typer.Option(help="put the resize into the graph, for camera frames of this HxW")
    ] = None,
    tar: Annotated[Path | None, typer.Option(help="from a bundle: write it as one file")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing bundle; quantise attention too")] = False,
) -> None:
    """Export, build, pack or unpack; see `HELP`."""
    path = Path(source)
    if path.suffix == ".tar" and path.is_file():
        _unpack(path, _named(out), force)
    elif path.is_dir() and tar is not None:
        _pack(path, tar)
    elif path.is_dir():
        _build_engine(path, fp16, int8)
    elif tar is not None:
        from progeo_edge.errors import ConfigError

        raise ConfigError(f"--tar packs the folder of a bundle, and {source} is none; export to a bundle first")
    else:
        options = _options(fp16, int8, calibration, size, max_batch, opset, input_kind, fuse_resize, force)
        _export(source, _named(out), images, options)


def _export(source: str, out: Path, images: Path | None, options: ExportOptions) -> None:
    from progeo_edge.cli.console import progress
    from progeo_export.bundle_writer import refuse_existing
    from progeo_export.pipeline import export_bundle
    from progeo_export.probe_images import read_places, rendered_places

    # Before the images, which take seconds.
    refuse_existing(out, force=options.force)
    with progress("steps") as bar:
        task = bar.add_task("preparing images to judge by", total=None)
        probe = rendered_places() if images is None else read_places(images)
        manifest = export_bundle(
            source, out, probe, options, lambda step: bar.update(task, advance=1, description=step)
        )
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
    from progeo_export.int8 import MAX_IMAGES
    from progeo_export.pipeline import ExportOptions
    from progeo_export.probe_images import read_images

    found: tuple[Image, ...] | None = None
    if calibration is not None:
        found = tuple(read_images(calibration, max_images=MAX_IMAGES))
    return ExportOptions(
        fp16=fp16,
        int8=int8,
        calibration=found,
        size_px=_size(size, "--size"),
        max_batch=max_batch,
        opset=17 if opset == 17 else 18,
        input_kind="float" if input_kind == "float" else "uint8",
        fuse_resize_px=_size(fuse_resize, "--fuse-resize"),
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


def _build_engine(bundle: Path, fp16: bool, int8: bool) -> None:
    from progeo_edge.cli.console import progress
    from progeo_edge.encoders.tensorrt import TensorRTEncoder

    precision: Precision = "fp16" if fp16 else "int8" if int8 else "fp32"
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
