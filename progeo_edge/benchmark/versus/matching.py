"""Local features and matching for three candidates, at the camera's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from progeo_edge.benchmark.peers.matchers import FEATURES, MATCH, NUM_CANDIDATES, WHOLE
from progeo_edge.benchmark.versus.comparison import Comparison, Row
from progeo_edge.benchmark.versus.frames import CAMERA
from progeo_edge.benchmark.versus.inputs import Frames, save
from progeo_edge.benchmark.versus.interleaving import Contender, Field, Progress, answers_of, measure, opened
from progeo_edge.benchmark.versus.job import Job
from progeo_edge.config import VerificationConfig

OURS = "ours"
MATCHES, SHARED = "matches", "shared"

_PEERS = "progeo_edge.benchmark.peers.matchers"
_NOTES = {
    FEATURES: "one frame; ours spreads them over the image and keeps up to {count}",
    MATCH: "everybody is given the same features of ours; ours also checks that a match is the nearest both ways; "
    "shared: share of our matches that it finds, too",
    WHOLE: "the query's features once, then {candidates} candidates; everybody with features of its own",
}


def compare_matchers(job: Job, frames: Frames, progress: Progress) -> list[Comparison]:
    """Features, matching, and both."""
    count = VerificationConfig().max_features
    with TemporaryDirectory(prefix="progeo-bench-") as name:
        pixels = save(Path(name) / "frames.npy", frames.of_size(*CAMERA))
        opencv = f"{_PEERS}:OpencvMatcher"
        entrants = [
            Contender(OURS, f"{_PEERS}:OurMatcher", {"frames": pixels}, is_ours=True),
            Contender("OpenCV, ORB as it comes", opencv, {"frames": pixels}),
            Contender(f"OpenCV, ORB {count}", opencv, {"frames": pixels, "max_features": count}),
        ]
        with opened(entrants, threads=job.threads, absent={}, progress=progress) as entered:
            return [_compare(job, entered, step, frames, progress) for step in (FEATURES, MATCH, WHOLE)]


def _compare(job: Job, entered: Field, step: str, frames: Frames, progress: Progress) -> Comparison:
    rows = measure(entered, step, job.pace, progress=progress)
    if step == MATCH:
        # Both OpenCV contenders are given the same features here, so they are one.
        rows = [row for row in rows if row.is_ours or row.name == "OpenCV, ORB as it comes"]
    agreements = _agreement(entered, rows, step, len(frames.images))
    names = {"OpenCV, ORB as it comes": "OpenCV, BFMatcher"} if step == MATCH else {}
    note = _NOTES[step].format(count=VerificationConfig().max_features, candidates=NUM_CANDIDATES)
    return Comparison(
        group=f"matcher: {step}",
        case=f"{CAMERA[0]}x{CAMERA[1]}, {job.threads} threads",
        rows=tuple(
            replace(row, name=names.get(row.name, row.name), agreement=agreements.get(row.name, {})) for row in rows
        ),
        absent=dict(entered.absent),
        notes=(f"frames: {len(frames.images)} of {frames.origin}", note),
    )


def _agreement(entered: Field, rows: Sequence[Row], step: str, count: int) -> dict[str, dict[str, float]]:
    if step == FEATURES:
        return {row.name: {"features": float(row.facts["features"])} for row in rows}
    found = {row.name: answers_of(entered, row.name, step, range(count)) for row in rows}
    result = {}
    for name, pairs in found.items():
        if pairs is None:
            continue
        result[name] = {MATCHES: float(np.mean([len(one) for one in pairs]))}
        own = found.get(OURS)
        if step == MATCH and own is not None:
            result[name][SHARED] = shared(own, pairs)
    return result


def shared(own: Sequence[NDArray[np.int64]], others: Sequence[NDArray[np.int64]]) -> float:
    """Share of our matches that another matcher gives, too; 1 without any."""
    mine = [set(map(tuple, pairs.tolist())) for pairs in own]
    theirs = [set(map(tuple, pairs.tolist())) for pairs in others]
    total = sum(map(len, mine))
    return sum(len(a & b) for a, b in zip(mine, theirs, strict=True)) / total if total else 1.0
