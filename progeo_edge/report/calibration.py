"""How well places are told apart, as a picture: same place against impostors, and where the gate stands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from progeo_edge.calibration import Calibration
from progeo_edge.report.plots import ACCENT, CLOSURE, INK, MUTED, Line, figure, no_frame

RATES_PER_HOUR = (0.1, 1.0, 10.0, 100.0)
GROWTH = (1, 10, 100)


def calibration_histogram(calibration: Calibration, false_per_hour: float) -> str:
    """Histogram of both kinds of cosine, the fitted tail of the impostors, and the gate, as inline SVG.

    Args:
        calibration: What was learned.
        false_per_hour: The promised rate, which decides where the gate is drawn.
    """
    histogram = calibration.histogram
    edges = np.linspace(histogram.low, histogram.high, len(histogram.impostors) + 1)
    gate = calibration.min_similarity(calibration.num_keyframes, false_per_hour)
    with figure(6.4, 3.0) as (svg, axes):
        for counts, colour, label in (
            (histogram.impostors, MUTED, "best impostor of a keyframe"),
            (histogram.same_place, CLOSURE, _same_place_label(calibration)),
        ):
            share = np.array(counts, np.float64) / max(sum(counts), 1)
            axes.stairs(share, edges, fill=True, color=colour, alpha=0.55, label=label)
        axes.plot(*_fitted(calibration, edges), color=INK, lw=1.2, label="fitted tail")
        axes.axvline(gate, color=ACCENT, lw=1.6)
        text = f" gate {gate:.3f}\n {false_per_hour:g} per hour"
        axes.annotate(text, (gate, axes.get_ylim()[1]), va="top", fontsize=8, color=ACCENT)
        axes.set_xlim(histogram.low, max(1.0, gate + 0.02))
        axes.set_xlabel("cosine")
        axes.set_yticks([])
        axes.legend(frameon=False, fontsize=8)
        no_frame(axes, keep="bottom")
    return svg[0]


def gate_rows(calibration: Calibration) -> Sequence[tuple[str, float, float, float]]:
    """Map size, promised rate, cosine of the gate, share of the same-place pairs above it: for a table."""
    rows = []
    for growth in GROWTH:
        size = max(calibration.num_keyframes, 1) * growth
        for rate in RATES_PER_HOUR if growth == 1 else (1.0,):
            gate = calibration.min_similarity(size, rate)
            rows.append((f"{size}", rate, gate, calibration.share_above(gate)))
    return rows


def _same_place_label(calibration: Calibration) -> str:
    return "verified closures" if calibration.verified else "neighbours in time (too easy)"


def _fitted(calibration: Calibration, edges: Line) -> tuple[Line, Line]:
    """Share of the best impostors per bin that the law expects, from the level that it was fitted above."""
    size = max(calibration.curve.typical_keyframes, 1.0)
    passing = calibration.tail.false_probability(edges, size)
    middle = 0.5 * (edges[1:] + edges[:-1])
    above = passing[:-1] <= 0.5  # half of the maxima were censored: below, the law promises nothing
    return middle[above], -np.diff(passing)[above]
