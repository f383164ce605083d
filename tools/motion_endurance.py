"""Cost of motion over a long run: python -m tools.motion_endurance [--keyframes 100000] [--method hmm].

A robot drives laps of one street network for hours, ten keyframes a second, with odometry that drifts. Descriptors are
synthetic: one random unit vector per place, and noise per keyframe. Candidates are looked up by place in place of a
search, because exact search is linear until HNSW takes over: every lap's keyframe at the place, and wrong ones drawn at
random. Printed are the milliseconds of processor time that motion takes per keyframe, scoring, the rule and remembering
together; how often the best scored candidate is right when there is a right one; and the memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import Config, load_config
from progeo_edge.geometry import make_transform, rotation_exp
from progeo_edge.index import PlaceIndex
from progeo_edge.motion import Motion, PlaceGraph
from progeo_edge.types import Candidate, Keyframe, LoopClosure

DIMENSION = 64
PLACES_PER_LAP = 1000
STEP_M = 0.5
PERIOD_NS = 100_000_000
NOISE = 0.5
RECENT = 300
"""Keyframes that are not searchable yet: 30 s."""
WRONG = 8
SAME_PLACE = 3
"""Places that the best scored candidate may be off."""
BLOCK = 10_000


@dataclass(slots=True)
class Drive:
    """Laps of a ring of places, with a random change of direction now and then."""

    seed: int
    keyframes: int
    places: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        places = rng.standard_normal((PLACES_PER_LAP, DIMENSION)).astype(np.float32)
        self.places = places / np.linalg.norm(places, axis=1, keepdims=True)

    def __iter__(self) -> Iterator[tuple[int, Keyframe]]:
        """Place and keyframe of each step."""
        rng = np.random.default_rng([self.seed, 1])
        place, direction = 0, 1
        for number in range(self.keyframes):
            if rng.random() < 1 / (3 * PLACES_PER_LAP):
                direction = -direction
            place = (place + direction) % PLACES_PER_LAP
            yield (
                place,
                Keyframe(number, 0, number * PERIOD_NS, self._seen(place, rng), T_odom_base=_pose(place, number, rng)),
            )

    def _seen(self, place: int, rng: np.random.Generator) -> NDArray[np.float32]:
        noisy = self.places[place] + NOISE * rng.standard_normal(DIMENSION).astype(np.float32) / DIMENSION**0.5
        return np.asarray(noisy / np.linalg.norm(noisy), np.float32)


def _pose(place: int, number: int, rng: np.random.Generator) -> NDArray[np.float64]:
    angle = 2 * np.pi * place / PLACES_PER_LAP
    radius_m = STEP_M * PLACES_PER_LAP / (2 * np.pi)
    drift_m = 1e-4 * number + 0.05 * rng.standard_normal(2)
    xy_m = radius_m * np.array([np.cos(angle), np.sin(angle)]) + drift_m
    return make_transform(rotation_exp(np.array([0.0, 0.0, angle + np.pi / 2])), [*xy_m, 0.0])


def main() -> None:
    """Drive, and print one line per block of keyframes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keyframes", type=int, default=100_000)
    parser.add_argument("--method", choices=("hmm", "sequence", "k_of_n"), default="hmm")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    config = load_config(overrides=(f"motion.method={arguments.method}",))
    print("| keyframes | p50 ms | p99 ms | max ms | right first | resident MB |")
    print("|---|---|---|---|---|---|")
    took_ms: list[float] = []
    right: list[bool] = []
    for number, (elapsed_ms, is_right) in enumerate(_run(Drive(arguments.seed, arguments.keyframes), config), start=1):
        took_ms.append(elapsed_ms)
        right += [] if is_right is None else [is_right]
        if number % BLOCK == 0 or number == arguments.keyframes:
            print(_line(number, took_ms, right), flush=True)
            took_ms, right = [], []


def _run(drive: Drive, config: Config) -> Iterator[tuple[float, bool | None]]:
    """Milliseconds per keyframe, and whether the best scored candidate shows its place (None without a right one)."""
    index = PlaceIndex(DIMENSION, config.search.model_copy(update={"hnsw_above": 10 * drive.keyframes}))
    graph = PlaceGraph()
    motion = Motion(config, index, graph)
    rng = np.random.default_rng([drive.seed, 2])
    waiting: list[tuple[int, Keyframe]] = []
    seen_at: defaultdict[int, list[int]] = defaultdict(list)
    place_of: list[int] = []
    for place, query in drive:
        if len(waiting) == RECENT:
            old_place, old = waiting.pop(0)
            index.add([old.id], old.descriptor[None])
            seen_at[old_place].append(old.id)
        candidates = _candidates(query, seen_at[place], index, rng)
        started = time.thread_time()
        scores = motion.scores(query, candidates)
        supported = [c.reference_id for c in candidates if motion.passes(c.reference_id)]
        closures = [LoopClosure(query.id, id, 0.9) for id in supported if place_of[id] == place][:1]
        graph.add_keyframe(query.id, query.session, query.T_odom_base)
        for closure in closures:
            graph.add_closure(closure.query_id, closure.reference_id)
        motion.remember(query, candidates)
        elapsed_ms = 1e3 * (time.thread_time() - started)
        is_right = None
        if scores and seen_at[place]:
            best = max(scores, key=lambda id: scores[id])
            is_right = _steps_apart(place_of[best], place) <= SAME_PLACE
        place_of.append(place)
        waiting.append((place, query))
        yield elapsed_ms, is_right


def _candidates(query: Keyframe, at_place: list[int], index: PlaceIndex, rng: np.random.Generator) -> list[Candidate]:
    """As a search would answer: earlier keyframes of the place, and some of elsewhere, best first."""
    if len(index) == 0:
        return []
    ids = sorted({*at_place[-12:], *rng.integers(len(index), size=WRONG).tolist()})
    known, descriptors = index.descriptors(ids)
    similarities = descriptors @ query.descriptor
    found = [Candidate(ids[i], float(s)) for i, s in zip(known.tolist(), similarities, strict=True)]
    return sorted(found, key=lambda candidate: -candidate.similarity)


def _steps_apart(a: int, b: int) -> int:
    return min((a - b) % PLACES_PER_LAP, (b - a) % PLACES_PER_LAP)


def _line(number: int, took_ms: list[float], right: list[bool]) -> str:
    p50, p99, most = np.percentile(took_ms, [50, 99, 100])
    resident_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    share = f"{100 * np.mean(right):.1f} %" if right else "-"
    return f"| {number} | {p50:.1f} | {p99:.1f} | {most:.1f} | {share} | {resident_mb:.0f} |"


if __name__ == "__main__":
    main()
