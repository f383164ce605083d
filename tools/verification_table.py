"""How long the verification of three candidates takes, and what it accepts, beside plain OpenCV: one thread, one run.

    python -m tools.verification_table --dev ../shared/data/dev --json verification.json

Plain OpenCV is what a tutorial shows: ORB as it comes (500 keypoints), and ORB with as many as ours,
`BFMatcher.knnMatch` and Lowe's ratio, `findEssentialMat` by RANSAC and `recoverPose` (without intrinsics
`findFundamentalMat`), accepted from 30 inliers on. Every query has its three most similar earlier frames as
candidates, whose features are those of an earlier visit and cost nothing, as in a map. The ways take turns, query by
query.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import cv2
import numpy as np

from progeo_edge.atomic import write_text
from progeo_edge.config import VerificationConfig
from progeo_edge.geometry import FloatArray
from progeo_edge.types import LocalFeatures, Status
from progeo_edge.verification import FeatureExtractor, Verifier, hamming
from progeo_edge.verification.matching import match_features
from tools.verification_recordings import Recording, candidates_of, hall, rendered_street, street_walk

CANDIDATES = 3
INLIERS = 30
CONFIG = VerificationConfig()
PERCENTILES = (50, 90, 99)
PROCESSOR_TIME = False

Plain: TypeAlias = tuple[Sequence[cv2.KeyPoint], Any]
"""What OpenCV returns of one image: keypoints, and descriptors or None."""

Result = TypeVar("Result")


@dataclass
class Method:
    """One way to verify, and what it showed.

    Attributes:
        name: In the table.
        describe: Frame number to features.
        judge: Features of query and reference to acceptance; adds milliseconds to `spent_ms`.
        spent_ms: By step, one value per query, candidates added up.
        accepted: By label, one value per candidate.
    """

    name: str
    describe: Callable[[int], Any]
    judge: Callable[[Any, Any, dict[str, float]], bool]
    spent_ms: dict[str, list[float]] = field(default_factory=dict)
    accepted: dict[int, list[bool]] = field(default_factory=lambda: {0: [], 1: [], -1: []})


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dev", type=Path, help="folder with the development sets; without it the rendered street alone"
    )
    parser.add_argument("--queries", type=int, default=60, help="per recording")
    parser.add_argument("--processor-time", action="store_true", help="of this thread; for a machine that is not quiet")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    global PROCESSOR_TIME
    PROCESSOR_TIME = arguments.processor_time
    cv2.setNumThreads(1)
    hamming.search()
    recordings = [rendered_street()]
    if arguments.dev is not None:
        recordings += [street_walk(arguments.dev), hall(arguments.dev)]
    results = {recording.name: compare(recording, arguments.queries) for recording in recordings}
    document = {"machine": machine(), "matching": matchers(recordings[0]), "recordings": results}
    print(markdown(document))
    if arguments.json is not None:
        write_text(arguments.json, json.dumps(document, indent=2) + "\n")


def compare(recording: Recording, num_queries: int) -> dict[str, Any]:
    """All methods on the same queries and candidates, in turns."""
    chosen = candidates_of(recording, num_queries, CANDIDATES)
    methods = [ours(recording), plain(recording, 500), plain(recording, CONFIG.max_features)]
    stored = [{r: method.describe(r) for _, near in chosen for r in near} for method in methods]
    for turn, (query, near) in enumerate(chosen):
        order = np.roll(np.arange(len(methods)), turn)
        for method, known in ((methods[i], stored[i]) for i in order):
            spent: dict[str, float] = {"match": 0.0, "geometry": 0.0}
            features = timed(partial(method.describe, query), spent, "features")
            for reference in near:
                is_accepted = method.judge(features, known[reference], spent)
                method.accepted[int(recording.labels[query, reference])].append(is_accepted)
            spent["features + match"] = spent["features"] + spent["match"]
            spent["all"] = spent["features + match"] + spent["geometry"]
            for step, milliseconds in spent.items():
                method.spent_ms.setdefault(step, []).append(milliseconds)
    return {method.name: summary(method) for method in methods}


def ours(recording: Recording) -> Method:
    """This project's verification, as the detector calls it."""
    extractor, verifier, camera = FeatureExtractor(CONFIG), Verifier(CONFIG), recording.camera

    def describe(number: int) -> LocalFeatures:
        depth_m = None if recording.depth_m is None else recording.depth_m[number]
        return extractor.extract(recording.images[number], camera=camera, depth_m=depth_m)

    def judge(query: LocalFeatures, reference: LocalFeatures, spent: dict[str, float]) -> bool:
        alone: dict[str, float] = {}
        timed(lambda: match_features(query, reference, ratio=CONFIG.ratio, cross_check=True), alone, "match")
        verification = timed(lambda: verifier.verify(query, reference, camera, camera), alone, "verify")
        spent["match"] += alone["match"]
        spent["geometry"] += max(alone["verify"] - alone["match"], 0.0)
        return verification.status is Status.ACCEPTED

    return Method("progeo-edge", describe, judge)


def plain(recording: Recording, num_features: int) -> Method:
    """What a tutorial shows."""
    orb, matcher = cv2.ORB.create(nfeatures=num_features), cv2.BFMatcher(cv2.NORM_HAMMING)
    K = None if recording.camera is None else recording.camera.K

    def describe(number: int) -> Plain:
        return orb.detectAndCompute(cv2.cvtColor(recording.images[number], cv2.COLOR_BGR2GRAY), None)

    def match(query: Plain, reference: Plain) -> tuple[FloatArray, FloatArray]:
        if query[1] is None or reference[1] is None or len(reference[1]) < 2:
            return np.zeros((0, 2)), np.zeros((0, 2))
        pairs = [
            p for p in matcher.knnMatch(query[1], reference[1], k=2) if p[0].distance < CONFIG.ratio * p[1].distance
        ]
        return (
            np.array([query[0][p[0].queryIdx].pt for p in pairs]).reshape(-1, 2),
            np.array([reference[0][p[0].trainIdx].pt for p in pairs]).reshape(-1, 2),
        )

    def inliers(q: FloatArray, r: FloatArray) -> int:
        if len(q) < 8:
            return 0
        if K is None:
            mask = cv2.findFundamentalMat(q, r, cv2.FM_RANSAC, CONFIG.max_error_px, CONFIG.confidence)[1]
            return 0 if mask is None else int(mask.sum())
        E, mask = cv2.findEssentialMat(q, r, K, cv2.RANSAC, CONFIG.confidence, CONFIG.max_error_px)
        return 0 if E is None or E.shape != (3, 3) else int(cv2.recoverPose(E, q, r, K, mask=mask)[0])

    def judge(query: Plain, reference: Plain, spent: dict[str, float]) -> bool:
        alone: dict[str, float] = {}
        q, r = timed(lambda: match(query, reference), alone, "match")
        count = timed(lambda: inliers(q, r), alone, "geometry")
        for step, milliseconds in alone.items():
            spent[step] += milliseconds
        return bool(count >= INLIERS)

    return Method(f"plain OpenCV, {num_features} keypoints", describe, judge)


def timed(act: Callable[[], Result], spent_ms: dict[str, float], step: str) -> Result:
    """Result of an act; its milliseconds are noted."""
    clock_ns = time.thread_time_ns if PROCESSOR_TIME else time.perf_counter_ns
    start_ns = clock_ns()
    result = act()
    spent_ms[step] = (clock_ns() - start_ns) * 1e-6
    return result


def summary(method: Method) -> dict[str, Any]:
    """Percentiles and least of the milliseconds, and the shares accepted."""
    return {
        "ms": {step: spread(values) for step, values in method.spent_ms.items()},
        "true": len(method.accepted[1]),
        "true_accepted": int(np.sum(method.accepted[1])),
        "different": len(method.accepted[0]),
        "different_accepted": int(np.sum(method.accepted[0])),
    }


def spread(milliseconds: Sequence[float]) -> dict[str, float]:
    """Least value and percentiles."""
    values = {f"p{p}": float(np.percentile(milliseconds, p)) for p in PERCENTILES}
    return {"min": float(np.min(milliseconds)), **values}


def matchers(recording: Recording, rounds: int = 15) -> dict[str, dict[str, float]]:
    """Two nearest of each of 1500 descriptors among 1500, by every search that is installed, in turns."""
    extractor = FeatureExtractor(CONFIG)
    a, b = (extractor.extract(recording.images[i]).descriptors for i in (10, 12))
    searches: dict[str, Callable[[], object]] = {"OpenCV": lambda: hamming.by_opencv(a, b, 2)}
    if importlib.util.find_spec("numkong") is not None:
        numkong = importlib.import_module("numkong")
        searches["numkong"] = lambda: hamming.by_numkong(numkong, a, b, 2)
    if importlib.util.find_spec("faiss") is not None:
        faiss = importlib.import_module("faiss")
        searches["faiss"] = lambda: hamming.by_faiss(faiss, a, b, 2)
    spent: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(rounds):
        for name, act in searches.items():
            milliseconds: dict[str, float] = {}
            timed(act, milliseconds, name)
            spent[name].append(milliseconds[name])
    return {name: spread(values) for name, values in spent.items()}


def machine() -> dict[str, str]:
    """What the figures belong to."""
    return {
        "processor": platform.machine(),
        "python": sys.version.split()[0],
        "opencv": cv2.__version__,
        "threads": "1",
    }


def markdown(document: dict[str, Any]) -> str:
    """Tables for a page."""
    lines = ["| two nearest of 1500 in 1500 | min ms | p50 | p90 |", "|---|---:|---:|---:|"]
    for name, ms in document["matching"].items():
        lines.append(f"| {name} | {ms['min']:.2f} | {ms['p50']:.2f} | {ms['p90']:.2f} |")
    steps = ("features", "match", "features + match", "geometry", "all")
    lines += ["", "| recording | way | " + " | ".join(f"{step}, ms p50 / p90 / p99" for step in steps)]
    lines[-1] += " | true pairs accepted | different accepted |"
    lines.append("|---|---" + "|---:" * (len(steps) + 2) + "|")
    for recording, methods in document["recordings"].items():
        for name, row in methods.items():
            cells = [" / ".join(f"{row['ms'][step][f'p{p}']:.1f}" for p in PERCENTILES) for step in steps]
            cells += [f"{row['true_accepted']} of {row['true']}", f"{row['different_accepted']} of {row['different']}"]
            lines.append(f"| {recording} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
