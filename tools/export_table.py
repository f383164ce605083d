"""Do exports hold? Parity, loss, recall, size and times of FP32, FP16 and INT8 graphs of several models, as a table.

    python -m tools.export_table OUT [--calibration ../shared/data/train] [--calibration-images 500]
        [--audit-images 64] [--places 128] [--images DIR] [--opset 18] [--model RN50 --model ViT-B-32 ...]

Models are sources of `progeo-export`; an open_clip name alone has random weights (as re-initialised by
`progeo_export.checkpoint_input`), which proves the tools and says nothing about trained weights. Every graph must pass
the gates of `progeo-export`: one that is refused is a row that says so with its figures. Attention is quantised as with
--force. The graphs are judged on rendered streets, or on the photographs of --images, which is fairer to INT8 where the
calibration images are photographs. The bundles of what passed lie in OUT/MODEL, the table in OUT/export_table.md and
.json.

Each model has a process of its own. One that fails is a row that says why, and the others go on. What an earlier call
with the same settings has finished is kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from progeo_edge import atomic
from progeo_edge.bundle import Precision
from progeo_edge.errors import ProgeoError

MODELS = ("RN50", "RN101", "ViT-B-32", "ViT-B-16", "MobileCLIP2-S0")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
TIMED_RUNS = 30
HEADER = (
    "model",
    "graph",
    "opset",
    "places, mean cosine",
    "min cosine",
    "loss of inter-place distance, mean (worst)",
    "recall@1 (torch)",
    "MB",
    "export, s",
    "ONNX Runtime, CPU ms",
    "verdict",
)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Settings:
    """What the rows of a table have in common.

    Attributes:
        calibration: Folder of images for INT8; None leaves INT8 out.
        calibration_images: Taken from it, spread evenly.
        audit_images: So many of these are used for FP16's range audit; without a folder it sees the rendered images.
        places: Rendered places to judge by; each is seen twice.
        images: Folder to judge by in their place, see `probe_images.read_places`; None renders.
        opset: 18 or 17.
    """

    calibration: str | None
    calibration_images: int
    audit_images: int
    places: int
    images: str | None
    opset: int


@dataclass(frozen=True)
class Row:
    """One graph of one model.

    Attributes:
        model: Source of the export.
        precision: Of the graph.
        verdict: "passed", or why not.
        figures: As of `gates.measure`; empty when it did not come to that.
        opset: Of the graph.
        size_mb: Of its file; None when there is none.
        export_s: From the step's begin to its end, comparison included; FP32 includes opening the model.
        run_ms: CPU time of ONNX Runtime for one image on one thread, median; None when it was not run.
    """

    model: str
    precision: Precision
    verdict: str
    figures: dict[str, float]
    opset: int
    size_mb: float | None = None
    export_s: float | None = None
    run_ms: float | None = None


def main() -> None:
    """Export what is missing, then print the table."""
    arguments = _parse_arguments()
    settings = Settings(
        calibration=_text(arguments.calibration),
        calibration_images=arguments.calibration_images,
        audit_images=arguments.audit_images,
        places=arguments.places,
        images=_text(arguments.images),
        opset=arguments.opset,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for model in arguments.model or MODELS:
        rows += _rows_of(model, arguments.out, settings)
        write_table(rows, settings, arguments.out)
    print(table(rows))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Figures of exported graphs of several models as a table.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--calibration", type=Path, help="folder of real images for INT8; without it there is no INT8")
    parser.add_argument("--calibration-images", type=int, default=500)
    parser.add_argument("--audit-images", type=int, default=64, help="for FP16's range audit")
    parser.add_argument("--model", action="append", help=f"repeat for several; default: {', '.join(MODELS)}")
    parser.add_argument("--places", type=int, default=128)
    parser.add_argument("--images", type=Path, help="folder to judge by; default: rendered places")
    parser.add_argument("--opset", type=int, choices=(17, 18), default=18)
    return parser.parse_args()


def _rows_of(model: str, out: Path, settings: Settings) -> list[Row]:
    """From an earlier call, or made now in a process of its own."""
    kept = out / f"{model.replace('/', '-').replace(':', '-')}.json"
    if kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["settings"] == asdict(settings):
            print(f"{model}: kept from {kept}", file=sys.stderr)
            return [Row(**row) for row in found["rows"]]
    try:
        rows = in_own_process(export_rows, model, kept.with_suffix(""), settings)
    except (ProgeoError, BrokenProcessPool, OSError) as error:
        # Not kept: the next call tries again.
        return [Row(model, "fp32", f"failed: {_one_line(error)}", {}, settings.opset)]
    atomic.write_text(kept, json.dumps({"settings": asdict(settings), "rows": [asdict(row) for row in rows]}, indent=1))
    return rows


def in_own_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a fresh process, whose memory goes with it; `BrokenProcessPool` when it crashes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def export_rows(model: str, bundle: Path, settings: Settings) -> list[Row]:
    """Export one model in every precision; a bundle of those that passed is left in `bundle`.

    Raises:
        ModelError: the source cannot be opened.
    """
    from progeo_export import pipeline
    from progeo_export.checkpoint_input import open_model
    from progeo_export.graph_module import DescriptorGraph
    from progeo_export.onnx_export import Opset
    from progeo_export.probe_images import read_images, read_places, rendered_places

    start_s = time.monotonic()
    _say(model, "opening, and describing the probe images in torch")
    opened = open_model(model)
    probe = rendered_places(settings.places) if settings.images is None else read_places(Path(settings.images))

    plain = pipeline.ExportOptions(opset=cast(Opset, settings.opset), force=True)

    def options(max_images: int) -> pipeline.ExportOptions:
        folder = settings.calibration
        images = None if folder is None else tuple(read_images(Path(folder), max_images=max_images))
        return replace(plain, calibration=images)

    rows = []
    with tempfile.TemporaryDirectory(prefix="progeo-export-") as folder:
        work = pipeline.prepare(opened, DescriptorGraph(opened.encoder), probe, Path(folder))
        rows.append(_row(model, "fp32", work, settings, lambda: pipeline.add_fp32(work, plain), start_s))
        if "fp32" in work.paths:
            audited = options(settings.audit_images)
            rows.append(_row(model, "fp16", work, settings, lambda: pipeline.add_fp16(work, audited)))
        if "fp32" in work.paths and settings.calibration is not None:
            calibrated = options(settings.calibration_images)
            rows.append(_row(model, "int8", work, settings, lambda: pipeline.add_int8(work, calibrated)))
        if work.paths:
            pipeline.write(work, bundle, plain)
    return rows


def _row(
    model: str,
    precision: Precision,
    work: Any,  # noqa: ANN401 - of the exporter, which is imported where it runs
    settings: Settings,
    step: Callable[[], None],
    start_s: float | None = None,
) -> Row:
    """Take one step of the export, and tell what came of it."""
    from progeo_export.errors import ExportError, GateError

    _say(model, f"{precision} graph")
    start_s = time.monotonic() if start_s is None else start_s
    try:
        step()
        verdict, figures = "passed", work.figures[precision]
    except GateError as error:
        verdict, figures = _one_line(error).partition(";")[0], error.figures
    except ExportError as error:
        verdict, figures = f"failed: {_one_line(error)}", {}
    export_s = time.monotonic() - start_s
    path = work.draft(precision)
    row = Row(model, precision, verdict, dict(figures), settings.opset, export_s=export_s)
    if path.is_file() and figures:
        try:
            run_ms = in_own_process(median_ms, path, work.inputs[:1])
        except BrokenProcessPool:
            run_ms = None
        row = replace(row, size_mb=path.stat().st_size / 1e6, run_ms=run_ms)
    _say(model, f"{precision} {verdict}, {export_s:.0f} s")
    return row


def median_ms(graph: Path, image: NDArray[np.generic]) -> float:
    """Milliseconds of CPU time for one input in one thread, which other work on the machine changes little."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    times_ms = []
    for _ in range(3 + TIMED_RUNS):
        start_s = time.process_time()
        session.run(None, {name: image})
        times_ms.append(1e3 * (time.process_time() - start_s))
    return float(np.median(times_ms[3:]))


def write_table(rows: list[Row], settings: Settings, out: Path) -> None:
    """The rows so far, as Markdown and as JSON."""
    atomic.write_text(out / "export_table.md", table(rows) + "\n")
    content = {"settings": asdict(settings), "rows": [asdict(row) for row in rows]}
    atomic.write_text(out / "export_table.json", json.dumps(content, indent=1))


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [HEADER, ("---",) * len(HEADER), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    figures = row.figures
    loss = recall = ""
    if figures:
        mean, worst = (100 * figures[f"interplace_loss_{name}"] for name in ("mean", "max"))
        loss = f"{mean:.3f} % ({worst:.3f} %)"
        recall = f"{100 * figures['recall_at_1']:.1f} % ({100 * figures['recall_at_1_fp32']:.1f} %)"
    return (
        row.model,
        row.precision,
        str(row.opset),
        f"{figures['mean_cosine_between_places']:.3f}" if figures else "",
        f"{figures['min_cosine']:.7f}" if figures else "",
        loss,
        recall,
        "" if row.size_mb is None else f"{row.size_mb:.1f}",
        "" if row.export_s is None else f"{row.export_s:.0f}",
        "" if row.run_ms is None else f"{row.run_ms:.0f}",
        row.verdict.replace("|", "/"),
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _say(model: str, what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {model}: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
