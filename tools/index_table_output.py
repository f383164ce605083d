"""What tools.index_table has measured, as JSON, as a plot and as Markdown."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from progeo_edge.atomic import write_text

LIBRARIES = ("numpy", "numkong", "faiss-cpu", "hnswlib")


def write_results(folder: Path, results: Sequence[dict[str, Any]]) -> None:
    """index.json, with the machine and the versions."""
    machine = {"machine": platform.machine(), "python": platform.python_version(), "threads": 1}
    versions = {name: _version(name) for name in LIBRARIES}
    write_text(folder / "index.json", json.dumps({"of": machine | versions, "results": results}, indent=1))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def plot(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Milliseconds over keyframes, one panel per kind of data."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    kinds = list(dict.fromkeys(_kind(result) for result in results))
    figure, panels = pyplot.subplots(1, len(kinds), figsize=(5.5 * len(kinds), 4.2), sharey=True, squeeze=False)
    for axes, kind in zip(panels[0], kinds, strict=True):
        of_kind = [result for result in results if _kind(result) == kind]
        for name in dict.fromkeys(result["contender"] for result in of_kind):
            points = sorted((r["rows"], r["p50_ms"]) for r in of_kind if r["contender"] == name)
            axes.loglog(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        axes.set_title(f"{kind}, top {of_kind[0]['k']}, one thread")
        axes.set_xlabel("keyframes")
        axes.grid(visible=True, which="both", alpha=0.2)
    panels[0][0].set_ylabel("ms per search (median)")
    panels[0][0].legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _kind(result: dict[str, Any]) -> str:
    return str(result["data"]).split(",")[0]


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """Searches, then additions."""
    lines = [
        "| data | rows | k | contender | ms min | ms p50 | x NumPy, minima | x NumPy, p10 / p50 / p90 | recall@1 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['data']} | {r['rows']} | {r['k']} | {r['contender']} | {r['min_ms']:.3f} | {r['p50_ms']:.3f} "
        f"| {r['ratio_of_minima']:.2f} | {' / '.join(f'{v:.2f}' for v in r['ratio_p10_p50_p90'])} "
        f"| {r['recall_at_1']:.3f} |"
        for r in results
        if "k" in r
    ]
    lines += ["", "| data | rows | contender | add mean ms | p50 | p99 | max |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {r['data']} | {r['rows']} | {r['contender']} | {r['add_mean_ms']:.3f} | {r['add_p50_ms']:.3f} "
        f"| {r['add_p99_ms']:.2f} | {r['add_max_ms']:.2f} |"
        for r in results
        if "add_mean_ms" in r
    ]
    return "\n".join(lines)
