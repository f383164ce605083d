"""What diagnostics say of model, map, calibration and index."""

from __future__ import annotations

import time
from itertools import zip_longest

from progeo_edge.calibration import Separability
from progeo_ros.place_recogniser import PlaceRecogniser

INDEX_CHECK_S = 60.0
"""How often the recall of the index is measured."""


class RecogniserFacts:
    """Keys and values for `Health.facts`.

    Attributes:
        calibration_problem: What to do when places cannot be told apart, as of the last `read`; "" when they can.
    """

    def __init__(self, recogniser: PlaceRecogniser) -> None:
        self._recogniser = recogniser
        self._index_checked_s = -INDEX_CHECK_S
        self.calibration_problem = ""

    def read(self) -> dict[str, str]:
        """What is known now; the index only every minute, since its self-check takes milliseconds."""
        recogniser = self._recogniser
        spec = recogniser.encoder.spec
        facts = {
            "model": spec.name,
            "model id": spec.fingerprint,
            "map": str(recogniser.map_path or "in memory"),
            "map keyframes": str(recogniser.num_keyframes),
            "map read-only": str(recogniser.read_only),
            "session": recogniser.session,
        }
        for name in ("precision", "providers"):
            if (value := getattr(recogniser.encoder, name, None)) is not None:
                facts[name] = str(value)
        if time.monotonic() - self._index_checked_s >= INDEX_CHECK_S:
            self._index_checked_s = time.monotonic()
            facts.update({f"index {name}": str(value) for name, value in recogniser.index_report().items()})
        self.calibration_problem = ""
        names = recogniser.camera_names
        for name in names:
            suffix = "" if len(names) == 1 else f" [{name}]"
            facts |= {f"{key}{suffix}": value for key, value in self._calibration(name).items()}
        return facts

    def _calibration(self, camera: str) -> dict[str, str]:
        """The same keys always, so that none of another map stays behind."""
        settings = self._recogniser.config.calibration
        if not settings.enabled:
            return _calibration_facts("off")
        learned = self._recogniser.learned(camera)
        if learned is None:
            return _calibration_facts("none yet")
        calibration, gate, rate = learned.calibration, learned.gate, settings.max_false_per_hour
        verdict = calibration.separability(rate)
        if verdict is Separability.NONE:
            self.calibration_problem = self.calibration_problem or calibration.advice(rate)
        min_similarity = max(gate.min_similarity, self._recogniser.config.gate.min_similarity)
        return _calibration_facts(
            verdict.value,
            f"{(time.time_ns() - calibration.learned_ns) * 1e-9:.0f}",
            str(calibration.tail.num_queries),
            f"{calibration.num_same_place} {'verified' if calibration.verified else 'neighbours in time'}",
            f"{min_similarity:.3f}",
            "none" if gate.min_motion_score is None else f"{gate.min_motion_score:.3f}",
            f"{learned.false_per_hour(min_similarity):.2f}",
        )


CALIBRATION_KEYS = (
    "calibration",
    "calibration learned (s ago)",
    "calibration queries",
    "calibration pairs of one place",
    "gate, similarity",
    "gate, motion score",
    "false accepts expected before the geometry (per hour)",
)


def _calibration_facts(*values: str) -> dict[str, str]:
    return dict(zip_longest(CALIBRATION_KEYS, values, fillvalue="unknown"))
