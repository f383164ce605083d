"""Collects what the report shows from a run's folder and its map."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from progeo_edge.atomic import write_text
from progeo_edge.calibration import Calibration, document_key
from progeo_edge.config import Config, load_config
from progeo_edge.map_store import MapStore
from progeo_edge.report import plots
from progeo_edge.report.calibration import calibration_histogram
from progeo_edge.report.pairs import accepted_pairs, refused_pairs, revisits
from progeo_edge.report.words import MEANING, count, duration
from progeo_edge.types import LoopClosure, PoseKind, Status

MAX_KEYFRAMES_WITH_ARCS = 5000


def write_report(out_dir: Path, map_store: MapStore) -> Path:
    """Write report.html into a run's folder.

    Args:
        out_dir: Folder with run.json, candidates.jsonl and config.yaml.
        map_store: The run's map.

    Returns:
        Path of the report.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("progeo_edge.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    html = environment.get_template("report.html.jinja").render(_content(out_dir, map_store))
    path = out_dir / "report.html"
    write_text(path, html)
    return path


def _content(out_dir: Path, map_store: MapStore) -> dict[str, Any]:
    summary = json.loads((out_dir / "run.json").read_text(encoding="utf-8"))
    config_yaml = (out_dir / "config.yaml").read_text(encoding="utf-8")
    records = _read_jsonl(out_dir / "candidates.jsonl")
    infos = map_store.infos()
    closures = map_store.closures()
    position = {info.id: row for row, info in enumerate(infos)}
    pairs = [(position[c.query_id], position[c.reference_id]) for c in closures]
    refused = {
        name: number
        for name, number in summary["candidate_statuses"].items()
        if name not in (Status.ACCEPTED.value, Status.SUPPRESSED.value, Status.NOT_VERIFIED.value)
    }
    return {
        "title": summary["source"],
        "summary": summary,
        "headline": _headline(summary, infos, closures),
        "tiles": _tiles(summary, closures),
        "accepted": accepted_pairs(map_store, closures),
        "num_closures": len(closures),
        "refused": refused_pairs(map_store, records),
        "path_plot": _path_plot(load_config(out_dir / "config.yaml"), infos, closures, pairs, summary),
        "matrix_plot": plots.similarity_matrix(map_store.descriptors()[1], pairs) if len(infos) > 1 else "",
        "calibrations": _calibrations(map_store, load_config(out_dir / "config.yaml")),
        "status_plot": plots.bars(summary["statuses"], "frames") if summary["statuses"] else "",
        "candidate_plot": plots.bars(refused, "candidates") if refused else "",
        "stage_plot": plots.stage_bars(summary["stages_ms"]) if summary["stages_ms"] else "",
        "meanings": [(s.value, MEANING[s]) for s in Status if s.value in {*summary["statuses"], *refused}],
        "config_yaml": config_yaml,
    }


def _headline(summary: Mapping[str, Any], infos: Sequence[Any], closures: Sequence[LoopClosure]) -> str:
    span_s = (infos[-1].stamp_ns - infos[0].stamp_ns) * 1e-9 if infos else 0.0
    kept = f"{count(len(infos), 'keyframe')} over {duration(span_s)}"
    if not closures:
        return f"In {kept} no place was recognised again."
    places = len(revisits(closures))
    return (
        f"In {kept} the robot came back to known places {count(places, 'time')}: "
        f"{count(len(closures), 'loop closure')}, each verified by geometry."
        if summary["profile"] != "recall"
        else f"In {kept} {count(len(closures), 'candidate')} were proposed, not verified (profile recall)."
    )


def _tiles(summary: Mapping[str, Any], closures: Sequence[LoopClosure]) -> list[tuple[str, str]]:
    metric = sum(1 for c in closures if c.verification is not None and c.verification.pose_kind is PoseKind.METRIC)
    tiles = [
        (f"{summary['num_keyframes']}", f"keyframes of {summary['num_frames']} frames"),
        (f"{len(closures)}", f"loop closures, {metric} of them metric"),
        (f"{sum(summary['candidate_statuses'].values())}", "candidates looked at"),
    ]
    reverse = sum(1 for c in closures if c.is_reverse)
    if reverse:
        tiles.append((f"{reverse}", "closures of a place passed the other way round"))
    if "total" in summary["stages_ms"]:
        tiles.append((f"{summary['stages_ms']['total']['p50']:.0f} ms", "per keyframe, median"))
    if summary["skipped"]:
        tiles.append((f"{len(summary['skipped'])}", "frames skipped"))
    return tiles + [(str(value), label) for label, value in summary["truth"].get("tiles", {}).items()]


def _path_plot(
    config: Config,
    infos: Sequence[Any],
    closures: Sequence[LoopClosure],
    pairs: Sequence[tuple[int, int]],
    summary: Mapping[str, Any],
) -> dict[str, str]:
    """Trajectory with odometry, otherwise the timeline; with the sentence that belongs under it."""
    if not infos or len(infos) > MAX_KEYFRAMES_WITH_ARCS:
        return {"svg": "", "caption": ""}
    if any(info.T_odom_base is None for info in infos):
        seconds = np.array([(info.stamp_ns - infos[0].stamp_ns) * 1e-9 for info in infos])
        return {
            "svg": plots.timeline(seconds, pairs),
            "caption": "Every arc leads from a keyframe back to the one whose place it recognised.",
        }
    lines = {"odometry": np.array([info.T_odom_base[:2, 3] for info in infos])}
    caption = "Odometry from above. Green lines join keyframes that were recognised as one place."
    optimised = _optimised(config, infos, closures)
    if optimised is not None:
        lines["with loop closures"] = optimised
        caption += " The second path is what a pose graph makes of odometry and closures together."
    if "positions" in summary["truth"]:
        lines = {"truth": np.array(summary["truth"]["positions"]), **lines}
    drawn_on = "with loop closures" if optimised is not None else "odometry"
    return {"svg": plots.trajectories(lines, pairs, drawn_on=drawn_on), "caption": caption}


def _calibrations(map_store: MapStore, config: Config) -> list[dict[str, str]]:
    """Name, picture and sentence of every camera that is calibrated."""
    promised = config.calibration.max_false_per_hour
    result = []
    for camera in sorted({info.camera for info in map_store.infos()}):
        document = map_store.document(document_key(camera))
        if document is not None:
            calibration = Calibration.from_dict(document)
            svg = calibration_histogram(calibration, promised)
            result.append({"camera": camera, "svg": svg, "advice": calibration.advice(promised)})
    return result


def _optimised(config: Config, infos: Sequence[Any], closures: Sequence[LoopClosure]) -> plots.Line | None:
    """(N, 2) optimised positions; None without a closure that has a pose, or without the library."""
    from progeo_edge.pose_graph import has_solver, optimise

    posed = [c for c in closures if c.verification is not None and c.verification.T_reference_query is not None]
    if not posed or not has_solver():
        return None
    odometry = {info.id: info.T_odom_base for info in infos}
    poses = optimise(odometry, posed, config.odometry, sessions={info.id: info.session for info in infos})
    return np.array([poses[info.id][:2, 3] for info in infos])


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
