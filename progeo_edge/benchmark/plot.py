"""A result as a picture: where the milliseconds of a keyframe go, and how search grows with the map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from progeo_edge.atomic import replacing
from progeo_edge.benchmark.result_file import BenchmarkResult
from progeo_edge.benchmark.rows import number
from progeo_edge.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".svg", ".png", ".pdf")
BAR, TAIL, WORST, INK = "#0b7285", "#74c0fc", "#c92a2a", "#495057"
_SMALLEST_MS = 1e-3
_NEGLIGIBLE = 0.002
"""Share of the total below which a stage is a line of text and not of the picture."""

_MARKS = ("p50", "p90", "p99", "max")
_LEGEND: dict[str, Any] = {"loc": "lower right", "fontsize": 8, "frameon": False}
_PAPER = {"boxstyle": "square,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}

Series = Mapping[str, Mapping[str, Any]]


def check_plot_path(path: Path) -> None:
    """Refuse early what could not be written at the end.

    Raises:
        InputError: a suffix that is not one of `SUFFIXES`, or a folder that does not exist.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"plot {path} ends in {path.suffix or 'nothing'}; expected {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise InputError(f"plot {path} would lie in a folder that does not exist; make {path.parent} first")


def write_plot(result: BenchmarkResult, path: Path) -> None:
    """Draw stages, parts, and search against the size of the map where sizes were measured.

    Raises:
        InputError: as `check_plot_path`.
    """
    check_plot_path(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    series: Series = result.figures["series"]
    stages, parts, searches = (_members(series, prefix) for prefix in ("pipeline", "parts", "search"))
    stages = _worth_drawing(stages)
    heights = [max(len(stages), 3), max(len(parts), 3)]
    # Letters stay letters; without a date the same result gives the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "progeo", "font.size": 9}):
        figure = Figure(figsize=(11, 2.2 + 0.32 * sum(heights)), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(3, 2), height_ratios=heights)
        whole = grid[:, 0] if not parts else grid[0, 0]
        limits = _limits(stages, parts)
        top = figure.add_subplot(whole)
        _draw_percentiles(top, stages, "Pipeline, per keyframe", limits)
        handles = dict(zip(*reversed(top.get_legend_handles_labels()), strict=True))
        top.legend([handles[name] for name in _MARKS], _MARKS, bbox_to_anchor=(1, 1), ncols=4, **_LEGEND)
        if parts:
            _draw_percentiles(figure.add_subplot(grid[1, 0]), parts, "Parts alone", limits)
        right = figure.add_subplot(grid[:, 1])
        if searches:
            _draw_search(right, searches, {facts["size"]: facts for facts in result.figures["index"]})
        else:
            right.set_axis_off()
        figure.suptitle(_title(result), fontsize=10)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150, metadata=metadata)


def _members(series: Series, prefix: str) -> dict[str, Mapping[str, Any]]:
    return {name.partition(".")[2]: values for name, values in series.items() if name.partition(".")[0] == prefix}


def _worth_drawing(stages: dict[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    if "total" not in stages:
        return stages
    least_ms = _NEGLIGIBLE * stages["total"]["summary"]["p50"]
    return {name: values for name, values in stages.items() if values["summary"]["p99"] >= least_ms}


def _limits(*groups: dict[str, Mapping[str, Any]]) -> tuple[float, float]:
    """Common to both panels; room at the right for the figures."""
    summaries = [values["summary"] for group in groups for values in group.values()]
    least = min((summary["p50"] for summary in summaries), default=1.0)
    most = max((summary["max"] for summary in summaries), default=1.0)
    return max(_decade(least, floor), _SMALLEST_MS), 8 * max(most, _SMALLEST_MS)


def _draw_percentiles(
    axes: Axes, series: dict[str, Mapping[str, Any]], title: str, limits: tuple[float, float]
) -> None:
    """A bar to the median, a thinner one to p90, a line to p99, and a mark at the maximum, on a logarithmic axis."""
    names = list(series)
    rows = range(len(names))
    summaries = [series[name]["summary"] for name in names]
    left = limits[0]
    p50, p90, p99, largest = (
        [max(summary[name], left) for summary in summaries] for name in ("p50", "p90", "p99", "max")
    )
    axes.barh(rows, [x - left for x in p50], left=left, height=0.62, color=BAR, label="p50")
    axes.barh(rows, [b - a for a, b in zip(p50, p90, strict=True)], left=p50, height=0.34, color=TAIL, label="p90")
    axes.hlines(rows, p90, p99, color=TAIL, lw=2, label="p99")
    axes.scatter(largest, rows, marker="|", s=60, color=WORST, label="max", zorder=3)
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    for row, summary in zip(rows, summaries, strict=True):
        text = f"{number(summary['p50'])}  ({number(summary['p99'])})"
        axes.annotate(text, (largest[row], row), xytext=(6, 0), textcoords="offset points", va="center", color=INK)
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("ms; figures: p50 (p99)")
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(axis="x", color="#e9ecef", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_search(axes: Axes, series: dict[str, Mapping[str, Any]], facts: Mapping[int, Mapping[str, Any]]) -> None:
    sizes = sorted(map(int, series))
    summaries = [series[str(size)]["summary"] for size in sizes]
    p50, p99 = ([max(summary[name], 1e-6) for summary in summaries] for name in ("p50", "p99"))
    axes.fill_between(sizes, p50, p99, color=TAIL, alpha=0.35, lw=0, label="p50 to p99")
    axes.plot(sizes, p50, "o-", color=BAR, label="p50")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(sizes[0] / 2.5, sizes[-1] * 2.5)
    # A decade below for what is written under the points.
    axes.set_ylim(_decade(min(p50), floor) / 3, _decade(max(p99), ceil))
    for size, value in zip(sizes, p50, strict=True):
        about = facts.get(size)
        text = f"{number(value)} ms" + (f"\n{about['kind']}\nr@1 {about['recall_at_1']:.3f}" if about else "")
        axes.annotate(
            text,
            (size, value),
            xytext=(0, -10),
            textcoords="offset points",
            ha="center",
            va="top",
            color=INK,
            bbox=_PAPER,
        )
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("keyframes in the map")
    axes.set_ylabel("ms per search")
    axes.set_title("Search", fontsize=10, loc="left")
    axes.grid(color="#e9ecef", lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(bbox_to_anchor=(1, 1), ncols=2, **_LEGEND)


def _decade(value: float, rounded: Callable[[float], int]) -> float:
    return float(10.0 ** rounded(log10(value)))


def _title(result: BenchmarkResult) -> str:
    encoder, source, cpu = result.figures["encoder"], result.figures["source"], result.machine["cpu"]
    where = cpu["model"] or "unknown CPU"
    kind = "rendered" if source["kind"] == "rendered" else source["name"]
    return (
        f"{encoder['name']} by {encoder['backend']}\n{kind}, {source['width_px']}x{source['height_px']}; "
        f"{where}, {cpu['usable_cores'] or cpu['cores']} cores; {result.date[:10]}"
    )
