"""The demo: drive through the rendered world, look for loops, and compare everything with the truth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from progeo_edge.atomic import write_text
from progeo_edge.config import Config, load_config
from progeo_edge.detector import LoopDetector
from progeo_edge.encoders import load_encoder
from progeo_edge.geometry import invert, rotation_angle
from progeo_edge.map_store import MapStore
from progeo_edge.pose_graph import has_solver, optimise, trajectory_error
from progeo_edge.run_folder import finish_run, open_run_folder
from progeo_edge.runner import Observer, RunSummary, run
from progeo_edge.types import LoopClosure, PoseKind, Transform
from progeo_edge.world import StreetWorld, WorldSource, forward_camera, is_same_place, simulate_drive

FRAME_RATE_HZ = 2.5
"""At 3 m/s a keyframe every 1.2 m: the whole drive runs in under a minute on two cores."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found, measured against the truth.

    Attributes:
        num_closures: Closures found.
        num_false: Those between two different places.
        num_revisits: Keyframes that really see an earlier place in the same direction, outside the exclusion window.
        num_recognised: Those of them with a true closure.
        translation_error_m: Median error of the closures' relative poses; NaN without metric ones.
        rotation_error_deg: Likewise.
        odometry_rmse_m: Trajectory error of the odometry alone.
        optimised_rmse_m: Trajectory error with closures; None without the solver (extra `graph`) or metric closures.
    """

    num_closures: int
    num_false: int
    num_revisits: int
    num_recognised: int
    translation_error_m: float
    rotation_error_deg: float
    odometry_rmse_m: float
    optimised_rmse_m: float | None

    @property
    def precision(self) -> float:
        """Share of closures that are true; 1 without closures."""
        return 1.0 - self.num_false / self.num_closures if self.num_closures else 1.0

    @property
    def recall(self) -> float:
        """Share of revisiting keyframes that were recognised."""
        return self.num_recognised / self.num_revisits if self.num_revisits else 1.0


def demo_source(seed: int = 0, max_frames: int | None = None) -> WorldSource:
    """The bundled sequence: a street world with depth and drifting odometry, rendered on the fly."""
    world = StreetWorld(seed)
    return WorldSource(
        world,
        simulate_drive(world, seed, frame_rate_hz=FRAME_RATE_HZ, max_frames=max_frames),
        forward_camera(),
        depth=True,
    )


def run_demo(
    source: WorldSource, out_dir: Path, *, force: bool, observers: tuple[Observer, ...] = ()
) -> tuple[RunSummary, DemoResult]:
    """Run the detector over the world, judge it, and write everything that `progeo-run` writes into `out_dir`."""
    config = load_config(defaults={"budget": {"deadline_ms": 0.0}})
    encoder = load_encoder("vlad")
    with open_run_folder(out_dir, encoder.spec, config, force=force) as map_store:
        detector = LoopDetector(encoder, map_store, source.camera, config, session=source.name)
        summary = run(source, detector, out_dir, observers=observers)
        result = judge(map_store, source.truth, config)
        truth = {**_figures(result), "tiles": _tiles(result), "positions": _aligned_positions(map_store, source.truth)}
        summary = replace(summary, truth=truth)
        write_text(out_dir / "run.json", json.dumps(asdict(summary), indent=2) + "\n")
        detector.close()
        finish_run(out_dir, map_store)
    return summary, result


def judge(map_store: MapStore, truth: Mapping[int, Transform], config: Config) -> DemoResult:
    """Compare a map with true poses (stamp_ns to T_world_base)."""
    poses = {info.id: truth[info.stamp_ns] for info in map_store.infos()}
    closures = map_store.closures()
    is_true = [_is_true(poses[c.query_id], poses[c.reference_id]) for c in closures]
    revisiting = _revisiting_keyframes(map_store, poses, config)
    recognised = {c.query_id for c, good in zip(closures, is_true, strict=True) if good}
    translation_error_m, rotation_error_deg = _pose_errors(closures, poses)
    odometry_rmse_m, optimised_rmse_m = _trajectory_errors(map_store, poses, closures, config)
    return DemoResult(
        num_closures=len(closures),
        num_false=is_true.count(False),
        num_revisits=len(revisiting),
        num_recognised=len(revisiting & recognised),
        translation_error_m=translation_error_m,
        rotation_error_deg=rotation_error_deg,
        odometry_rmse_m=odometry_rmse_m,
        optimised_rmse_m=optimised_rmse_m,
    )


def _is_true(T_world_query: Transform, T_world_reference: Transform) -> bool:
    """Whether the two keyframes can see one place: as near as the detector itself allows, with common view."""
    return is_same_place(T_world_query, T_world_reference, max_distance_m=10.0, max_angle_deg=60.0)


def _revisiting_keyframes(map_store: MapStore, poses: Mapping[int, Transform], config: Config) -> set[int]:
    """Keyframes for which the map held a true answer: an older one, outside the exclusion window, of the same view."""
    infos = map_store.infos()
    travelled_m = _travelled_m([poses[info.id] for info in infos])
    result = set()
    for row, query in enumerate(infos):
        for earlier, reference in enumerate(infos[:row]):
            old = query.stamp_ns - reference.stamp_ns >= config.exclusion.time_s * 1e9
            far = travelled_m[row] - travelled_m[earlier] >= config.exclusion.distance_m
            # Half the radius: at its edge two views may share too little to be one place for anybody.
            if (
                old
                and far
                and is_same_place(poses[query.id], poses[reference.id], max_distance_m=4.0, max_angle_deg=25.0)
            ):
                result.add(query.id)
                break
    return result


def _travelled_m(poses: Sequence[Transform]) -> list[float]:
    positions = np.array([pose[:3, 3] for pose in poses]).reshape(-1, 3)
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    return [0.0, *np.cumsum(steps).tolist()]


def _pose_errors(closures: Sequence[LoopClosure], poses: Mapping[int, Transform]) -> tuple[float, float]:
    """Median errors of metric closures, in metres and degrees."""
    errors = []
    for closure in closures:
        verification = closure.verification
        if verification is None or verification.pose_kind is not PoseKind.METRIC:
            continue
        assert verification.T_reference_query is not None
        T_true = invert(poses[closure.reference_id]) @ poses[closure.query_id]
        T_error = invert(T_true) @ verification.T_reference_query
        errors.append((np.linalg.norm(T_error[:3, 3]), np.degrees(rotation_angle(T_error[:3, :3]))))
    if not errors:
        return float("nan"), float("nan")
    translation_m, rotation_deg = np.median(np.array(errors), axis=0)
    return float(translation_m), float(rotation_deg)


def _trajectory_errors(
    map_store: MapStore, truth: Mapping[int, Transform], closures: Sequence[LoopClosure], config: Config
) -> tuple[float, float | None]:
    odometry = {info.id: info.T_odom_base for info in map_store.infos() if info.T_odom_base is not None}
    before = trajectory_error(odometry, truth).rmse_m
    if not has_solver() or not any(c.verification and c.verification.pose_kind is PoseKind.METRIC for c in closures):
        return before, None
    return before, trajectory_error(optimise(odometry, closures, config.odometry), truth).rmse_m


def _aligned_positions(map_store: MapStore, truth: Mapping[int, Transform]) -> list[list[float]]:
    """True positions in the odometry frame, so that both start at the same pose."""
    infos = map_store.infos()
    if not infos or infos[0].T_odom_base is None:
        return []
    T_odom_world = infos[0].T_odom_base @ invert(truth[infos[0].stamp_ns])
    return [(T_odom_world @ truth[info.stamp_ns])[:2, 3].tolist() for info in infos]


def _figures(result: DemoResult) -> dict[str, float | None]:
    """For JSON, which has no NaN."""
    return {name: None if value is None or np.isnan(value) else value for name, value in asdict(result).items()}


def _tiles(result: DemoResult) -> dict[str, str]:
    tiles = {
        "precision against the truth": f"{100 * result.precision:.1f} %",
        f"of {result.num_revisits} revisiting keyframes recognised": f"{100 * result.recall:.0f} %",
    }
    if result.optimised_rmse_m is not None:
        tiles["trajectory error before and after"] = f"{result.odometry_rmse_m:.2f} → {result.optimised_rmse_m:.2f} m"
    return tiles
