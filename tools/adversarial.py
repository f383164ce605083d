"""Drive a robot where it could be deceived, and print what it said.

    python -m tools.adversarial            # everything, half an hour
    python -m tools.adversarial corridor   # the scenarios whose names contain this

A closure is false when its two keyframes are more than 8 m or a floor apart, or when its pose is wrong: by a metre, by
10 degrees, or by 45 degrees in the direction of a baseline of more than a metre.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from progeo_edge.config import Config, load_config
from progeo_edge.detector import LoopDetector
from progeo_edge.encoders import Encoder, load_encoder
from progeo_edge.geometry import invert, rotation_angle
from progeo_edge.map_store import MapStore
from progeo_edge.types import LoopClosure, PoseKind, Transform
from tools.adversarial_scenes import Scenario, camera, scenarios


@dataclass
class Result:
    """What became of a scenario."""

    frames: int = 0
    keyframes: int = 0
    closures: int = 0
    false: int = 0
    statuses: Counter[str] = field(default_factory=Counter)

    def is_as_wanted(self, scenario: Scenario) -> bool:
        """No false closure, and the statuses that say why."""
        shares = scenario.shares.items()
        return self.false == 0 and all(self.statuses[status.value] >= share * self.frames for status, share in shares)


def go_through(scenario: Scenario, encoder: Encoder, config: Config) -> Result:
    """Run a detector over a scenario and judge its closures by the truth."""
    result, truth = Result(), dict[int, Transform]()
    with MapStore.create(None, encoder.spec) as store:
        detector = LoopDetector(encoder, store, camera(), config)
        for frame, T_world_base in scenario.views():
            update = detector.process(frame)
            result.frames += 1
            result.statuses[update.status.value] += 1
            if update.keyframe is None:
                continue
            result.keyframes += 1
            truth[update.keyframe.id] = T_world_base
            for closure in (*update.released, *update.closures):
                result.closures += 1
                result.false += is_false(closure, invert(truth[closure.reference_id]) @ truth[closure.query_id])
    return result


def is_false(closure: LoopClosure, T_true: Transform) -> bool:
    """Whether a closure is wrong, given the true T_reference_query."""
    true_m = T_true[:3, 3]
    distance_m = float(np.linalg.norm(true_m))
    if distance_m > 8.0 or abs(true_m[2]) > 1.5:
        return True
    v = closure.verification
    if v is None or v.T_reference_query is None:
        return False
    T = v.T_reference_query
    if np.degrees(rotation_angle(T[:3, :3].T @ T_true[:3, :3])) > 10.0:
        return True
    if v.pose_kind is PoseKind.METRIC:
        return float(np.linalg.norm(T[:3, 3] - true_m)) > 1.0
    if v.pose_kind is PoseKind.UP_TO_SCALE and distance_m > 1.0:
        cosine = float(T[:3, 3] @ true_m) / (distance_m * float(np.linalg.norm(T[:3, 3])))
        return cosine < float(np.cos(np.radians(45.0)))
    return False


def main(wanted: str = "", scale: float = 1.0) -> int:
    """Print the table; returns the number of scenarios that failed though they need not."""
    config = load_config(overrides=("budget.deadline_ms=0",))
    encoder = load_encoder("vlad")
    print(
        "| scenario | frames | keyframes | closures | false | as wanted | statuses |\n|---|---:|---:|---:|---:|---|---|"
    )
    failed = 0
    for scenario in scenarios(scale):
        if wanted not in scenario.name:
            continue
        result = go_through(scenario, encoder, config)
        as_wanted = result.is_as_wanted(scenario)
        failed += scenario.possible and not as_wanted
        verdict = ("yes" if as_wanted else "NO") if scenario.possible else "cannot be told"
        statuses = ", ".join(f"{status} {count}" for status, count in result.statuses.most_common())
        numbers = (result.frames, result.keyframes, result.closures, result.false)
        print(f"| {scenario.name} | {' | '.join(map(str, numbers))} | {verdict} | {statuses} |", flush=True)
    return failed


if __name__ == "__main__":
    raise SystemExit(main("".join(sys.argv[1:2])))
