"""progeo-train: learn prompts (stage 1), tune the encoder under them (stage 2), or both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from progeo_edge.cli.console import console, new_app, run_app
from progeo_train.cli.tools import add_to

if TYPE_CHECKING:
    from rich.progress import Progress

    from progeo_train.config import TrainConfig
    from progeo_train.data.training_set import TrainingSet
    from progeo_train.pipeline import Job
    from progeo_train.validation import ValidationSet

HELP = """
Train ProGEO's place encoder, in two stages.

Stage 1 learns four words of text per place against a frozen CLIP; stage 2 tunes the image encoder under these texts.
CONFIG is a preset (`rn50`, `rn101`, `vit-b-16`, `vit-b-32`, `mobileclip2-s0`, `mobileclip2-s2`, `compact`) or a YAML
file. docs/training.md explains every setting.

**Data** (`--data`, may be given several times): a folder whose file names hold `@ east @ north @ ... @ heading @`
(SF-XL and the like), a CSV (image, east_m, north_m, heading_deg), or your own: a video, a folder of images in order,
a ROS bag, a map that progeo-run has written.

**Examples**

    progeo-train all rn50 --data SFXL/train --val SFXL/val --out rn50               # as published
    progeo-train all rn50 --data drive.mp4 --out mine --pretrained clip_rn50.pt     # own recording, weights from a file
    progeo-train all compact --data drive.mp4 --out try --dev                       # two iterations of everything
    progeo-train stage2 rn50 --data drive.mp4 --out plain --set stage2.text_weight=0
    torchrun --nproc-per-node 4 -m progeo_train.cli.main all rn50 --data SFXL/train --out rn50
"""

app = new_app(HELP)
add_to(app)

ConfigArgument = Annotated[str, typer.Argument(help="preset or YAML file", metavar="CONFIG", show_default=False)]
DataOption = Annotated[list[str], typer.Option("--data", help="images to train on; repeat for several")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="folder for checkpoints and logs")]
ValOption = Annotated[
    list[str] | None,
    typer.Option("--val", help="validation set: a folder with database/ and queries/, places.csv or matches.csv"),
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="one setting, as section.name=value")]
PretrainedOption = Annotated[str | None, typer.Option(help="open_clip tag or local file; wins over the config")]
CacheOption = Annotated[Path | None, typer.Option(help="folder for what can be computed again; default: OUT/cache")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="go on with the interrupted run in --out")]
ForceOption = Annotated[bool, typer.Option("--force", help="replace the run that is in --out")]
DevOption = Annotated[bool, typer.Option("--dev", help="two iterations of everything on a few images")]
DevicesOption = Annotated[int | None, typer.Option(min=1, help="processes here; default: one per GPU, one on the CPU")]
NodesOption = Annotated[int, typer.Option(min=1, help="machines that run this command")]
AcceleratorOption = Annotated[str, typer.Option(help="auto, cpu or cuda")]
PromptsOption = Annotated[Path | None, typer.Option(help="prompts of stage 1; default: OUT/stage1/prompts.safetensors")]


@app.command(help="Learn four words of text per place against a frozen CLIP.")
def stage1(
    config: ConfigArgument,
    data: DataOption,
    out: OutOption,
    settings: SetOption = None,
    pretrained: PretrainedOption = None,
    cache: CacheOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    dev: DevOption = False,
    devices: DevicesOption = None,
    nodes: NodesOption = 1,
    accelerator: AcceleratorOption = "auto",
) -> None:
    """Stage 1 alone."""
    from progeo_train.pipeline import train_stage1

    with _job(config, data, out, settings, pretrained, cache, resume, force, dev, devices, nodes, accelerator) as job:
        prompts = train_stage1(job)
        _say(job, f"prompts in {prompts}")


@app.command(help="Tune the image encoder under the prompts of stage 1.")
def stage2(
    config: ConfigArgument,
    data: DataOption,
    out: OutOption,
    val: ValOption = None,
    prompts: PromptsOption = None,
    settings: SetOption = None,
    pretrained: PretrainedOption = None,
    cache: CacheOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    dev: DevOption = False,
    devices: DevicesOption = None,
    nodes: NodesOption = 1,
    accelerator: AcceleratorOption = "auto",
) -> None:
    """Stage 2 alone."""
    with _job(config, data, out, settings, pretrained, cache, resume, force, dev, devices, nodes, accelerator) as job:
        _stage2(job, prompts, _open_validation(job, val or []))


@app.command(name="all", help="Stage 1, then stage 2; stage 1 is left out when stage2.text_weight is 0.")
def both(
    config: ConfigArgument,
    data: DataOption,
    out: OutOption,
    val: ValOption = None,
    settings: SetOption = None,
    pretrained: PretrainedOption = None,
    cache: CacheOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    dev: DevOption = False,
    devices: DevicesOption = None,
    nodes: NodesOption = 1,
    accelerator: AcceleratorOption = "auto",
) -> None:
    """Both stages."""
    from progeo_train.pipeline import check_stage2, train_stage1

    with _job(config, data, out, settings, pretrained, cache, resume, force, dev, devices, nodes, accelerator) as job:
        validation = _open_validation(job, val or [])
        if job.config.stage2.text_weight > 0:
            check_stage2(job)
            train_stage1(job)
        _stage2(job, None, validation)


@contextmanager
def _job(
    config: str,
    data: list[str],
    out: Path,
    settings: list[str] | None,
    pretrained: str | None,
    cache: Path | None,
    resume: bool,
    force: bool,
    dev: bool,
    devices: int | None,
    nodes: int,
    accelerator: str,
) -> Iterator[Job]:
    """Read config and data, start the processes, and show progress in the first one."""
    from progeo_train.config import load_config

    overrides = [*(settings or []), *([f"model.pretrained={pretrained}"] if pretrained else [])]
    chosen = load_config(config, overrides)
    with warnings_shown():
        from progeo_train.dev import dev_config, dev_places
        from progeo_train.pipeline import Job, launch_fabric
        from progeo_train.run_log import training_progress

        if dev:
            chosen = dev_config(chosen)
        fabric = launch_fabric(chosen.run, accelerator=accelerator, devices=devices, nodes=nodes)
        folder = cache or out / "cache"
        with training_progress(shown=fabric.is_global_zero) as progress:
            # The first process fills the caches of the data, the others read them.
            if not fabric.is_global_zero:
                fabric.barrier()
            training_set = open_data(data, chosen, folder, progress)
            if fabric.is_global_zero:
                fabric.barrier()
            if dev:
                training_set = replace(training_set, groups=dev_places(training_set.groups))
            job = Job(fabric, chosen, training_set, out, folder, resume, force, progress)
            _say(job, training_set.summary.describe())
            yield job


def open_data(specs: list[str], config: TrainConfig, cache: Path, progress: Progress) -> TrainingSet:
    """`open_training_set` with a progress bar."""
    from progeo_train.data.training_set import open_training_set

    task = progress.add_task("reading the data", total=None)
    found = open_training_set(specs, config, cache, lambda count: progress.advance(task, count))
    progress.remove_task(task)
    return found


def _open_validation(job: Job, val: list[str]) -> list[ValidationSet]:
    from progeo_train.validation import parse_validation_spec

    if not val:
        _say(job, "no --val: the last encoder is kept, and nothing says whether it is good", style="yellow")
    return [parse_validation_spec(text, job.config.validation.radius_m) for text in val]


def _stage2(job: Job, prompts: Path | None, validation: list[ValidationSet]) -> None:
    from progeo_train.pipeline import train_stage2

    best = train_stage2(job, prompts, validation)
    _say(job, f"encoder in {best}; progeo-eval retrieval --encoder {best} ... judges it")


def _say(job: Job, text: str, style: str | None = None) -> None:
    """One line of results; brackets in file names are no markup."""
    if job.fabric.is_global_zero:
        console().print(text, style=style, markup=False, soft_wrap=True)


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Warnings of the library on stderr, beside the progress bar."""
    import logging

    from rich.logging import RichHandler

    from progeo_edge.cli.console import error_console

    handler = RichHandler(console=error_console(), show_time=False, show_path=False, level=logging.WARNING)
    logger = logging.getLogger("progeo_train")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def main() -> None:
    """Entry point."""
    run_app(app)


if __name__ == "__main__":
    main()
