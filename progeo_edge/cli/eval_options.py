"""Options and small steps that the commands of `progeo-eval` share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from progeo_edge.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from progeo_edge.config import EncoderConfig
    from progeo_edge.encoders import Encoder
    from progeo_edge.evaluation.labels import Matches
    from progeo_edge.evaluation.true_poses import TruePoses

JsonOption = Annotated[
    Path | None, typer.Option("--json", help="write everything as JSON; - prints it in place of the table")
]
PlotOption = Annotated[Path | None, typer.Option("--plot", help="write a plot: .png, .svg or .pdf")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="write a page with all plots and tables")]
SeedOption = Annotated[int, typer.Option(min=0, help="of the bootstrap")]
MatchesOption = Annotated[Path | None, typer.Option(help="labels, table: query, earlier (or database), label")]
TruthOption = Annotated[
    Path | None, typer.Option(help="true poses: TUM file, or CSV by image or time_s; in place of --matches")
]
RadiusOption = Annotated[float, typer.Option(help="with --truth: the same place within this distance")]
AngleOption = Annotated[float, typer.Option(help="with --truth: and this difference of heading")]
NeutralOption = Annotated[float, typer.Option(help="with --truth: up to this distance neither right nor wrong")]


def read_truth(
    matches: Path | None, truth: Path | None, radius_m: float, max_angle_deg: float, neutral_m: float
) -> Matches | TruePoses:
    """Labels or true poses, whichever of the two was given.

    Raises:
        ConfigError: none or both were given.
        SourceError: the file cannot be read.
        InputError: distances that do not fit together.
    """
    from progeo_edge.evaluation.labels import read_matches
    from progeo_edge.evaluation.true_poses import Nearness, read_true_poses

    if (matches is None) == (truth is None):
        given = "both were" if matches is not None else "none was"
        raise ConfigError(f"one of --matches CSV and --truth POSES is needed, and {given} given")
    if matches is not None:
        return read_matches(matches)
    assert truth is not None
    return read_true_poses(truth, Nearness(radius_m, max_angle_deg, neutral_m))


def open_encoder(name: str, whitening: Path | None = None, cpu: EncoderConfig | None = None) -> Encoder:
    """One of the two baselines by name, or what `load_encoder` opens, whitened when a file is given.

    `cpu` says how a bundle uses the CPU; None takes the defaults.

    Raises:
        ConfigError: a whitening for a baseline.
    """
    if name in ("thumbnail", "orb-bow") and whitening is not None:
        raise ConfigError(f"--whitening {whitening} does not apply to the baseline {name}; give --encoder")
    if name == "thumbnail":
        from progeo_edge.evaluation.baselines import ThumbnailEncoder

        return ThumbnailEncoder()
    if name == "orb-bow":
        from progeo_edge.evaluation.baselines import OrbBowEncoder

        return OrbBowEncoder()
    from progeo_edge.encoders import load_encoder

    if cpu is None:
        return load_encoder(name, whitening=whitening)
    return load_encoder(name, whitening=whitening, threads=cpu.threads, spin=cpu.spin)


def write_json(record: dict[str, Any], path: Path | None) -> None:
    """Write as JSON; "-" prints.

    Raises:
        SourceError: the file cannot be written.
    """
    if path is None:
        return
    text = json.dumps(record, indent=2, allow_nan=False)
    if path == Path("-"):
        print(text)
        return
    from progeo_edge.atomic import write_text

    try:
        write_text(path, text + "\n")
    except OSError as error:
        raise SourceError(f"{path} cannot be written: {error}; choose another --json") from error


def check_html_path(path: Path | None) -> None:
    """Refuse early what could not be written at the end.

    Raises:
        SourceError: the folder does not exist.
    """
    if path is not None and not path.parent.is_dir():
        raise SourceError(f"page {path} would lie in a folder that does not exist; make {path.parent} first")
