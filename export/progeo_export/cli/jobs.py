"""What progeo-export does with a source, and which of its options that takes: the others are refused, not ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from progeo_edge.errors import ConfigError

Job = Literal["export", "engine", "pack", "unpack"]

_TAKES: dict[Job, frozenset[str]] = {
    "export": frozenset(
        {
            *("out", "force", "fp16", "int8", "int8_for", "calibration", "images"),
            *("size", "max_batch", "opset", "input_kind", "fuse_resize"),
        }
    ),
    "engine": frozenset({"fp16", "int8"}),
    "pack": frozenset({"tar"}),
    "unpack": frozenset({"out", "force"}),
}
"""Names of parameters of the command."""

_REASONS: dict[Job, str] = {
    "export": "packs the folder of a bundle, and {source} is none; export to a bundle first",
    "engine": (
        "cannot change {source}, which is a bundle: its graphs are finished, and its engine is built for them and kept "
        "in it; leave it out, or export the checkpoint again with it"
    ),
    "pack": "does nothing when the bundle {source} is packed as it is; leave it out",
    "unpack": "does nothing when {source} is unpacked; leave it out here, and use it on the folder or its checkpoint",
}


def job_of(source: str, tar: Path | None) -> Job:
    """What is asked for.

    Args:
        source: First argument of the command.
        tar: Of --tar.
    """
    path = Path(source)
    if path.suffix == ".tar" and path.is_file():
        return "unpack"
    if path.is_dir():
        return "engine" if tar is None else "pack"
    return "export"


def refuse_other_options(context: typer.Context, job: Job, source: str) -> None:
    """Fail when an option was given that the job does not take.

    Args:
        context: Of the command; tells what stood on the command line.
        job: Of `job_of`.
        source: First argument of the command.

    Raises:
        ConfigError: it names the options, the reason and the remedy.
    """
    given = {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in (None, "source") and _was_given(context, str(parameter.name))
    }
    others = [option for name, option in given.items() if name not in _TAKES[job]]
    if others:
        raise ConfigError(f"{', '.join(others)} {_REASONS[job].format(source=source)}")
    if job == "engine" and {"fp16", "int8"} <= given.keys():
        raise ConfigError(
            f"--fp16 and --int8 ask for two engines of {source}; build one at a time, by a command for each"
        )
    if job == "export" and "calibration" in given and not {"fp16", "int8"} & given.keys():
        raise ConfigError(
            "--calibration serves --int8, and the range audit of --fp16; add one of them, or leave it out"
        )
    if job == "export" and "int8_for" in given and "int8" not in given:
        raise ConfigError("--int8-for says who will run the INT8 graph; add --int8, or leave it out")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
