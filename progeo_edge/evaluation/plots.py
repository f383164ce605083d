"""Plots of judged results as PNG, SVG or PDF, by the suffix of the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from progeo_edge.atomic import replacing
from progeo_edge.errors import SourceError
from progeo_edge.evaluation.loops import RECALL_GRID, LoopsResult
from progeo_edge.evaluation.retrieval import RetrievalResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
SCORE_LABELS = {
    "similarity": "similarity",
    "rerank_score": "re-ranked score",
    "motion_score": "motion score",
    "probability": "probability",
    "num_inliers": "inliers",
}


def plot_recall(results: Mapping[str, RetrievalResult], path: Path) -> None:
    """Recall@N as bars with bootstrap intervals, one colour per encoder.

    Raises:
        SourceError: a suffix that is not one of `SUFFIXES`.
    """
    figure, axes = _new_figure(path)
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
    _save(figure, path)


def plot_curves(result: LoopsResult, path: Path) -> None:
    """Precision over recall for each score, with the interval band, and the point that the run accepted.

    Raises:
        SourceError: a suffix that is not one of `SUFFIXES`.
    """
    figure, axes = _new_figure(path)
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
    _save(figure, path)


def check_plot_path(path: Path) -> None:
    """Refuse early what could not be written at the end.

    Raises:
        SourceError: a suffix that is not one of `SUFFIXES`, or a folder that does not exist.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise SourceError(f"plot file {path} ends in {path.suffix!r}; expected one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise SourceError(f"plot file {path} would lie in a folder that does not exist; make {path.parent} first")


def _new_figure(path: Path) -> tuple[Figure, Axes]:
    check_plot_path(path)
    # A Figure of its own, without pyplot, needs no display and leaves the caller's backend alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
