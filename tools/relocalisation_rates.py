"""How often the geometric test passes at the right and at a wrong place: python -m tools.relocalisation_rates.

Prints, as Markdown, the counts behind the constants of progeo_edge/relocalisation/evidence.py. Wrong places come from a
building with 25 look-alike floors (another floor and another part of it), from the development recordings, and from
rendered streets; right places from rendered streets in other light and from the recordings. Every query meets the
references that retrieval proposes, best first, as on a robot. Bounds are one-sided 95 % (Clopper and Pearson, 1934) as
if all pairs were independent.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import Config
from progeo_edge.encoders import load_encoder
from progeo_edge.sources.images import read_image
from progeo_edge.types import LocalFeatures, Status, Verification
from progeo_edge.verification import FeatureExtractor, Verifier
from tools.relocalisation_trials import record_trials

THRESHOLDS = (1, 60, 100, 150)
"""Inliers; 1 is any passed verification."""
BESIDE_CORRIDOR_FRAMES = 6
BESIDE_TOWER_FRAMES = 3


@dataclass(frozen=True)
class Outcome:
    """Inliers of a query and its best reference of one kind: 0 when the verification was refused."""

    num_inliers: int
    reference: int
    query: int


@dataclass(frozen=True, eq=False)
class Pictures:
    """Described images of one recording."""

    descriptors: NDArray[np.float32]
    features: list[LocalFeatures]


def main() -> None:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"), help="folder with dev and train")
    parser.add_argument("--worlds", type=int, default=8, help="rendered worlds, from seed 100 on")
    arguments = parser.parse_args()
    print(f"| pairs | number | {' | '.join(f'at least {n} inliers' for n in THRESHOLDS)} |")
    print(f"|---|---|{'---|' * len(THRESHOLDS)}")
    tower = arguments.data / "train" / "ie_tower_indoor"
    outcomes, rows = _tower(tower)
    again = _again_in_tower(outcomes, rows)
    _print_rates("wrong, look-alike floors", [o for group in outcomes for o in group], upper=True)
    _print_rates("wrong, corridor", _corridor(arguments.data / "dev" / "vprbench_corridor", right=False), upper=True)
    _print_rates("right, corridor", _corridor(arguments.data / "dev" / "vprbench_corridor", right=True), upper=False)
    streets = list(record_trials(range(100, 100 + arguments.worlds), num_starts=6, num_views=6))
    wrong = [
        Outcome(_inliers(c.verification), c.reference_id, 0)
        for trial in streets
        for view in trial.views
        for c in view.update.candidates
        if c.verification is not None and (not trial.is_own or trial.is_elsewhere(view, c.reference_id))
    ]
    _print_rates("wrong, streets", wrong, upper=True)
    right = [trial.best_inliers_in_place(view) for trial in streets if trial.is_own for view in trial.views]
    _print_rates("right, streets in other light", [Outcome(n, 0, 0) for n in right], upper=False)
    print()
    _print_again("wrong, look-alike floors", *again, upper=True)
    series = [[trial.best_inliers_in_place(view) for view in trial.views] for trial in streets if trial.is_own]
    pairs = [(a, b) for inliers in series for a, b in pairwise(inliers) if a > 0]
    _print_again("right, streets in other light", sum(b > 0 for _, b in pairs), len(pairs), upper=False)


def _tower(folder: Path) -> tuple[list[list[Outcome]], list[dict[str, str]]]:
    """Per query the outcomes of the three most similar frames of other floors and other areas."""
    with (folder / "places.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::2]
    pictures = _describe([folder / row["image"] for row in rows])
    floors, areas = (np.array([row[name] for row in rows]) for name in ("floor", "area"))
    similarities = pictures.descriptors @ pictures.descriptors.T
    groups = []
    for query in range(len(rows)):
        is_wrong = (floors != floors[query]) & (areas != areas[query])
        ranked = np.argsort(np.where(is_wrong, -similarities[query], np.inf))[:3]
        groups.append([_verify(pictures, pictures, query, int(reference)) for reference in ranked])
    return groups, rows


def _again_in_tower(groups: Sequence[Sequence[Outcome]], rows: Sequence[dict[str, str]]) -> tuple[int, int]:
    """Of the passes at a wrong place, those that the next frame of the video repeats near the same reference."""
    repeated = total = 0
    for group, following in pairwise(groups):
        for outcome in group:
            here, then = rows[outcome.query], rows[outcome.query + 1]
            if outcome.num_inliers == 0 or here["video"] != then["video"]:
                continue
            total += 1
            repeated += any(o.num_inliers > 0 and _are_near(rows, o.reference, outcome.reference) for o in following)
    return repeated, total


def _are_near(rows: Sequence[dict[str, str]], a: int, b: int) -> bool:
    gap = abs(int(rows[a]["frame_1fps"]) - int(rows[b]["frame_1fps"]))
    return rows[a]["video"] == rows[b]["video"] and gap <= 2 * BESIDE_TOWER_FRAMES


def _corridor(folder: Path, *, right: bool) -> list[Outcome]:
    """Frames of both traverses have the same numbers; labels reach 2 to 3 frames."""
    queries, database = (_describe(sorted((folder / name).glob("*.jpg"))) for name in ("queries", "database"))
    similarities = queries.descriptors @ database.descriptors.T
    gap = np.abs(np.arange(len(queries.features))[:, None] - np.arange(len(database.features))[None])
    allowed = gap <= BESIDE_TOWER_FRAMES if right else gap > BESIDE_CORRIDOR_FRAMES
    found = []
    for query in range(len(queries.features)):
        ranked = np.argsort(np.where(allowed[query], -similarities[query], np.inf))[:3]
        outcomes = [_verify(queries, database, query, int(reference)) for reference in ranked]
        found += [max(outcomes, key=lambda o: o.num_inliers)] if right else outcomes
    return found


def _describe(paths: Sequence[Path]) -> Pictures:
    encoder, extractor = load_encoder("vlad"), FeatureExtractor(Config().verification)
    images = [read_image(path) for path in paths]
    descriptors = np.concatenate([encoder.encode([image]) for image in images])
    return Pictures(descriptors, [extractor.extract(image) for image in images])


def _verify(queries: Pictures, references: Pictures, query: int, reference: int) -> Outcome:
    config = Config()
    features = queries.features[query]
    if len(features) < config.recognisable.min_keypoints:
        return Outcome(0, reference, query)
    verification = Verifier(config.verification).verify(features, references.features[reference], None, None)
    return Outcome(_inliers(verification), reference, query)


def _inliers(verification: Verification | None) -> int:
    is_passed = verification is not None and verification.status is Status.ACCEPTED
    return verification.num_inliers if verification is not None and is_passed else 0


def _print_rates(title: str, outcomes: Sequence[Outcome], *, upper: bool) -> None:
    counts = [sum(outcome.num_inliers >= n for outcome in outcomes) for n in THRESHOLDS]
    cells = " | ".join(_rate(count, len(outcomes), upper=upper) for count in counts)
    print(f"| {title} | {len(outcomes)} | {cells} |", flush=True)


def _print_again(title: str, count: int, total: int, *, upper: bool) -> None:
    print(f"The next view passes too ({title}): {_rate(count, total, upper=upper)} of {total}", flush=True)


def _rate(count: int, total: int, *, upper: bool) -> str:
    word = "at most" if upper else "at least"
    return f"{count} = {100 * count / max(total, 1):.2f} %, {word} {100 * bound(count, total, upper=upper):.2f} %"


def bound(count: int, total: int, *, upper: bool, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson bound of a share, by bisection."""
    if total == 0:
        return 1.0 if upper else 0.0
    if not upper:
        return 1.0 - bound(total - count, total, upper=True, confidence=confidence)
    low, high = count / total, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if _at_most(count, total, middle) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(count: int, total: int, share: float) -> float:
    """Probability of at most `count` successes in `total` trials."""
    if share >= 1.0:
        return float(count >= total)
    return math.fsum(math.exp(term) for term in _log_terms(count, total, share))


def _log_terms(count: int, total: int, share: float) -> Iterator[float]:
    for k in range(count + 1):
        ways = math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
        yield ways + (k * math.log(share) if k else 0.0) + (total - k) * math.log1p(-share)


if __name__ == "__main__":
    main()
