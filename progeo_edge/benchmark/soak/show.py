"""The figures of a soak for people: a table, Markdown, and a plot over the hours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from progeo_edge.atomic import replacing
from progeo_edge.benchmark.result_file import BenchmarkResult
from progeo_edge.benchmark.rows import machine_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

_INK, _PALE, _WARM = "#0b7285", "#74c0fc", "#e8590c"


def lines_of(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was measured, and what came out."""
    frames, queue, times = figures["frames"], figures["queue"], figures["keyframe_ms"]
    memory, map_ = figures["memory"], figures["map"]
    lines = [
        ("hours on the robot's clock", f"{figures['hours_equivalent']:.2f}" + _early(figures)),
        (
            "frames",
            f"{frames['of_the_camera']} of the camera, {frames['dropped_on_the_way']} dropped on the way, "
            f"{frames['in_pauses']} in pauses",
        ),
        (
            "lost in the queue",
            f"{frames['replaced_by_newer']} of {frames['arrived']} ({100 * frames['replaced_share']:.1f} %): "
            "a newer one came first",
        ),
    ]
    if queue is not None:
        waited, depth = queue["waited_ms"], queue["depth"]
        lines += [
            ("waited, ms", ", ".join(f"{name} {waited[name]:.1f}" for name in waited)),
            ("frames in the node at an arrival", ", ".join(f"{name} {depth[name]:.0f}" for name in depth)),
        ]
    if times is not None:
        lines.append(("time of a keyframe, ms", _percentiles(times["whole"])))
    if times is None or times["drift"] is None:
        lines.append(("drift", "too few keyframes"))
    else:
        drift = times["drift"]
        lines += [
            ("first tenth, ms", f"{_percentiles(drift['first_tenth'])} ({times['compared']})"),
            ("last tenth, ms", _percentiles(drift["last_tenth"])),
            ("last over first", _ratio(drift["last_over_first"])),
        ]
    if memory is None:
        lines.append(("memory", "too few samples, or not told by this system"))
    else:
        lines += [
            ("own memory, MB", f"{memory['first_own_mb']:.0f} at first, {memory['last_own_mb']:.0f} at last"),
            (
                "growth once settled",
                f"{memory['per_hour_mb']:.2f} MB per hour"
                + ("" if memory["per_keyframe_kib"] is None else f", {memory['per_keyframe_kib']:.1f} KiB per keyframe")
                + f"; samples scatter by {memory['noise_mb']:.1f} MB",
            ),
            ("since it settled", _explained(memory)),
        ]
    if map_ is not None:
        lines.append(
            (
                "map",
                f"{map_['num_keyframes']} keyframes, {map_['file_mb']:.1f} MB, {map_['per_keyframe_kib']:.1f} KiB each",
            )
        )
    return [*lines, ("closures", str(figures["num_closures"])), ("frames by status", _counts(figures["statuses"]))]


def table_of(figures: Mapping[str, Any]) -> Table:
    """For the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table("soak", "")
    for name, value in lines_of(figures):
        table.add_row(name, Text(value))
    return table


def markdown(result: BenchmarkResult) -> str:
    """To paste into an issue; it holds names of files but no paths."""
    told = ", ".join(f"{name} {value}" for name, value in result.options.items() if value is not None)
    lines = [f"**progeo-bench soak**, progeo-edge {result.progeo_edge}, {result.date}", ""]
    lines += [*(f"- {line}" for line in machine_lines(result.machine)), f"- options: {told}", ""]
    lines += ["| soak | |", "|---|---|", *(f"| {name} | {value} |" for name, value in lines_of(result.figures))]
    return "\n".join(lines) + "\n"


def save_plot(figures: Mapping[str, Any], path: Path) -> None:
    """Time of a keyframe, and memory, over the hours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    draw_latency(upper, figures)
    draw_memory(lower, figures)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)


def draw_latency(axes: Axes, figures: Mapping[str, Any]) -> None:
    """Median and 90th percentile over short stretches."""
    course = figures["course"]
    axes.plot(course["hours"], course["p90_ms"], color=_PALE, lw=1, label="90th percentile")
    axes.plot(course["hours"], course["p50_ms"], color=_INK, lw=1.6, label="median")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("ms per keyframe")
    axes.legend(loc="lower right", frameon=False, ncols=2, fontsize=8)
    times = figures["keyframe_ms"]
    if times is not None and times["drift"] is not None:
        ratio = _ratio(times["drift"]["last_over_first"])
        axes.set_title(f"last tenth over first: {ratio}, {times['compared']}", fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def draw_memory(axes: Axes, figures: Mapping[str, Any]) -> None:
    """Own memory, and the keyframes that explain it."""
    course = figures["course"]
    if course["own_mb"]:
        axes.plot(course["memory_hours"], course["own_mb"], color=_INK, lw=1.2)
        axes.set_ylim(0, 1.15 * max(course["own_mb"]))
    axes.set_ylabel("own memory, MB", color=_INK)
    axes.set_xlabel("hours on the robot's clock")
    beside = axes.twinx()
    beside.plot(course["memory_hours"], course["num_keyframes"], color=_WARM, lw=1.2, ls="--")
    beside.set_ylim(bottom=0)
    beside.set_ylabel("keyframes in the map", color=_WARM)
    memory = figures["memory"]
    if memory is not None:
        axes.set_title(
            f"growth once settled: {memory['per_hour_mb']:.2f} MB per hour; {_explained(memory)}",
            fontsize=9,
            loc="left",
        )
    for one in (axes, beside):
        one.spines["top"].set_visible(False)


def _early(figures: Mapping[str, Any]) -> str:
    return ", ended early" if figures["stopped_early"] else ""


def _percentiles(summary: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {summary[name]:.1f}" for name in ("p50", "p90", "p99", "max"))


def _ratio(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _explained(memory: Mapping[str, Any]) -> str:
    verdict = "" if memory["is_explained"] else ": NOT explained, look for a leak"
    return f"{memory['grown_mb']:.1f} MB grown, the keyframes explain up to {memory['explained_mb']:.1f}{verdict}"


def _counts(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in statuses.items())
