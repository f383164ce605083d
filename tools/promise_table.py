"""Does the gate keep its promise? False closures before geometry, promised and counted, over rendered worlds.

    python -m tools.promise_table OUT [--encoder vlad] [--worlds 20] [--corridors 4] [--first-seed 200]

Every street world is driven twice (two sessions with other wander, drift and light noise), every corridor once. Images
are described once and kept in OUT. The detector's own search, calibration and motion then go through them online: each
keyframe is judged by the gate that was in force before it. False is a reference more than 20 m away by the true poses,
of any session; recall counts keyframes that have a reference within 4 m and 25 degrees.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from progeo_edge.bundle import ModelSpec
from progeo_edge.config import Config, load_config
from progeo_edge.encoders import load_encoder
from progeo_edge.evaluation.counts import poisson_interval
from progeo_edge.map_replay import ReplayedSession
from progeo_edge.map_store import MapStore
from progeo_edge.types import Candidate, Keyframe, Transform
from progeo_edge.world import (
    StreetWorld,
    WorldSource,
    forward_camera,
    is_same_place,
    repetitive_corridor,
    simulate_drive,
)

RATES_PER_HOUR = (1.0, 10.0, 60.0, 300.0, 900.0)
FALSE_BEYOND_M = 20.0
SAME_WITHIN_M, SAME_WITHIN_DEG = 4.0, 25.0
SECOND_DRIVE = 1000


@dataclass(frozen=True)
class Drive:
    """One described drive: (N, D) descriptors, (N, 4, 4) poses by odometry and in truth, (N,) stamps."""

    descriptors: np.ndarray
    odometry: np.ndarray
    truth: np.ndarray
    stamps_ns: np.ndarray


@dataclass
class Count:
    """What one world showed at one promised rate."""

    promised: float = 0.0
    passed: int = 0
    revisits: int = 0
    recognised: int = 0
    hours: float = 0.0

    def add(self, other: Count) -> None:
        """Pool."""
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def main() -> None:
    """Describe what is not described yet, judge every world, print the table."""
    arguments = _parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    worlds = chosen_worlds(arguments)
    jobs = [(arguments.out, arguments.encoder, kind, seed, tuple(arguments.set)) for kind, seed in worlds]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(_judge_world, jobs))
    for kind in ("street", "corridor"):
        _print_table(kind, [r for (k, _), r in zip(worlds, results, strict=True) if k == kind])


def _judge_world(job: tuple[Path, str, str, int, tuple[str, ...]]) -> dict[float, Count]:
    out, encoder, kind, seed, settings = job
    drives = [_described(out, encoder, kind, seed, number) for number in range(2 if kind == "street" else 1)]
    spec = load_encoder(encoder).spec
    counts = {}
    for rate in RATES_PER_HOUR:
        overrides = [f"calibration.max_false_per_hour={rate}", "search.rerank=false", *settings]
        counts[rate] = _count(drives, spec, load_config(overrides=overrides))
    print(kind, seed, {rate: (round(c.promised, 2), c.passed) for rate, c in counts.items()}, flush=True)
    return counts


def _count(drives: Sequence[Drive], spec: ModelSpec, config: Config) -> Count:
    count, map_store = Count(), None
    truth: list[Transform] = []
    for drive in drives:
        session = ReplayedSession(spec, config, map_store)
        map_store = session.map_store
        for keyframe, T_world_base in _keyframes(drive, map_store):
            candidates = session.add(keyframe)
            if session.gate is not None:
                _judge(count, candidates, T_world_base, truth, config, session)
            truth.append(T_world_base)
    return count


def _keyframes(drive: Drive, map_store: MapStore) -> Iterator[tuple[Keyframe, Transform]]:
    for row in range(len(drive.descriptors)):
        keyframe = Keyframe(
            id=map_store.next_keyframe_id(),
            session=0,
            stamp_ns=int(drive.stamps_ns[row]),
            descriptor=drive.descriptors[row],
            T_odom_base=drive.odometry[row],
        )
        yield keyframe, drive.truth[row]


def _judge(
    count: Count,
    candidates: Sequence[Candidate],
    T_world_query: Transform,
    truth: Sequence[Transform],
    config: Config,
    session: ReplayedSession,
) -> None:
    calibration = session.calibrator.calibration("cam0")
    assert calibration is not None
    count.hours += 1.0 / calibration.queries_per_hour
    count.promised += config.calibration.max_false_per_hour / calibration.queries_per_hour
    supported = [truth[c.reference_id] for c in candidates if c.supported]
    count.passed += any(np.linalg.norm(T[:3, 3] - T_world_query[:3, 3]) > FALSE_BEYOND_M for T in supported)
    reach = {"max_distance_m": SAME_WITHIN_M, "max_angle_deg": SAME_WITHIN_DEG}
    if any(is_same_place(truth[reference], T_world_query, **reach) for reference, _ in session.ranked):
        count.revisits += 1
        count.recognised += any(is_same_place(T, T_world_query, **reach) for T in supported)


def _described(out: Path, encoder: str, kind: str, seed: int, number: int) -> Drive:
    path = out / f"{Path(encoder).name}-{kind}-{seed}-{number}.npz"
    if not path.exists():
        _describe(path, encoder, kind, seed, number)
    with np.load(path, allow_pickle=False) as file:
        return Drive(*(file[name] for name in ("descriptors", "odometry", "truth", "stamps_ns")))


def _describe(path: Path, encoder: str, kind: str, seed: int, number: int) -> None:
    world = StreetWorld(seed) if kind == "street" else repetitive_corridor(seed, 240.0)
    speed, rate_hz = (3.0, 2.5) if kind == "street" else (1.0, 2.0)
    steps = simulate_drive(world, seed + SECOND_DRIVE * number, frame_rate_hz=rate_hz, speed_m_per_s=speed)
    model = load_encoder(encoder)
    descriptors = [model.encode([f.image])[0] for f in WorldSource(world, steps, forward_camera(320, 240))]
    model.close()
    np.savez(
        path,
        descriptors=np.array(descriptors, np.float32),
        odometry=np.array([step.T_odom_base for step in steps]),
        truth=np.array([step.T_world_base for step in steps]),
        stamps_ns=np.array([step.stamp_ns for step in steps]),
    )


def _print_table(kind: str, results: Sequence[dict[float, Count]]) -> None:
    if not results:
        return
    print(f"\n{len(results)} worlds of kind {kind}\n")
    print("| promised per hour | hours judged | promised in all | passed | ratio [95 %] | recall |")
    print("|---|---|---|---|---|---|")
    for rate in RATES_PER_HOUR:
        total = Count()
        for result in results:
            total.add(result[rate])
        low, high = poisson_interval(total.passed)
        ratio = "none" if not total.promised else f"{total.passed / total.promised:.2f}"
        bounds = "" if not total.promised else f" [{low / total.promised:.2f}, {high / total.promised:.2f}]"
        recall = f"{100 * total.recognised / total.revisits:.0f} % of {total.revisits}" if total.revisits else "none"
        print(f"| {rate:g} | {total.hours:.2f} | {total.promised:.1f} | {total.passed} | {ratio}{bounds} | {recall} |")


def add_world_arguments(parser: argparse.ArgumentParser, out_help: str) -> None:
    """Which worlds, and by which encoder: what every table over rendered worlds asks."""
    parser.add_argument("out", type=Path, help=out_help)
    parser.add_argument("--encoder", default="vlad", help="vlad, or a bundle")
    parser.add_argument("--worlds", type=int, default=20, help="street worlds")
    parser.add_argument("--corridors", type=int, default=4, help="repetitive corridors")
    parser.add_argument("--first-seed", type=int, default=200, help="of the street worlds")
    parser.add_argument("--jobs", type=int, default=2, help="processes")


def chosen_worlds(arguments: argparse.Namespace) -> list[tuple[str, int]]:
    """Kind and seed of every world."""
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.worlds)
    return [("street", seed) for seed in seeds] + [("corridor", seed) for seed in range(arguments.corridors)]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_world_arguments(parser, "folder for the described drives, kept for the next call")
    parser.add_argument("--set", action="append", default=[], help="one setting, as section.name=value")
    return parser.parse_args()


if __name__ == "__main__":
    main()
