"""Real pictures: a small car that drives laps in one hall at 160x120."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from progeo_edge.config import VerificationConfig
from progeo_edge.types import Status
from progeo_edge.verification import FeatureExtractor, Verifier

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "dev" / "donkeycar_room_laps"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the donkeycar pictures are not beside the repository")


def rows(name):
    with (FOLDER / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def pairs():
    """Features by name, and a sample of positive and of negative pairs."""
    times = {row["image"]: float(row["time_s"]) for row in rows("keyframes.csv")}
    labels = {(row["query"], row["earlier"]): row["label"] for row in rows("matches.csv")}
    names = list(times)
    negatives = [
        (a, b) for i, a in enumerate(names) for b in names[:i] if (a, b) not in labels and times[a] - times[b] > 30
    ]
    rng = np.random.default_rng(0)
    positives = [pair for pair, label in labels.items() if label == "positive"]
    chosen = [[group[i] for i in rng.choice(len(group), 100, replace=False)] for group in (positives, negatives)]
    extractor = FeatureExtractor(VerificationConfig())
    used = {name for group in chosen for pair in group for name in pair}
    return {
        name: extractor.extract(np.asarray(cv2.imread(str(FOLDER / name)), dtype=np.uint8)) for name in used
    }, *chosen


def test_returns_are_verified(pairs):
    features, positives, _ = pairs
    verifier = Verifier(VerificationConfig())
    accepted = [verifier.verify(features[a], features[b], None, None).status is Status.ACCEPTED for a, b in positives]
    assert np.mean(accepted) > 0.85


def test_other_places_are_refused(pairs):
    features, _, negatives = pairs
    verifier = Verifier(VerificationConfig())
    inliers = [verifier.verify(features[a], features[b], None, None).num_inliers for a, b in negatives]
    assert max(inliers) <= 30
