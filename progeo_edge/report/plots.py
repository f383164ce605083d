"""The plots of the report, as inline SVG made by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1f2933"
MUTED = "#9aa5b1"
ACCENT = "#0b7285"
CLOSURE = "#2f9e44"
TRUTH = "#adb5bd"
MAX_MATRIX = 1500

Line = NDArray[np.float64]


def similarity_matrix(descriptors: NDArray[np.float32], closures: Sequence[tuple[int, int]]) -> str:
    """Cosine of every keyframe with every other, closures ringed.

    Args:
        descriptors: (N, D) unit rows in keyframe order.
        closures: (query, reference) positions in that order.
    """
    step = max(1, -(-len(descriptors) // MAX_MATRIX))
    thinned = descriptors[::step]
    matrix = thinned @ thinned.T
    np.fill_diagonal(matrix, np.nan)
    low, high = (float(v) for v in np.nanpercentile(matrix, [20, 99.8])) if len(thinned) > 1 else (0.0, 1.0)
    with figure(5.4, 4.8) as (svg, axes):
        shown = axes.imshow(matrix, cmap="magma", vmin=low, vmax=max(high, low + 1e-3), interpolation="nearest")
        if closures:
            query, reference = np.array(closures, dtype=float).T / step
            axes.scatter(reference, query, s=14, facecolors="none", edgecolors="#69db7c", linewidths=0.8)
        axes.set_xlabel("reference keyframe")
        axes.set_ylabel("query keyframe")
        _thin_ticks(axes, step)
        axes.figure.colorbar(shown, ax=axes, label="cosine", shrink=0.85)
    return svg[0]


def timeline(seconds: Line, closures: Sequence[tuple[int, int]]) -> str:
    """Keyframes along time, every closure an arc back to the place it recognises."""
    with figure(8.6, 2.6) as (svg, axes):
        for query, reference in closures:
            start, end = seconds[reference], seconds[query]
            angle = np.linspace(0, np.pi, 40)
            middle, radius = 0.5 * (start + end), 0.5 * (end - start)
            axes.plot(middle - radius * np.cos(angle), np.sin(angle) * radius, color=CLOSURE, lw=0.7, alpha=0.5)
        axes.plot(seconds, np.zeros_like(seconds), "|", color=INK, ms=6, mew=0.6)
        axes.set_xlabel("time in seconds")
        axes.set_yticks([])
        no_frame(axes, keep="bottom")
    return svg[0]


def trajectories(lines: Mapping[str, Line], closures: Sequence[tuple[int, int]], *, drawn_on: str) -> str:
    """Paths from above, with closures as lines between the two keyframes.

    Args:
        lines: (N, 2) metres per name; "truth" is drawn grey and dashed.
        closures: Row numbers (query, reference) into `lines[drawn_on]`.
        drawn_on: The line on which the closures are drawn.
    """
    colours = {"truth": TRUTH, "odometry": "#e8590c", "with loop closures": ACCENT}
    with figure(5.4, 4.8) as (svg, axes):
        for query, reference in closures:
            axes.plot(*lines[drawn_on][[query, reference]].T, color=CLOSURE, lw=0.8, alpha=0.6)
        for name, line in lines.items():
            dashed = {"ls": "--", "lw": 1.4} if name == "truth" else {"lw": 1.5}
            axes.plot(*line.T, color=colours.get(name, INK), label=name, **dashed)
        start = lines[drawn_on][0]
        axes.plot(*start, "o", color=INK, ms=5)
        axes.annotate("start", start, xytext=(5, 5), textcoords="offset points", color=INK, fontsize=8)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel("x in metres")
        axes.set_ylabel("y in metres")
        axes.legend(frameon=False, fontsize=8)
        no_frame(axes, keep="both")
    return svg[0]


def bars(values: Mapping[str, float], label: str) -> str:
    """Horizontal bars, largest first."""
    ranked = sorted(values.items(), key=lambda item: item[1])
    with figure(6.4, 0.5 + 0.28 * len(ranked)) as (svg, axes):
        colours = [CLOSURE if name == "ACCEPTED" else ACCENT for name, _ in ranked]
        drawn = axes.barh([name for name, _ in ranked], [value for _, value in ranked], color=colours, height=0.65)
        axes.bar_label(drawn, padding=3, fontsize=8, color=INK)
        axes.set_xlabel(label)
        no_frame(axes, keep="left")
        axes.set_xticks([])
    return svg[0]


def stage_bars(stages_ms: Mapping[str, Mapping[str, float]]) -> str:
    """Median and 99th percentile per stage."""
    names = [name for name in stages_ms if name != "total"][::-1]
    with figure(6.4, 0.7 + 0.28 * len(names)) as (svg, axes):
        axes.barh(names, [stages_ms[n]["p99"] for n in names], color="#d0ebff", height=0.65, label="p99")
        axes.barh(names, [stages_ms[n]["p50"] for n in names], color=ACCENT, height=0.65, label="median")
        axes.set_xlabel("milliseconds per keyframe")
        axes.legend(frameon=False, fontsize=8)
        no_frame(axes, keep="both")
    return svg[0]


@contextmanager
def figure(width_in: float, height_in: float) -> Iterator[tuple[list[str], Axes]]:
    """A figure whose SVG is appended to the yielded list at the end."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": MUTED,
        "xtick.color": INK,
        "ytick.color": INK,
        "svg.hashsalt": "progeo-edge",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
    }
    svg: list[str] = []
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield svg, figure.subplots()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    svg.append(text[text.index("<svg") :])


def _thin_ticks(axes: Axes, step: int) -> None:
    if step > 1:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value * step:.0f}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value * step:.0f}")


def no_frame(axes: Axes, *, keep: str) -> None:
    """Leave only the lines at the bottom, at the left, or both."""
    kept = {"bottom": {"bottom"}, "left": {"left"}, "both": {"left", "bottom"}}[keep]
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(side in kept)
