"""`progeo-bench vs`: the same frames through what a user would pick instead, in one interleaved run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from progeo_edge.cli.console import console, progress
from progeo_edge.errors import InputError

if TYPE_CHECKING:
    from progeo_edge.benchmark.versus.comparison import Comparison

VS_HELP = """
Run the same work through what a user would pick instead, everybody in turn in one run.

Frames to candidates: PIL and open_clip in torch (eager and compiled), ONNX Runtime with default options. The index:
NumPy, faiss, hnswlib, usearch. The matcher: OpenCV's. Cold start: a fresh process each. Each contender has a process of
its own, is asked in short blocks in an order that rotates, and its answers are compared. Who is not installed is listed
as absent. docs/benchmark_vs.md says what each figure means.

**Examples**

    progeo-bench my-bundle --vs --quick
    progeo-bench my-bundle --vs --checkpoint last.safetensors --source drive.mp4 --json vs.json --plot vs.png
    progeo-bench vlad --vs --only index --sizes 1k,10k,100k,1M --descriptors drive.npz
"""


def vs(
    encoder: Annotated[str, typer.Argument(help="bundle, .onnx beside a .yaml, or vlad", metavar="BUNDLE")] = "vlad",
    only: Annotated[
        str, typer.Option(help="parts: frame, encoder, resize, index, matcher, cold")
    ] = "frame,encoder,resize,index,matcher,cold",
    source: Annotated[
        Path | None, typer.Option(help="recording whose frames are used; rendered ones without it")
    ] = None,
    descriptors: Annotated[
        Path | None, typer.Option(help=".npy or .npz with descriptors of images in their order, for the index")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="torch checkpoint of the bundle; random weights of its architecture without it")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="backbone of the torch peer without a checkpoint; the bundle's by default")
    ] = None,
    precisions: Annotated[str, typer.Option(help="of ours")] = "fp32,int8",
    backends: Annotated[str, typer.Option(help="of ours")] = "onnx,openvino",
    threads: Annotated[int, typer.Option(min=1, help="of every encoder and matcher; indexes have one")] = 2,
    rounds: Annotated[int | None, typer.Option(min=1, help="turns of everybody; 9 by default")] = None,
    block: Annotated[int, typer.Option(min=1, help="frames per turn")] = 5,
    num_frames: Annotated[int | None, typer.Option("--frames", min=2, help="different frames; 24 by default")] = None,
    num_database: Annotated[int, typer.Option("--keyframes", min=1, help="searched by frame to candidates")] = 10_000,
    sizes: Annotated[str | None, typer.Option(help="of the index; 1k,10k,100k by default")] = None,
    build_limit_s: Annotated[float, typer.Option(min=1, help="indexes that would take longer are left out")] = 120.0,
    cold_repeats: Annotated[int | None, typer.Option(min=1, help="cold starts of each; 5 by default")] = None,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="let torch.compile take part")] = True,
    peers: Annotated[
        list[str] | None, typer.Option("--peer", help="a further contender for frames, as NAME=module:Class")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="few rounds, no torch.compile, small indexes")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the result to this file")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="draw it: .png, .svg or .pdf")] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="write tables for an issue; - prints them")
    ] = None,
) -> None:
    """Wire the job together, run it, show and keep the result."""
    from progeo_edge.benchmark.plot import check_plot_path
    from progeo_edge.benchmark.result_file import write_result
    from progeo_edge.benchmark.versus.interleaving import Pace
    from progeo_edge.benchmark.versus.job import Job, parse_parts, parse_sizes
    from progeo_edge.benchmark.versus.plots import save_plot
    from progeo_edge.benchmark.versus.run import run_job
    from progeo_edge.benchmark.versus.tables import markdown
    from progeo_edge.cli.bench_tables import check_writable, write_block

    job = Job(
        model=encoder,
        parts=parse_parts(only),
        source=source,
        descriptors=descriptors,
        checkpoint=checkpoint,
        architecture=architecture,
        precisions=_listed(precisions),
        backends=_listed(backends),
        threads=threads,
        pace=Pace(rounds or (3 if quick else 9), block),
        num_frames=num_frames or (8 if quick else 24),
        num_database=num_database,
        sizes=parse_sizes(sizes or ("1k,10k" if quick else "1k,10k,100k")),
        build_limit_s=build_limit_s,
        cold_repeats=cold_repeats or (2 if quick else 5),
        compiled=compiled and not quick,
        extra_peers=_named(peers or ()),
    )
    check_writable(json_file)
    check_writable(markdown_file)
    if plot_file is not None:
        check_plot_path(plot_file)
    comparisons: list[Comparison] = []

    def finished(comparison: Comparison) -> None:
        comparisons.append(comparison)
        _print(comparison)

    with progress("steps") as bar:
        task = bar.add_task("comparing", total=None)
        result = run_job(job, lambda doing: bar.update(task, advance=1, description=doing), finished)
    if json_file is not None:
        write_result(json_file, result)
    if markdown_file is not None:
        write_block(markdown(comparisons, result), markdown_file)
    if plot_file is not None:
        save_plot(comparisons, plot_file)


def _print(comparison: Comparison) -> None:
    from rich.text import Text

    from progeo_edge.benchmark.versus.tables import remarks, table_of

    out = console()
    if comparison.rows:
        out.print(table_of(comparison))
    else:
        out.print(Text(f"{comparison.group}: nobody could take part"))
    for remark in remarks(comparison):
        out.print(Text(f"  {remark}", style="dim"), soft_wrap=True)
    out.print()


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _named(peers: Sequence[str]) -> dict[str, str]:
    """Name to target of "NAME=module:Class".

    Raises:
        InputError: not of that form.
    """
    named = {}
    for text in peers:
        name, equals, target = text.partition("=")
        if not name or not equals or ":" not in target:
            raise InputError(f"--peer {text!r} is not of the form NAME=module:Class; write mine=my_package.peers:Mine")
        named[name] = target
    return named
