"""The smaller commands of progeo-train: look at config and data, import, extract, judge, measure."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from progeo_edge.cli.console import console

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from rich.progress import Progress

    from progeo_train.benchmark import Stage1Speed, Stage2Speed
    from progeo_train.config import TrainConfig

IMPORT_HELP = """Make a checkpoint of ours from a published .pth file of ProGEO, CosPlace or EigenPlaces.

No code in the file is run. Every tensor must be known, and none may be missing.

Examples:

- `progeo-train import-checkpoint best_model.pth --backbone ViT-B-16 --out progeo_vit.safetensors`

- `progeo-train import-checkpoint ResNet50_512_cosplace.pth --out cosplace.safetensors`
"""

EXTRACT_HELP = """Descriptors of all images of a folder, by any number of processes; a killed run goes on where it was.

The folder OUT gets features.npy (N, D), names.txt, and unreadable.txt when there are such images.

Examples:

- `progeo-train extract best.safetensors SFXL/test/database --out db`

- `torchrun --nproc-per-node 4 -m progeo_train.cli.main extract best.safetensors SFXL/test/database --out db`

- `progeo-train recall q db` then says recall@N of queries and database extracted so (UTM file names)
"""

BENCH_HELP = """Measure how fast the training is on this machine.

Stage 2 on rendered JPEGs: images per second, and what of a step is not the backbone's own forward and backward
(whole steps and the backbone alone in turns, so that other load falls on both). Stage 1 on synthetic cached features.

Examples:

- `progeo-train bench rn50 --stage 2 --set stage2.batch_size=8`

- `progeo-train bench compact --stage 1 --images 100000 --groups 8`
"""

CheckpointArgument = Annotated[Path, typer.Argument(help="checkpoint (.safetensors)", metavar="CHECKPOINT")]
DevicesOption = Annotated[int | None, typer.Option(min=1, help="processes here; default: one per GPU, one on the CPU")]
NodesOption = Annotated[int, typer.Option(min=1, help="machines that run this command")]
AcceleratorOption = Annotated[str, typer.Option(help="auto, cpu or cuda")]
PrecisionOption = Annotated[str, typer.Option(help="fp32, bf16 or fp16")]
WorkersOption = Annotated[int, typer.Option(min=0, help="processes that read images, per process")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="one setting, as section.name=value")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="write the figures to this file")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("import-checkpoint", help=IMPORT_HELP)(import_checkpoint)
    app.command("extract", help=EXTRACT_HELP)(extract)
    app.command("recall", help="Recall@N of two extracted folders whose file names hold UTM positions.")(recall)
    app.command("config", help="Print the settings of a preset or file, with --set applied, as YAML.")(show_config)
    app.command("data", help="Read training data and say what it holds, without training.")(show_data)
    app.command("bench", help=BENCH_HELP)(bench)


def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="published .pth file", metavar="FILE", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="checkpoint to write (.safetensors)")],
    backbone: Annotated[
        str | None, typer.Option(help="RN50, RN101, ViT-B-16, ViT-B-32, ResNet18, -50, -101 or -152; default: seen")
    ] = None,
) -> None:
    """Convert a published file; see `IMPORT_HELP`."""
    from progeo_train.released import import_released

    found = import_released(file, backbone, out)
    height, width = found["image_size_px"]
    console().print(
        f"{found['family']} {found['backbone']}, {found['descriptor_dim']} dimensions, {height} x {width} px: "
        f"{found['tensors']} tensors in {out}, {found['set_aside']} set aside",
        soft_wrap=True,
        markup=False,
    )


def extract(
    checkpoint: CheckpointArgument,
    images: Annotated[Path, typer.Argument(help="folder, or .txt file with one path per line", metavar="IMAGES")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the descriptors")],
    batch_size: Annotated[int, typer.Option(min=1, help="images at a time, per process")] = 16,
    workers: WorkersOption = 8,
    half: Annotated[bool, typer.Option("--half", help="store float16 instead of float32")] = False,
    precision: PrecisionOption = "fp32",
    devices: DevicesOption = None,
    nodes: NodesOption = 1,
    accelerator: AcceleratorOption = "auto",
) -> None:
    """Describe a data set; see `EXTRACT_HELP`."""
    from progeo_train.cli.main import warnings_shown
    from progeo_train.extraction import extract_data_set
    from progeo_train.run_log import training_progress

    fabric = _fabric(precision, accelerator, devices, nodes)
    with warnings_shown(), training_progress(shown=fabric.is_global_zero) as progress:
        task = progress.add_task("describing", total=None)
        features = extract_data_set(
            checkpoint,
            images,
            out,
            fabric,
            batch_size=batch_size,
            workers=workers,
            dtype="float16" if half else "float32",
            progress=lambda new, total: progress.update(task, advance=new, total=total),
        )
    if fabric.is_global_zero:
        unreadable = int((~features.readable).sum())
        note = f", {unreadable} of them unreadable (unreadable.txt names them)" if unreadable else ""
        text = f"{len(features)} descriptors of {features.dim} dimensions in {out}{note}"
        console().print(text, soft_wrap=True, markup=False)


def recall(
    queries: Annotated[Path, typer.Argument(help="extracted queries", metavar="QUERIES")],
    database: Annotated[Path, typer.Argument(help="extracted database", metavar="DATABASE")],
    radius_m: Annotated[float, typer.Option(help="a positive is within this distance")] = 25.0,
) -> None:
    """Judge extracted descriptors."""
    from progeo_train.validation import judge_extracted

    found = judge_extracted(queries, database, radius_m)
    console().print("  ".join(f"{name} {100 * value:.1f} %" for name, value in found.items()))


def show_config(
    config: Annotated[str, typer.Argument(help="preset or YAML file", metavar="CONFIG")], settings: SetOption = None
) -> None:
    """Print the effective config."""
    from progeo_edge.settings import to_yaml
    from progeo_train.config import load_config

    typer.echo(to_yaml(load_config(config, settings or [])), nl=False)


def show_data(
    config: Annotated[str, typer.Argument(help="preset or YAML file", metavar="CONFIG")],
    data: Annotated[list[str], typer.Option("--data", help="images to train on; repeat for several")],
    cache: Annotated[Path, typer.Option(help="folder for what can be computed again")],
    settings: SetOption = None,
) -> None:
    """Describe training data."""
    from progeo_train.cli.main import open_data, warnings_shown
    from progeo_train.config import load_config
    from progeo_train.run_log import training_progress

    with warnings_shown(), training_progress() as progress:
        found = open_data(data, load_config(config, settings or []), cache, progress)
    console().print(found.summary.describe(), soft_wrap=True)


def bench(
    config: Annotated[str, typer.Argument(help="preset or YAML file", metavar="CONFIG")],
    stage: Annotated[int, typer.Option(min=1, max=2, help="which stage to measure")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="stage 2: pairs of blocks")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="stage 2: steps in a block")] = 5,
    images: Annotated[int, typer.Option(min=20, help="stage 1: images in a group")] = 100_000,
    groups: Annotated[int, typer.Option(min=1, help="stage 1: groups")] = 8,
    max_steps: Annotated[int | None, typer.Option(min=1, help="stage 1: stop a group after so many steps")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="threads of torch on the CPU")] = None,
    settings: SetOption = None,
    accelerator: AcceleratorOption = "auto",
    json_file: JsonOption = None,
) -> None:
    """Measure speed; see `BENCH_HELP`."""
    import torch

    from progeo_edge import atomic
    from progeo_train.cli.main import warnings_shown
    from progeo_train.config import load_config
    from progeo_train.run_log import training_progress

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = load_config(config, ["model.pretrained=null", *(settings or [])])
    fabric = _fabric(chosen.run.precision, accelerator, 1, 1)
    with warnings_shown(), training_progress() as progress, tempfile.TemporaryDirectory() as folder:
        found: Stage1Speed | Stage2Speed
        if stage == 1:
            found = _bench_stage1(fabric, chosen, Path(folder), images, groups, max_steps, progress)
        else:
            found = _bench_stage2(fabric, chosen, Path(folder), rounds, steps, progress)
    record: dict[str, Any] = {"stage": stage, "config": config, "torch": torch.__version__, **found.to_dict()}
    _print_figures(record)
    if json_file is not None:
        atomic.write_text(json_file, json.dumps(record, indent=2) + "\n")


def _bench_stage2(
    fabric: Fabric, config: TrainConfig, folder: Path, rounds: int, steps: int, progress: Progress
) -> Stage2Speed:
    from progeo_train.benchmark import measure_stage2
    from progeo_train.benchmark_data import stage2_on_rendered_images

    task = progress.add_task("measuring stage 2", total=rounds + 1)
    run, stage = stage2_on_rendered_images(fabric, config, folder, iterations=(rounds + 1) * steps)
    return measure_stage2(run, stage, rounds=rounds, steps=steps, progress=lambda: progress.advance(task))


def _bench_stage1(
    fabric: Fabric,
    config: TrainConfig,
    folder: Path,
    images: int,
    groups: int,
    max_steps: int | None,
    progress: Progress,
) -> Stage1Speed:
    from progeo_train.benchmark import measure_stage1
    from progeo_train.benchmark_data import stage1_on_synthetic_features

    run, stage, features = stage1_on_synthetic_features(fabric, config, folder, groups, images)
    per_group = images if max_steps is None else min(images, max_steps * config.stage1.batch_size)
    task = progress.add_task("measuring stage 1", total=groups * per_group)
    return measure_stage1(
        run, stage, features, max_steps_per_group=max_steps, progress=lambda count: progress.advance(task, count)
    )


def _print_figures(record: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in record.items():
        table.add_row(name, _figure(value))
    console().print(table)


def _figure(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return " to ".join(_figure(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _fabric(precision: str, accelerator: str, devices: int | None, nodes: int) -> Fabric:
    from progeo_edge.settings import validate
    from progeo_train.config import DOCUMENTATION, RunConfig
    from progeo_train.pipeline import launch_fabric

    run = validate(RunConfig, {"precision": precision}, DOCUMENTATION)
    return launch_fabric(run, accelerator=accelerator, devices=devices, nodes=nodes)
