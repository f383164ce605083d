"""Plots of judged results: as PNG, SVG or PDF by the suffix of the file, or as SVG text for a page."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from progeo_edge.atomic import replacing
from progeo_edge.errors import SourceError
from progeo_edge.evaluation.loops_result import RECALL_GRID, LoopsResult
from progeo_edge.evaluation.promise import FalseRates
from progeo_edge.evaluation.reliability import Reliability
from progeo_edge.evaluation.retrieval import RetrievalResult
from progeo_edge.evaluation.trajectory import TrajectoryResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
SCORE_LABELS = {
    "similarity": "similarity",
    "rerank_score": "re-ranked score",
    "probability": "probability",
    "motion_score": "motion score",
    "num_inliers": "inliers",
}
WRONG, RIGHT, TRUTH, INK = "#c92a2a", "#2f9e44", "#adb5bd", "#0b7285"

Draw = Callable[["Axes"], None]


def save_plot(draw: Draw, path: Path) -> None:
    """Draw and write.

    Raises:
        SourceError: a suffix that is not one of `SUFFIXES`.
    """
    check_plot_path(path)
    figure, axes = _new_figure()
    draw(axes)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def svg(draw: Draw) -> str:
    """Draw as SVG text, for a page."""
    from matplotlib import rc_context

    figure, axes = _new_figure()
    draw(axes)
    text = io.StringIO()
    # Letters stay letters, so that a page can be searched; without a date the same result gives the same page.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "progeo"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def plot_recall(results: Mapping[str, RetrievalResult], path: Path) -> None:
    """Recall@N as bars with bootstrap intervals, one colour per encoder.

    Raises:
        SourceError: a suffix that is not one of `SUFFIXES`.
    """
    save_plot(lambda axes: draw_recall(axes, results), path)


def plot_curves(result: LoopsResult, path: Path) -> None:
    """Precision over recall for each score; see `draw_curves`.

    Raises:
        SourceError: a suffix that is not one of `SUFFIXES`.
    """
    save_plot(lambda axes: draw_curves(axes, result), path)


def draw_recall(axes: Axes, results: Mapping[str, RetrievalResult]) -> None:
    """Recall@N as bars with bootstrap intervals, one colour per encoder."""
    width = 0.8 / len(results)
    for position, (name, result) in enumerate(results.items()):
        known = {n: interval for n, interval in result.recall.items() if interval.value is not None}
        values = [100 * (interval.value or 0.0) for interval in known.values()]
        low = [100 * (interval.low or 0.0) for interval in known.values()]
        high = [100 * (interval.high or 0.0) for interval in known.values()]
        places = [row + (position - (len(results) - 1) / 2) * width for row in range(len(known))]
        below = [value - bound for value, bound in zip(values, low, strict=True)]
        above = [bound - value for value, bound in zip(values, high, strict=True)]
        bars = axes.bar(places, values, width * 0.92, label=name, yerr=(below, above), capsize=3, error_kw={"lw": 1})
        axes.bar_label(bars, labels=[f"{value:.0f}" for value in values], label_type="center", color="white")
    first = next(iter(results.values()))
    axes.set_xticks(range(len(first.recall)), [f"recall@{n}" for n in first.recall])
    axes.set_ylim(0, 100)
    axes.set_ylabel("percent")
    axes.set_title(f"{first.num_queries} queries, {first.num_database} database images; bars: 95 % bootstrap interval")
    axes.legend(loc="lower right")


def draw_curves(axes: Axes, result: LoopsResult) -> None:
    """Precision over recall for each score, with the interval band, and the point that the run accepted."""
    for judged in result.curves:
        name = SCORE_LABELS[judged.score]
        average = judged.average_precision.percent()
        (line,) = axes.step(
            100 * judged.curve.recall, 100 * judged.curve.precision, where="pre", label=f"{name}, AP {average}"
        )
        axes.fill_between(
            100 * RECALL_GRID, 100 * judged.band[0], 100 * judged.band[1], color=line.get_color(), alpha=0.15, lw=0
        )
    if result.precision.value is not None and result.recall.value is not None:
        axes.plot(
            100 * result.recall.value,
            100 * result.precision.value,
            "k*",
            ms=13,
            label="accepted by the run",
            clip_on=False,
        )
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 102)
    axes.set_xlabel(f"recall in percent of {result.num_revisits} revisits")
    axes.set_ylabel("precision in percent")
    axes.set_title(f"{result.num_keyframes} keyframes; band: 95 % bootstrap, blocks of {result.block_length}")
    axes.legend(loc="lower left")


def draw_reliability(axes: Axes, reliability: Reliability) -> None:
    """Observed share of right candidates over the stated probability; honest probabilities lie on the diagonal."""
    axes.plot([0, 1], [0, 1], "--", color=TRUTH, label="honest")
    stated = np.array([one.stated for one in reliability.bins])
    observed = np.array([one.observed.value or 0.0 for one in reliability.bins])
    low = observed - np.array([one.observed.low or 0.0 for one in reliability.bins])
    high = np.array([one.observed.high or 0.0 for one in reliability.bins]) - observed
    axes.errorbar(stated, observed, yerr=(low, high), fmt="o-", color=INK, capsize=3, lw=1, label="observed")
    for one in reliability.bins:
        axes.annotate(str(one.count), (one.stated, one.observed.high or 0.0), (0, 4), textcoords="offset points",
                      ha="center", fontsize=8)  # fmt: skip
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.09)
    axes.set_xlabel("stated probability")
    axes.set_ylabel("observed share right")
    axes.set_title(f"{reliability.num_candidates} best candidates; numbers: candidates per bin; bars: exact 95 %")
    axes.legend(loc="upper left")


def draw_rates(axes: Axes, rates: FalseRates) -> None:
    """False accepts per hour before and after geometry, with exact intervals, beside the promise."""
    for place, one in enumerate((rates.before_geometry, rates.after_geometry)):
        below, above = one.per_hour - one.low, one.high - one.per_hour
        axes.errorbar(place, one.per_hour, yerr=([below], [above]), fmt="o", ms=8, capsize=6, color=INK)
        axes.annotate(f"{one.count} in {one.hours:.2f} h", (place, one.per_hour), (10, 0), textcoords="offset points",
                      va="center")  # fmt: skip
    if rates.promised_per_hour is not None:
        label = f"promised before geometry: {rates.promised_per_hour:g} per hour ({rates.verdict})"
        axes.axhline(rates.promised_per_hour, color=WRONG, ls="--", label=label)
        axes.legend(loc="upper right")
    axes.set_xticks([0, 1], ["before geometry", "after geometry"])
    axes.set_xlim(-0.5, 1.7)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("false accepts per hour")
    axes.set_title("bars: exact 95 % (Garwood)")


def draw_trajectory(axes: Axes, result: TrajectoryResult) -> None:
    """The path from above: truth, odometry, and with closures."""
    axes.plot(*result.truth[:, :2].T, color=TRUTH, lw=4, label="truth")
    shown = {"odometry": (result.odometry, WRONG), "with closures": (result.with_closures, RIGHT)}
    for name, (judged, colour) in shown.items():
        if judged is not None:
            label = f"{name}: {judged.ate_m.rmse:.2f} m"
            axes.plot(*judged.positions[:, :2].T, color=colour, lw=1.2, label=label)
    axes.set_aspect("equal", "datalim")
    axes.set_xlabel("x in m")
    axes.set_ylabel("y in m")
    axes.set_title(f"{result.num_keyframes} keyframes, {result.num_closures} closures; absolute trajectory error, RMSE")
    axes.legend()


def draw_trajectory_errors(axes: Axes, result: TrajectoryResult) -> None:
    """Distance to the truth along the drive."""
    shown = {"odometry": (result.odometry, WRONG), "with closures": (result.with_closures, RIGHT)}
    for name, (judged, colour) in shown.items():
        if judged is not None:
            axes.plot(judged.errors_m, color=colour, lw=1.2, label=name)
    axes.set_xlabel("keyframe")
    axes.set_ylabel("distance to the truth in m")
    axes.set_ylim(bottom=0)
    axes.legend()


def check_plot_path(path: Path) -> None:
    """Refuse early what could not be written at the end.

    Raises:
        SourceError: a suffix that is not one of `SUFFIXES`, or a folder that does not exist.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise SourceError(f"plot file {path} ends in {path.suffix!r}; expected one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise SourceError(f"plot file {path} would lie in a folder that does not exist; make {path.parent} first")


def _new_figure() -> tuple[Figure, Axes]:
    # A Figure of its own, without pyplot, needs no display and leaves the caller's backend alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes
