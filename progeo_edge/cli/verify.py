"""progeo-verify: does a bundle give on this device what it was exported with?"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from progeo_edge.cli.console import console, new_app, run_app
from progeo_edge.errors import InputError

if TYPE_CHECKING:
    from progeo_edge.verify import Figure, Verdict

HELP = """
Prove a model on the device that will run it.

A bundle (the folder that `progeo-export` writes) carries a few images and the descriptors that the model must give for
them. This command compares every file of the bundle with its hash, runs those images on this device, and compares the
descriptors with the stored ones. Run it after copying a bundle to a robot, and after every update of JetPack, of the
driver, of OpenVINO or of ONNX Runtime.

**Examples**

    # With the backend that progeo-run would take
    progeo-verify my-bundle

    # With TensorRT; where no engine was built yet, this builds it, which takes minutes
    progeo-verify my-bundle --backend tensorrt

    # With the half-precision graph, and the result as a file for a script
    progeo-verify my-bundle --precision fp16 --json verify.json

**What is measured**: the smallest cosine to the stored descriptors, the share of the distance between places that is
lost, whether the images keep the order of their neighbours, the descriptors' norms, and values that are not numbers.
The limits are those that the bundle states for the precision. docs/verify.md explains each.

**Exit code**: 0 everything agrees; 1 something disagrees: do not use the bundle here; 2 it could not be run.
"""

_EXIT_DISAGREES = 1

app = new_app(HELP)


@app.command(help=HELP)
def verify(
    bundle: Annotated[Path, typer.Argument(help="folder with a manifest.json")],
    backend: Annotated[
        Literal["auto", "tensorrt", "openvino", "onnx"],
        typer.Option(
            help="auto: TensorRT where its engine is built already, else OpenVINO or ONNX Runtime, the faster one"
        ),
    ] = "auto",
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        typer.Option(help="by default fp16 with TensorRT where the bundle has it, else fp32"),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the result to this file, too")] = None,
) -> None:
    """Verify, print the table, write the JSON file, and leave with the verdict."""
    from progeo_edge.verify import verify_bundle

    with _log_on_stderr():
        verdict = verify_bundle(bundle, backend=backend, precision=precision)
    _print(verdict)
    if json_file is not None:
        _write_json(verdict, json_file)
    if not verdict.ok:
        raise typer.Exit(_EXIT_DISAGREES)


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Show which backend is taken and why, and how a build goes on."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("progeo_edge")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def _print(verdict: Verdict) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    out.print(Text(f"{verdict.bundle}: {verdict.model}"), soft_wrap=True)
    if verdict.figures:
        out.print(
            Text(f"{verdict.num_files} files match their hashes; {verdict.num_images} images by {verdict.backend}"),
            soft_wrap=True,
        )
        table = Table("figure", "value", "limit", "verdict")
        for figure in verdict.figures:
            table.add_row(figure.name, _number(figure.value), _limit(figure), _mark(figure))
        out.print(table)
    for problem in verdict.problems:
        out.print(Text(problem, style="red"), soft_wrap=True)
    if verdict.ok:
        out.print("[green]ok[/green]: this device gives the descriptors that the bundle was exported with")
    else:
        out.print("[red]DISAGREES[/red]: do not use this bundle on this device in this way")


def _number(value: float) -> str:
    """Cosines differ from 1 in late digits; of everything else three digits tell enough."""
    return f"{value:.7g}" if 0.9 < value < 1.1 else f"{value:.3g}"


def _limit(figure: Figure) -> str:
    return "" if figure.bound is None else f"{figure.side} {figure.bound:.7g}"


def _mark(figure: Figure) -> str:
    if figure.bound is None:
        return ""
    return "[green]ok[/green]" if figure.ok else "[red]FAILED[/red]"


def _write_json(verdict: Verdict, path: Path) -> None:
    import json

    from progeo_edge import atomic

    try:
        atomic.write_text(path, json.dumps(verdict.as_json(), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise InputError(f"--json {path} cannot be written: {error}; name a file in an existing folder") from error


def main() -> None:
    """Entry point of `progeo-verify`."""
    run_app(app)
