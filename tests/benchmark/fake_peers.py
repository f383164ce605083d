"""Peers for tests of the machinery: run in processes of their own, as real ones do."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from progeo_edge.benchmark.peers.frames import frame_steps, numpy_search
from progeo_edge.benchmark.peers.peer import Step
from progeo_edge.errors import ModelError

HERE = "tests.benchmark.fake_peers"


class Sleeper:
    """Sleeps "ms" per item; "broken" says what goes wrong, and "at" for which item."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self.facts: Mapping[str, Any] = {"threads": settings["threads"], "omp": os.environ["OMP_NUM_THREADS"]}
        self.steps: Mapping[str, Step] = {"work": self._work}
        sys.stdout.write("noise on standard output, as libraries make it\n")
        if settings.get("broken") == "absent":
            raise ModelError("it is not for\nthis machine")
        if settings.get("broken") == "opening":
            raise ValueError("cannot open")
        if settings.get("broken") == "slow":
            time.sleep(30)

    @staticmethod
    def import_libraries(settings: Mapping[str, Any]) -> None:
        """Nothing."""

    def _work(self, item: int) -> np.ndarray[Any, Any]:
        if self._settings.get("broken") == "dies" and item >= self._settings["at"]:
            sys.stdout.write("noise while working\n")
            raise ValueError("cannot work\n    any more")
        time.sleep(self._settings.get("ms", 0) / 1e3)
        return np.array([item, item + 0.5], np.float32)


class MeanColour:
    """The "descriptor" is random numbers seeded by the frame's sum: a frame peer without a model."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.facts: Mapping[str, Any] = {"runs": "fake", "random_weights": True}
        self.steps: Mapping[str, Step] = frame_steps(
            settings, prepare=lambda image: int(image.sum()), infer=_random_row, search=numpy_search(settings)
        )

    @staticmethod
    def import_libraries(settings: Mapping[str, Any]) -> None:
        """Nothing."""


def _random_row(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    row = np.random.default_rng(seed).standard_normal(32).astype(np.float32)
    return np.asarray(row / np.linalg.norm(row), np.float32)
