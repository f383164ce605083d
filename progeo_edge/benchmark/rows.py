"""A result as rows of text, for the table on the screen and the block in an issue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from progeo_edge.benchmark.result_file import BenchmarkResult

HEADINGS = ("p50", "p90", "p99", "max", "jitter", "rounds", "n")

GROUPS = {
    "pipeline": "pipeline, ms",
    "parts": "parts alone, ms",
    "search": "search, ms",
    "cold_start": "cold start, ms",
    "resident": "resident, MB",
    "growth": "KB per keyframe",
    "energy": "J per frame",
}


def groups(result: BenchmarkResult) -> Iterator[tuple[str, list[tuple[str, Mapping[str, Any]]]]]:
    """Title of each group and its series by short name, known groups first."""
    series: Mapping[str, Mapping[str, Any]] = result.figures["series"]
    prefixes = dict.fromkeys([*GROUPS, *(name.partition(".")[0] for name in series)])
    for prefix in prefixes:
        members = [(name.partition(".")[2], values) for name, values in series.items() if _in(name, prefix)]
        if members:
            yield GROUPS.get(prefix, prefix), members


def cells(values: Mapping[str, Any]) -> list[str]:
    """The figures of one series in the order of `HEADINGS`; "rounds" is the spread of the rounds' medians."""
    summary, rounds = values["summary"], values["rounds"]
    figures = [number(summary[name]) for name in ("p50", "p90", "p99", "max", "jitter")]
    return [*figures, f"{number(min(rounds))} to {number(max(rounds))}", str(summary["count"])]


def number(value: float) -> str:
    """Three digits that count, never an exponent."""
    if abs(value) < 0.0005 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def headline(result: BenchmarkResult) -> list[str]:
    """What was measured, on what, one sentence per line."""
    figures = result.figures
    encoder, source, rounds = figures["encoder"], figures["source"], figures["rounds"]
    rates = rounds["frames_per_second"]
    return [
        f"{encoder['name']} by {encoder['backend']}, {encoder['dimension']} values per descriptor",
        f"{_source(source)}: {rounds['count']} rounds of {rounds['keyframes_per_round']} keyframes on a map of "
        f"{figures['map']['keyframes']:,}, {number(min(rates))} to {number(max(rates))} frames per second",
        *machine_lines(result.machine),
    ]


def machine_lines(machine: Mapping[str, Any]) -> list[str]:
    """On what it was measured, as `describe_machine` tells."""
    cpu = machine["cpu"]
    lines = [
        f"{cpu['model'] or 'unknown CPU'}, {cpu['usable_cores'] or cpu['cores']} cores; "
        f"{machine['os'] or 'unknown OS'}, kernel {machine['kernel']}; Python {machine['python']}; "
        f"{_versions(machine['versions'])}",
    ]
    for label, value in (("board", machine["board"]), ("GPU", _gpus(machine)), ("power mode", _power(machine))):
        if value:
            lines.append(f"{label}: {value}")
    load = machine["load_average"]
    lines.append(f"load when it began: {'unknown' if load is None else f'{load[0]:.2f}'}")
    return lines


def index_lines(result: BenchmarkResult) -> list[str]:
    """One line per map that was searched, and what was in them."""
    if not result.figures["index"]:
        return []
    return [
        f"{facts['size']:,} keyframes: {facts['kind']}, recall@1 {facts['recall_at_1']:.3f} and recall@10 "
        f"{facts['recall_at_k']:.3f} of exact search, filled in {number(facts['fill_s'])} s"
        for facts in result.figures["index"]
    ] + [f"descriptors: {result.figures['index_descriptors']}"]


def memory_lines(result: BenchmarkResult) -> list[str]:
    """The peak, where the kernel tells."""
    memory = result.figures["memory"]
    if memory["peak_mb"] is None:
        return []
    return [f"at most {memory['peak_mb']:.0f} MB resident in {memory['peak_is_of']}, the benchmark itself included"]


def absent_lines(result: BenchmarkResult) -> list[str]:
    """What could not be measured, and why."""
    return [f"{name}: {reason}" for name, reason in result.figures["absent"].items()]


def _in(name: str, prefix: str) -> bool:
    return name.partition(".")[0] == prefix


def _source(source: Mapping[str, Any]) -> str:
    """A rendered street says so: its pictures are easier than real ones."""
    kind = "rendered frames, no recording" if source["kind"] == "rendered" else "recording"
    known = [name for name in ("odometry", "depth", "camera") if source[f"has_{name}"]]
    size = f"{source['width_px']}x{source['height_px']}"
    return f"{source['name']} ({kind}, {size}, {' and '.join(known) if known else 'pictures only'})"


def _versions(versions: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _gpus(machine: Mapping[str, Any]) -> str:
    return ", ".join(f"{gpu['name']} (driver {gpu['driver']})" for gpu in machine["gpus"] or ())


def _power(machine: Mapping[str, Any]) -> str:
    mode, locked = machine["power_mode"]["nvpmodel"], machine["clocks"]["locked"]
    if mode is None:
        return ""
    return mode if locked is None else f"{mode}, clocks {'locked' if locked else 'not locked'}"
