"""The whole detector over rendered worlds that nothing was chosen on: closures, false ones, and what maps gain.

    python -m tools.worlds_table OUT [--worlds 20] [--first-seed 200] [--corridors 4] [--encoder vlad] [--jobs 2]

Street worlds are driven once, with depth and drifting odometry; corridors that repeat every 4 m are driven once too,
and hold nothing to find. Variants: *fixed cosine* (a constant, no motion, geometry), *k of n* (3 of the last 5
keyframes, geometry) and *full* (calibration and motion, geometry, consistency: the conservative profile as shipped). A
closure is false when the two views are more than 10 m or 60 degrees apart; a revisit has an earlier view within 4 m and
25 degrees. What OUT holds from an earlier call is kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from progeo_edge.atomic import write_text
from progeo_edge.config import load_config
from progeo_edge.demo import judge
from progeo_edge.detector import LoopDetector
from progeo_edge.encoders import load_encoder
from progeo_edge.evaluation.curves import precision_recall
from progeo_edge.map_store import MapStore
from progeo_edge.types import Candidate, Transform
from progeo_edge.world import (
    StreetWorld,
    WorldSource,
    forward_camera,
    is_same_place,
    repetitive_corridor,
    simulate_drive,
)
from tools.promise_table import add_world_arguments, chosen_worlds

VARIANTS: dict[str, tuple[str, ...]] = {
    "fixed cosine": ("calibration.enabled=false", "motion.method=none", "gate.min_similarity=0.6"),
    "k of n": ("calibration.enabled=false", "motion.method=k_of_n"),
    "full": (),
}
RIGHT = {"max_distance_m": 10.0, "max_angle_deg": 60.0}
FALSE_BEYOND_M = 20.0


def main() -> None:
    """Drive what was not driven yet, print one table per variant and one of trajectories."""
    arguments = _parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    worlds = chosen_worlds(arguments)
    jobs = [
        (arguments.out, arguments.encoder, kind, seed, variant)
        for kind, seed in worlds
        for variant in arguments.variants
    ]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(_drive, jobs))
    _print_tables([(kind, variant, result) for (*_, kind, _, variant), result in zip(jobs, results, strict=True)])


def _drive(job: tuple[Path, str, str, int, str]) -> dict[str, Any]:
    out, encoder_name, kind, seed, variant = job
    path = out / f"{Path(encoder_name).name}-{kind}-{seed}-{variant.replace(' ', '_')}.json"
    if path.exists():
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return loaded
    cv2.setNumThreads(1)
    config = load_config(defaults={"budget": {"deadline_ms": 0.0}}, overrides=VARIANTS[variant])
    encoder, source = load_encoder(encoder_name), _source(kind, seed)
    rows: list[tuple[float, bool]] = []
    passed_before_geometry = 0
    with MapStore.create(None, encoder.spec) as store:
        detector = LoopDetector(encoder, store, source.camera, config)
        poses: dict[int, Transform] = {}
        for frame in source:
            update = detector.process(frame)
            if update.keyframe is None:
                continue
            truth = poses[update.keyframe.id] = source.truth[frame.stamp_ns]
            if update.candidates:
                best = max(update.candidates, key=_score)
                rows.append((_score(best), is_same_place(poses[best.reference_id], truth, **RIGHT)))
            passed_before_geometry += any(
                c.supported and np.linalg.norm(poses[c.reference_id][:3, 3] - truth[:3, 3]) > FALSE_BEYOND_M
                for c in update.candidates
            )
        found = judge(store, source.truth, config)
        stamps_ns = [info.stamp_ns for info in store.infos()]
        result = {
            **{k: None if isinstance(v, float) and np.isnan(v) else v for k, v in asdict(found).items()},
            "seed": seed,
            "keyframes": len(stamps_ns),
            "hours": (stamps_ns[-1] - stamps_ns[0]) / 3.6e12,
            "false_before_geometry": passed_before_geometry,
            "scores": [score for score, _ in rows],
            "right": [right for _, right in rows],
        }
    write_text(path, json.dumps(result))
    print(f"{kind} {seed} {variant}: {found.num_closures} closures, {found.num_false} false", flush=True)
    return result


def _score(candidate: Candidate) -> float:
    """By which variants rank: the motion score where there is one, else the cosine."""
    return candidate.similarity if candidate.motion_score is None else candidate.motion_score


def _source(kind: str, seed: int) -> WorldSource:
    if kind == "street":
        world = StreetWorld(seed)
        steps = simulate_drive(world, seed, frame_rate_hz=2.5)
        return WorldSource(world, steps, forward_camera(320, 240), depth=True)
    world_of_doors = repetitive_corridor(seed, 160.0)
    steps = simulate_drive(world_of_doors, seed, frame_rate_hz=2.0, speed_m_per_s=1.0)
    return WorldSource(world_of_doors, steps, forward_camera(320, 240), depth=True)


def _print_tables(results: Sequence[tuple[str, str, dict[str, Any]]]) -> None:
    print(
        "\n| worlds | variant | hours | false before geometry, per hour | closures | false | revisits | recognised "
        "[95 % over worlds] | R@100P of the score |\n|---|---|---|---|---|---|---|---|---|"
    )
    for kind in ("street", "corridor"):
        for variant in VARIANTS:
            chosen = [result for k, v, result in results if (k, v) == (kind, variant)]
            if chosen:
                print(_row(kind, variant, chosen))
    full = [result for kind, variant, result in results if (kind, variant) == ("street", "full")]
    if full:
        _print_trajectories(full)


def _row(kind: str, variant: str, results: Sequence[dict[str, Any]]) -> str:
    hours = sum(r["hours"] for r in results)
    passed = sum(r["false_before_geometry"] for r in results)
    revisits = np.array([r["num_revisits"] for r in results])
    recognised = np.array([r["num_recognised"] for r in results])
    at_100 = [_recall_at_100(r) for r in results if r["num_revisits"]]
    return (
        f"| {len(results)} {kind} | {variant} | {hours:.2f} | {passed / hours:.1f} | "
        f"{sum(r['num_closures'] for r in results)} | {sum(r['num_false'] for r in results)} | {revisits.sum()} | "
        f"{_share(recognised, revisits)} | {f'{100 * np.mean(at_100):.0f} %' if at_100 else 'none'} |"
    )


def _share(part: np.ndarray, whole: np.ndarray) -> str:
    """Pooled share with a bootstrap over worlds."""
    if not whole.sum():
        return "none"
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(whole), (2000, len(whole)))
    low, high = np.percentile(100 * part[rows].sum(1) / whole[rows].sum(1), [2.5, 97.5])
    return f"{100 * part.sum() / whole.sum():.1f} % [{low:.0f}, {high:.0f}]"


def _recall_at_100(result: dict[str, Any]) -> float:
    """Of the revisits and of what was right beyond them (a view 4 to 10 m away may be found or not)."""
    verdicts = np.where(np.array(result["right"]), 1, -1).astype(np.int8)
    curve = precision_recall(
        np.array(result["scores"]), verdicts, max(result["num_revisits"], int((verdicts > 0).sum()))
    )
    return curve.recall_at_precision(1.0)[0]


def _print_trajectories(results: Sequence[dict[str, Any]]) -> None:
    before = np.array([r["odometry_rmse_m"] for r in results])
    after = np.array([np.nan if r["optimised_rmse_m"] is None else r["optimised_rmse_m"] for r in results])
    print(
        f"\nTrajectory error over {len(results)} street worlds, full: median {np.median(before):.2f} m by odometry, "
        f"{np.nanmedian(after):.2f} m with closures; smaller in {(after < before).sum()}, larger in "
        f"{(after > before).sum()}, worst ratio {np.nanmax(after / before):.2f}"
    )


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_world_arguments(parser, "folder for what each drive gave, kept for the next call")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
