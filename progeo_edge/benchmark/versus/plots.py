"""Plots of comparisons: bars with the spread of the rounds, and times of indexes over their size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from progeo_edge.atomic import replacing
from progeo_edge.benchmark.plot import check_plot_path
from progeo_edge.benchmark.versus.comparison import Comparison
from progeo_edge.benchmark.versus.tables import fastest_first, ratio_text, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, THEIRS = "#0b7285", "#adb5bd"
_COLOURS = ("#868e96", "#e8590c", "#5c940d", "#ae3ec9", "#f08c00", "#c92a2a", "#4263eb")
_BAR_IN = 0.32


def save_plot(comparisons: Sequence[Comparison], path: Path) -> None:
    """All comparisons below each other: bars per case, and one plot over size per kind of index data.

    Raises:
        InputError: as `check_plot_path`.
    """
    from matplotlib.figure import Figure

    check_plot_path(path)
    panels = _panels(comparisons)
    heights = [3.6 if len(panel) > 1 or panel[0].size is not None else 0.9 + _BAR_IN * len(panel[0].rows)
               for panel in panels]  # fmt: skip
    figure = Figure(figsize=(9.0, sum(heights) + 0.5 * len(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, one in zip(panels, axes, strict=True):
        if panel[0].size is not None:
            draw_over_size(one, panel)
        else:
            draw_bars(one, panel[0])
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)


def draw_bars(axes: Axes, comparison: Comparison) -> None:
    """Median per contender, the fastest on top; whiskers from the fastest to the slowest round."""
    rows = fastest_first(comparison)
    medians = [row.time_ms.p50 for row in rows]
    below = [max(0.0, row.time_ms.p50 - min(row.round_medians_ms)) for row in rows]
    above = [max(0.0, max(row.round_medians_ms) - row.time_ms.p50) for row in rows]
    colours = [OURS if row.is_ours else THEIRS for row in rows]
    axes.barh(range(len(rows)), medians, color=colours, xerr=(below, above), error_kw={"lw": 1, "capsize": 3})
    for place, row in enumerate(rows):
        text = f"  {_time(row.time_ms.p50)}" + ("" if row is comparison.ours else f", {_times(comparison, row)}")
        axes.annotate(text, (max(row.round_medians_ms), place), va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * max(max(row.round_medians_ms) for row in rows))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("ms, median; whiskers: fastest and slowest round", fontsize=8)
    axes.set_title(f"{comparison.group}\n{comparison.case}", fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def draw_over_size(axes: Axes, comparisons: Sequence[Comparison]) -> None:
    """Median time of a search over the number of descriptors; hollow marks where recall@1 is below 1."""
    names = list(dict.fromkeys(row.name for one in comparisons for row in one.rows))
    others = iter(_COLOURS * 2)
    for name in names:
        found = [(one.size or 0, row) for one in comparisons for row in one.rows if row.name == name]
        is_ours = found[0][1].is_ours
        colour = OURS if is_ours else next(others)
        style = ("--" if "exact" in name else "-") if is_ours else ":"
        sizes, times = [size for size, _ in found], [row.time_ms.p50 for _, row in found]
        axes.plot(sizes, times, style, color=colour, lw=2.2 if is_ours else 1.3, label=name)
        for size, row in found:
            face = colour if row.agreement.get("recall@1", 1.0) >= 1.0 else "white"
            axes.plot(size, row.time_ms.p50, "o", color=colour, mfc=face, ms=5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = sorted({one.size or 0 for one in comparisons})
    axes.set_xticks(sizes, [_thousands(size) for size in sizes], fontsize=8)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("descriptors", fontsize=8)
    axes.set_ylabel("ms per search, median", fontsize=8)
    axes.grid(which="major", color="#e9ecef")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    name = comparisons[0].case.rpartition(",")[0]
    axes.set_title(f"{comparisons[0].group}: {name}\nhollow: recall@1 below 1", fontsize=9, loc="left")


def _panels(comparisons: Sequence[Comparison]) -> list[list[Comparison]]:
    """Comparisons that belong into one plot: the sizes of one kind of data, everything else alone."""
    panels: dict[str, list[Comparison]] = {}
    for position, one in enumerate(comparisons):
        if not one.rows:
            continue
        key = f"{position}" if one.size is None else one.case.rpartition(",")[0].removesuffix(" (tiled)")
        panels.setdefault(key, []).append(one)
    return list(panels.values())


def _time(value_ms: float) -> str:
    return f"{short(value_ms / 1e3)} s" if value_ms >= 1e3 else f"{short(value_ms)} ms"


def _thousands(value: float, _: object = None) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def _times(comparison: Comparison, row: object) -> str:
    ratio = next((comparison.times_ours(one) for one in comparison.rows if one is row), None)
    return f"{ratio_text(ratio)} times ours" if ratio is not None else ""
