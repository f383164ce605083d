"""What a calibration is fitted to, kept beside it in the map so that the next run goes on from there."""

from __future__ import annotations

import io
import time
import zipfile
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from progeo_edge.calibration.calibration import Calibration, Histogram
from progeo_edge.calibration.impostors import ImpostorMaximum
from progeo_edge.calibration.probability import fit_curve
from progeo_edge.calibration.tail import ImpostorTail, fit_tail
from progeo_edge.errors import CalibrationError

FloatArray = NDArray[np.float64]

KEPT = 5000
"""Observations of each kind; older ones are forgotten, so that a fit costs the same after an hour and after a year."""
MIN_VERIFIED = 30
"""Verified pairs of one place that outweigh neighbours in time, whose light and view are too much alike."""
PRIOR_REVISITS, PRIOR_WEIGHT = 0.3, 20.0
"""Before anything is seen, three of ten keyframes are taken for revisits; that counts like so many keyframes."""
_BINS = 60
_MAX_GAP_S = 10.0


@dataclass(frozen=True, slots=True)
class CalibrationKey:
    """What a calibration belongs to."""

    model: str
    camera: str
    motion: str


class Observations:
    """Impostor maxima by cosine and by motion, and cosines of pairs of one place; the latest `KEPT` of each."""

    def __init__(self) -> None:
        self._impostors: deque[tuple[float, float, float]] = deque(maxlen=KEPT)
        self._motion: deque[tuple[float, float, float]] = deque(maxlen=KEPT)
        self._neighbours: deque[float] = deque(maxlen=KEPT)
        self._verified: deque[float] = deque(maxlen=KEPT)
        self._totals = {"queries": 0.0, "revisits": 0.0, "driven_s": 0.0, "intervals": 0.0, "keyframes": 0.0}

    @property
    def num_queries(self) -> int:
        """Queries with an impostor, ever."""
        return int(self._totals["queries"])

    @property
    def num_revisits(self) -> int:
        """Queries with a verified closure, ever."""
        return int(self._totals["revisits"])

    def add_impostor(self, maximum: ImpostorMaximum) -> None:
        """Note the best impostor of a query by cosine."""
        self._impostors.append((maximum.score, float(maximum.num_keyframes), float(maximum.is_second)))
        self._totals["queries"] += 1

    def add_motion_impostor(self, maximum: ImpostorMaximum) -> None:
        """Note the best impostor of a query by motion score."""
        self._motion.append((maximum.score, float(maximum.num_keyframes), float(maximum.is_second)))

    def forget_motion(self) -> None:
        """Scores by motion are of another method from now on."""
        self._motion.clear()

    def add_neighbour(self, similarity: float) -> None:
        """Note the cosine of two keyframes of one place, close in time."""
        self._neighbours.append(similarity)

    def add_verified(self, similarity: float) -> None:
        """Note the cosine of a verified closure."""
        self._verified.append(similarity)

    def add_revisit(self) -> None:
        """Note a query with a verified closure."""
        self._totals["revisits"] += 1

    def add_interval(self, seconds: float) -> None:
        """Note the time between two keyframes; a pause counts as no more than the longest pause between keyframes."""
        if seconds > 0.0:
            self._totals["driven_s"] += min(seconds, _MAX_GAP_S)
            self._totals["intervals"] += 1

    def set_map_size(self, num_keyframes: int) -> None:
        """Note the number of keyframes that can be found now."""
        self._totals["keyframes"] = float(num_keyframes)

    def fit(self, key: CalibrationKey) -> Calibration:
        """Learn from everything noted.

        Raises:
            CalibrationError: too little was noted.
        """
        if not self._impostors:
            raise CalibrationError("no keyframe was compared with another place yet; drive on, to places that differ")
        impostors = _columns(self._impostors)
        tail = fit_tail(impostors[:, 0], impostors[:, 1], impostors[:, 2] > 0.5)
        verified = len(self._verified) >= MIN_VERIFIED
        same_place = np.array(self._verified if verified else [*self._neighbours, *self._verified], np.float64)
        if len(same_place) == 0:
            raise CalibrationError("no two keyframes of one place were seen; keyframes are too far apart, or too few")
        revisits = self._totals["revisits"] + PRIOR_REVISITS * PRIOR_WEIGHT
        prior = float(np.clip(revisits / (self._totals["queries"] + PRIOR_WEIGHT), 0.02, 0.98))
        return Calibration(
            model=key.model,
            camera=key.camera,
            tail=tail,
            motion_tail=self._fit_motion(),
            motion=key.motion,
            curve=fit_curve(same_place, impostors[:, 0], impostors[:, 1], prior),
            same_place_quantiles=tuple(np.quantile(same_place, np.linspace(0.0, 1.0, 101)).tolist()),
            num_same_place=len(same_place),
            verified=verified,
            queries_per_hour=self._queries_per_hour(),
            num_keyframes=int(self._totals["keyframes"]),
            histogram=_histogram(same_place, impostors[:, 0]),
            learned_ns=time.time_ns(),
        )

    def _fit_motion(self) -> ImpostorTail | None:
        motion = _columns(self._motion)
        if len(motion) == 0:
            return None
        try:
            return fit_tail(motion[:, 0], motion[:, 1], motion[:, 2] > 0.5, scale="plain")
        except CalibrationError:
            # Motion needs a few keyframes more than a single picture; until then there is only the cosine.
            return None

    def _queries_per_hour(self) -> float:
        if self._totals["driven_s"] <= 0.0:
            raise CalibrationError("the time between keyframes is unknown: all stamps are equal; give stamps")
        return 3600.0 * self._totals["intervals"] / self._totals["driven_s"]

    def to_bytes(self) -> bytes:
        """For a blob of the map."""
        file = io.BytesIO()
        np.savez_compressed(
            file,
            impostors=_columns(self._impostors).astype(np.float32),
            motion=_columns(self._motion).astype(np.float32),
            neighbours=np.array(self._neighbours, np.float32),
            verified=np.array(self._verified, np.float32),
            totals=np.array(list(self._totals.values()), np.float64),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Observations:
        """Read what `to_bytes` wrote.

        Raises:
            CalibrationError: not such bytes.
        """
        result = cls()
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                result._impostors.extend(map(tuple, file["impostors"].reshape(-1, 3).tolist()))
                result._motion.extend(map(tuple, file["motion"].reshape(-1, 3).tolist()))
                result._neighbours.extend(file["neighbours"].tolist())
                result._verified.extend(file["verified"].tolist())
                result._totals = dict(zip(result._totals, file["totals"].tolist(), strict=True))
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise CalibrationError(
                f"the observations in the map cannot be read ({error}); calibrate again with progeo-calibrate"
            ) from error
        return result


def _columns(rows: deque[tuple[float, float, float]]) -> FloatArray:
    return np.array(rows, np.float64).reshape(-1, 3)


def _histogram(same_place: FloatArray, impostors: FloatArray) -> Histogram:
    low = float(np.floor(20.0 * min(same_place.min(), impostors.min())) / 20.0)
    edges = np.linspace(low, 1.0, _BINS + 1)
    counts = [np.histogram(np.clip(values, low, 1.0), edges)[0] for values in (same_place, impostors)]
    return Histogram(low, 1.0, tuple(counts[0].tolist()), tuple(counts[1].tolist()))
