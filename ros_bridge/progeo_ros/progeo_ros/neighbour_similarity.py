"""How alike consecutive keyframes are: the highest similarity that this camera and model can be expected to give."""

from __future__ import annotations

from collections import deque

import numpy as np

from progeo_edge.types import Keyframe

NUM_KEPT = 300
"""Keyframes that the median is of."""


class NeighbourSimilarity:
    """Cosine of each keyframe to the one before it, which the exclusion window keeps from being a candidate.

    Two pictures of one place a moment apart are as easy as a revisit can be. Where even they are less alike than the
    gate, the descriptor is of no use here: exposure, blur, a covered lens, or a model that does not fit.
    """

    def __init__(self) -> None:
        self._last: dict[str, Keyframe] = {}
        self._cosines: deque[float] = deque(maxlen=NUM_KEPT)

    def note(self, keyframe: Keyframe) -> None:
        """The next keyframe; the first of a session and camera has no neighbour before it."""
        last = self._last.get(keyframe.camera)
        self._last[keyframe.camera] = keyframe
        if last is not None and last.session == keyframe.session:
            self._cosines.append(float(last.descriptor @ keyframe.descriptor))

    def facts(self) -> dict[str, str]:
        """The last cosine and the median; empty before there are two keyframes."""
        if not self._cosines:
            return {}
        return {
            "similarity to the previous keyframe": f"{self._cosines[-1]:.3f}",
            "similarity to the previous keyframe, median": f"{np.median(self._cosines):.3f}",
        }
