"""What a map has learned about telling its places apart: thresholds in false closures per hour, and probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from progeo_edge.calibration.probability import SamePlaceCurve
from progeo_edge.calibration.tail import ImpostorTail
from progeo_edge.errors import CalibrationError

GOOD_SHARE, WEAK_SHARE = 0.5, 0.05


class Separability(str, Enum):
    """How well the descriptor tells the places of this environment apart, at the promised rate."""

    GOOD = "GOOD"
    """At least half of the pairs of one place are more similar than the threshold."""
    WEAK = "WEAK"
    """At least one in twenty; closures will be found by motion and strong geometry rather than by one picture."""
    NONE = "NONE"
    """Hardly any: similarity alone cannot tell the places of this environment apart."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of cosines in equal bins from `low` to `high`."""

    low: float
    high: float
    same_place: tuple[int, ...]
    impostors: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "low": self.low,
            "high": self.high,
            "same_place": list(self.same_place),
            "impostors": list(self.impostors),
        }


@dataclass(frozen=True, slots=True)
class Calibration:
    """Learned from the runs of one map with one model and one camera, without labels.

    Attributes:
        model: Fingerprint of the encoder.
        camera: Name of the camera.
        tail: What the best impostors of a query score by cosine.
        motion_tail: What they score by motion (`progeo_edge.motion`); None without it.
        motion: The motion method that `motion_tail` belongs to; "" without it.
        curve: From cosine to probability.
        same_place_quantiles: 101 quantiles of the cosines of pairs of one place.
        num_same_place: Number of those pairs.
        verified: Whether they are verified closures; if not, they are neighbours in time, which are too easy.
        queries_per_hour: Keyframes per hour of driving.
        num_keyframes: Size of the map at the last query.
        histogram: Of both, for people to look at.
        learned_ns: Wall-clock time since 1970.
    """

    model: str
    camera: str
    tail: ImpostorTail
    motion_tail: ImpostorTail | None
    motion: str
    curve: SamePlaceCurve
    same_place_quantiles: tuple[float, ...]
    num_same_place: int
    verified: bool
    queries_per_hour: float
    num_keyframes: int
    histogram: Histogram
    learned_ns: int

    def probability(self, similarity: float, num_keyframes: int) -> float:
        """Probability that a best candidate of this cosine shows the same place, in a map of so many keyframes."""
        return float(self.curve.probability(similarity, num_keyframes))

    def min_similarity(self, num_keyframes: int, false_per_hour: float) -> float:
        """The cosine that impostors pass so many times an hour, in a map of so many keyframes; rises with the map."""
        return self.tail.score_at(self._per_query(false_per_hour), max(num_keyframes, 1))

    def min_motion_score(self, num_keyframes: int, false_per_hour: float) -> float | None:
        """The same for the motion score; None when no motion was calibrated."""
        if self.motion_tail is None:
            return None
        return self.motion_tail.score_at(self._per_query(false_per_hour), max(num_keyframes, 1))

    def false_per_hour(self, min_similarity: float, num_keyframes: int) -> float:
        """How often an hour an impostor passes a cosine, before geometry."""
        return float(self.tail.false_probability(min_similarity, max(num_keyframes, 1))) * self.queries_per_hour

    def share_above(self, similarity: float) -> float:
        """Share of the pairs of one place that are more similar than this."""
        quantiles = np.asarray(self.same_place_quantiles)
        return float(1.0 - np.interp(similarity, quantiles, np.linspace(0.0, 1.0, len(quantiles))))

    def separability(self, false_per_hour: float) -> Separability:
        """Whether the promised rate leaves anything to be found, at the size that the map has now."""
        share = self.share_above(self.min_similarity(self.num_keyframes, false_per_hour))
        if share >= GOOD_SHARE:
            return Separability.GOOD
        return Separability.WEAK if share >= WEAK_SHARE else Separability.NONE

    def advice(self, false_per_hour: float) -> str:
        """One or two sentences: how well places are told apart, and what to do about it."""
        threshold = self.min_similarity(self.num_keyframes, false_per_hour)
        share = 100.0 * self.share_above(threshold)
        source = "verified pairs of one place" if self.verified else "neighbours in time"
        found = (
            f"{share:.0f} % of the {source} are more similar than {threshold:.3f}, which impostors pass "
            f"{false_per_hour:g} times an hour among {self.num_keyframes} keyframes"
        )
        remedy = {
            Separability.GOOD: "the descriptor tells the places of this environment apart",
            Separability.WEAK: "expect closures from several keyframes together and from strong geometry rather than "
            "from one picture; odometry, a longer motion.length or a higher calibration.max_false_per_hour help",
            Separability.NONE: "the descriptor cannot tell the places of this environment apart; expect low recall. "
            "Give odometry, fit a whitening on your own frames, turn or add a camera, or fine-tune the encoder",
        }[self.separability(false_per_hour)]
        return f"{found}: {remedy}."

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {
            **plain,
            "tail": self.tail.to_dict(),
            "motion_tail": None if self.motion_tail is None else self.motion_tail.to_dict(),
            "curve": self.curve.to_dict(),
            "same_place_quantiles": list(self.same_place_quantiles),
            "histogram": self.histogram.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` wrote.

        Raises:
            CalibrationError: a value is missing or of a wrong kind.
        """
        try:
            motion_tail = values["motion_tail"]
            histogram = values["histogram"]
            return cls(
                **{
                    **values,
                    "tail": ImpostorTail(**values["tail"]),
                    "motion_tail": None if motion_tail is None else ImpostorTail(**motion_tail),
                    "curve": SamePlaceCurve(**values["curve"]),
                    "same_place_quantiles": tuple(float(v) for v in values["same_place_quantiles"]),
                    "histogram": Histogram(
                        **{
                            **histogram,
                            "same_place": tuple(histogram["same_place"]),
                            "impostors": tuple(histogram["impostors"]),
                        }
                    ),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(
                f"the stored calibration cannot be read ({error!r}); calibrate again with progeo-calibrate"
            ) from error

    def _per_query(self, false_per_hour: float) -> float:
        return min(false_per_hour / self.queries_per_hour, 1.0)
