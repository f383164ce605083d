"""The folder of a run: where the map comes from, what is already there, and what is written at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from progeo_edge.atomic import write_text
from progeo_edge.back_ends import rotation_vector_information
from progeo_edge.bundle import ModelSpec
from progeo_edge.config import Config, config_to_yaml
from progeo_edge.errors import MapError, SourceError
from progeo_edge.map_store import MapStore
from progeo_edge.outputs import write_g2o

MAP = "map.progeo"
RESULTS = (
    "candidates.jsonl",
    "closures.jsonl",
    "trajectory.g2o",
    "trajectory_gtsam.g2o",
    "config.yaml",
    "run.json",
    "report.html",
)


@contextmanager
def open_run_folder(
    out_dir: Path,
    spec: ModelSpec,
    config: Config,
    *,
    existing_map: Path | None = None,
    resume: bool = False,
    force: bool = False,
) -> Iterator[MapStore]:
    """Open the map that a run writes to, in a folder that is new, resumed, or (with `force`) replaced.

    Args:
        out_dir: Made when missing.
        spec: Model of the run; an existing map of another model is refused.
        config: Its `store` section decides how descriptors are kept.
        existing_map: Map to start from; copied, the file itself is only read. May be the folder's own map, which
            is then gone on with.
        resume: Go on with the run in the folder.
        force: Remove an earlier run's results first.

    Raises:
        SourceError: the folder holds results and neither `resume` nor `force` was given.
        MapError: the map cannot be used.
    """
    own_map = out_dir / MAP
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(f"output folder {out_dir} cannot be made: {error}; choose another --out") from error
    continues = resume or (existing_map is not None and _is_same_file(own_map, existing_map))
    if existing_map is not None and not continues:
        # Before --force removes anything: a map that cannot be used must not cost the earlier results.
        MapStore.open(existing_map, spec=spec, read_only=True).close()
    if own_map.exists() and not continues:
        if not force:
            raise SourceError(
                f"{out_dir} holds the results of an earlier run; choose another --out, continue it with --resume, "
                f"start a new session on its map with --map {own_map}, or replace it with --force"
            )
        _remove_results(out_dir)
    if resume and not own_map.exists():
        raise MapError(f"{out_dir} holds no run to resume ({MAP} is missing); run without --resume")
    if existing_map is not None and not continues:
        _copy_map(existing_map, own_map, spec)
    if own_map.exists():
        map_store = MapStore.open(own_map, spec=spec)
    else:
        map_store = MapStore.create(own_map, spec, descriptor_dtype=config.store.descriptor_dtype)
    with map_store:
        write_text(out_dir / "config.yaml", config_to_yaml(config))
        yield map_store


def finish_run(out_dir: Path, map_store: MapStore, *, with_report: bool = True) -> None:
    """Write trajectory.g2o and its twin for GTSAM's reader when there are poses, and report.html."""
    infos = [info for info in map_store.infos() if info.T_odom_base is not None]
    if infos:
        closures = map_store.closures()
        write_g2o(out_dir / "trajectory.g2o", infos, closures)
        write_g2o(out_dir / "trajectory_gtsam.g2o", infos, closures, information=rotation_vector_information)
    if with_report:
        from progeo_edge.report import write_report

        write_report(out_dir, map_store)


def _is_same_file(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.samefile(b)


def _remove_results(out_dir: Path) -> None:
    for name in (*RESULTS, MAP, f"{MAP}-wal", f"{MAP}-shm", f"{MAP}.hnsw"):
        (out_dir / name).unlink(missing_ok=True)


def _copy_map(source: Path, target: Path, spec: ModelSpec) -> None:
    with MapStore.open(source, spec=spec, read_only=True) as known:
        known.copy_to(target)
