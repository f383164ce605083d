"""What diagnostics say of model, map and index."""

from __future__ import annotations

import time

from progeo_ros.place_recogniser import PlaceRecogniser

INDEX_CHECK_S = 60.0
"""How often the recall of the index is measured."""


class RecogniserFacts:
    """Keys and values for `Health.facts`."""

    def __init__(self, recogniser: PlaceRecogniser) -> None:
        self._recogniser = recogniser
        self._index_checked_s = -INDEX_CHECK_S

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
        return facts
