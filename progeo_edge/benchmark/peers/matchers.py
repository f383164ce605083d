"""Local features and their matches: OpenCV's detector and brute-force matcher as its tutorial uses them, and ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.benchmark.peers.peer import Step
from progeo_edge.config import VerificationConfig
from progeo_edge.types import Image, LocalFeatures
from progeo_edge.verification import FeatureExtractor
from progeo_edge.verification.matching import match_features

FEATURES, MATCH, WHOLE = "features", "match", "features and match"
NUM_CANDIDATES = 3
Pairs = NDArray[np.int64]
"""(M, 2) indices into the query's and the reference's keypoints."""


class OurMatcher:
    """`FeatureExtractor` and `match_features` with the default settings. Settings: "frames", "threads"."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        cv2.setNumThreads(settings["threads"])
        config = VerificationConfig()
        self._config = config
        self._extractor = FeatureExtractor(config)
        self._frames = np.load(settings["frames"], allow_pickle=False)
        self._stored = [self._extractor.extract(image) for image in self._frames]
        self.facts: Mapping[str, Any] = {
            "runs": f"progeo-edge on OpenCV {cv2.__version__}, {config.detector}",
            "features": float(np.mean([len(features) for features in self._stored])),
        }
        self.steps: Mapping[str, Step] = {FEATURES: self._features, MATCH: self._match, WHOLE: self._whole}

    @staticmethod
    def import_libraries(settings: Mapping[str, Any]) -> None:
        """Nothing beyond what this module imports."""

    def _features(self, item: int) -> int:
        return len(self._extractor.extract(self._frames[item % len(self._frames)]))

    def _match(self, item: int) -> Pairs:
        return self._pairs(self._stored[item % len(self._stored)], item)

    def _whole(self, item: int) -> Pairs:
        return self._pairs(self._extractor.extract(self._frames[item % len(self._frames)]), item)

    def _pairs(self, query: LocalFeatures, item: int) -> Pairs:
        config = self._config
        found = [
            match_features(query, self._stored[other], ratio=config.ratio, cross_check=config.cross_check)
            for other in candidates_of(item, len(self._stored))
        ]
        return np.concatenate([np.stack(pairs, axis=1) for pairs in found]).astype(np.int64)


class OpencvMatcher:
    """ORB, BFMatcher.knnMatch and the ratio test in a loop. Setting "max_features": None for OpenCV's default of 500.

    The step "match" is given our features, so that both match the same; "features" and "features and match" are
    OpenCV's own.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        cv2.setNumThreads(settings["threads"])
        wanted = settings.get("max_features")
        self._orb = cv2.ORB.create() if wanted is None else cv2.ORB.create(nfeatures=wanted)
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING)
        self._ratio = VerificationConfig().ratio
        self._frames = np.load(settings["frames"], allow_pickle=False)
        self._own = [self._describe(image) for image in self._frames]
        extractor = FeatureExtractor(VerificationConfig())
        self._given = [extractor.extract(image).descriptors for image in self._frames]
        self.facts: Mapping[str, Any] = {
            "runs": f"OpenCV {cv2.__version__}",
            "features": float(np.mean([len(descriptors) for descriptors in self._own])),
        }
        self.steps: Mapping[str, Step] = {
            FEATURES: lambda item: len(self._describe(self._frames[item % len(self._frames)])),
            MATCH: lambda item: self._pairs(self._given[item % len(self._given)], item, self._given),
            WHOLE: self._whole,
        }

    @staticmethod
    def import_libraries(settings: Mapping[str, Any]) -> None:
        """Nothing beyond what this module imports."""

    def _describe(self, image: Image) -> NDArray[np.uint8]:
        descriptors = self._orb.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), None)[1]
        return np.zeros((0, 32), np.uint8) if descriptors is None else np.asarray(descriptors, np.uint8)

    def _whole(self, item: int) -> Pairs:
        return self._pairs(self._describe(self._frames[item % len(self._frames)]), item, self._own)

    def _pairs(self, query: NDArray[np.uint8], item: int, stored: Sequence[NDArray[np.uint8]]) -> Pairs:
        good = []
        for other in candidates_of(item, len(stored)):
            for pair in self._matcher.knnMatch(query, stored[other], k=2):
                if len(pair) == 2 and pair[0].distance < self._ratio * pair[1].distance:
                    good.append((pair[0].queryIdx, pair[0].trainIdx))
        return np.array(good, dtype=np.int64).reshape(-1, 2)


def candidates_of(item: int, num_frames: int) -> list[int]:
    """The frames that follow a frame stand for its candidates: they show nearly the same view."""
    return [(item + step) % num_frames for step in range(1, NUM_CANDIDATES + 1)]
