"""From a checkpoint to a bundle that has proven itself: every step that `progeo-export` takes, in their order."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from progeo_edge.bundle import NOT_TRAINED, Manifest, Precision
from progeo_edge.preprocess import to_model_input
from progeo_edge.types import Image
from progeo_export.bundle_writer import BundleRecord, refuse_existing, write_bundle
from progeo_export.checkpoint_input import SourceModel, open_model
from progeo_export.errors import ExportError
from progeo_export.fp32_parity import fp32_parity, reference_descriptors
from progeo_export.gates import LIMITS, check, measure
from progeo_export.graph_module import DescriptorGraph, InputKind
from progeo_export.half.half_typing import count_precisions, to_half
from progeo_export.half.islands import default_islands, describe_islands, widen
from progeo_export.half.range_audit import audit_ranges
from progeo_export.half.strict_executor import StrictExecutor
from progeo_export.int8 import Target, quantise
from progeo_export.onnx_export import INPUT_NAME, OUTPUT_NAME, Opset, export_graph
from progeo_export.ort_runner import run_graph
from progeo_export.probe_images import ProbeImages, golden_inputs

_log = logging.getLogger(__name__)

BATCH = 8
"""Images at a time where only the descriptors matter."""
NUM_RANDOM = 4
"""Images of noise in the FP32 comparison, beside the probe images: they reach other parts of the activations."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the user asked for.

    Attributes:
        fp16: Also write the half graph.
        int8: Also write the INT8 graph.
        int8_for: Who will run it; see `int8.quantise`.
        calibration: Real images for INT8, and for the range audit of FP16; None audits on the probe images.
        size_px: Height and width of the input; None keeps the checkpoint's.
        max_batch: Largest batch that is compared, and that engines are built for.
        opset: 18, or 17 for TensorRT 8.6.
        input_kind: "uint8" or "float".
        fuse_resize_px: Height and width of a fixed camera's frames, resized in the graph; None resizes before it.
        force: Replace an existing bundle; quantise attention too.
    """

    fp16: bool = False
    int8: bool = False
    int8_for: Target = "tensorrt"
    calibration: tuple[Image, ...] | None = None
    size_px: tuple[int, int] | None = None
    max_batch: int = 8
    opset: Opset = 18
    input_kind: InputKind = "uint8"
    fuse_resize_px: tuple[int, int] | None = None
    force: bool = False


@dataclass(slots=True)
class Work:
    """An export under way: what its steps share.

    Attributes:
        source: The model.
        graph: Its module.
        probe: Images that it is judged on.
        shown: N images as torch is shown them.
        inputs: (N, ...) the probe images as the graph takes them.
        reference: (N, D) what torch computes for them.
        folder: For graphs under way.
        paths: Graph of each precision.
        figures: Of each precision.
        islands: Nodes that stay FP32 in the half graph.
        notes: For the manifest.
    """

    source: SourceModel
    graph: DescriptorGraph
    probe: ProbeImages
    shown: Sequence[Image]
    inputs: NDArray[Any]
    reference: NDArray[np.float32]
    folder: Path
    paths: dict[Precision, Path] = field(default_factory=dict)
    figures: dict[Precision, dict[str, float]] = field(default_factory=dict)
    islands: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def draft(self, precision: Precision) -> Path:
        """Where the graph of a precision is written; it stays there when a gate refuses it."""
        return self.folder / f"{precision}.onnx"


def export_bundle(
    source: SourceModel | str,
    out: Path,
    probe: ProbeImages,
    options: ExportOptions,
    progress: Callable[[str], object] = lambda _: None,
) -> Manifest:
    """Export a model; the bundle appears only when every gate has been passed.

    Args:
        source: An open model, or what `open_model` takes; `options.size_px` holds for the latter.
        out: Folder of the bundle.
        probe: Images that the graphs are judged on.
        options: What to make.
        progress: Told what begins.

    Raises:
        ExportError: a gate was not passed, with the figures; or a step failed.
        ModelError: the source cannot be opened.
    """
    refuse_existing(out, force=options.force)
    if isinstance(source, str):
        progress("opening the model")
        source = open_model(source, options.size_px)
    graph = DescriptorGraph(source.encoder, input_kind=options.input_kind, fuse_resize_px=options.fuse_resize_px)
    with tempfile.TemporaryDirectory(prefix="progeo-export-") as folder:
        progress("describing the probe images in torch")
        work = prepare(source, graph, probe, Path(folder))
        progress("writing and comparing the FP32 graph")
        add_fp32(work, options)
        if options.fp16:
            progress("typing the FP16 graph and computing it strictly")
            add_fp16(work, options)
        if options.int8:
            progress("quantising and comparing the INT8 graph")
            add_int8(work, options)
        progress("writing the bundle")
        return write(work, out, options)


def prepare(model: SourceModel, graph: DescriptorGraph, probe: ProbeImages, folder: Path) -> Work:
    """Describe the probe images in torch: what every graph is compared with.

    Args:
        model: To export.
        graph: Its module.
        probe: Images to judge by.
        folder: Exists, and holds the graphs under way.

    Raises:
        ExportError: torch itself gives descriptors that are zero or not finite.
    """
    inputs = to_model_input(probe.images, graph.preprocess)
    # A fused resize sees the camera's frames; torch is shown the same ones.
    shown: Sequence[Image] = probe.images if graph.input_kind == "float" else list(inputs)
    with np.errstate(invalid="ignore"):  # of a zero descriptor, refused below
        reference = reference_descriptors(model.encoder, shown).astype(np.float32)
    if not np.isfinite(reference).all():
        raise ExportError(
            f"{model.name} is refused: torch itself gives descriptors that are zero or not finite for the probe "
            "images; check that the checkpoint is a trained one"
        )
    notes = [] if model.warning is None else [model.warning]
    return Work(model, graph, probe, shown, inputs, reference, folder, notes=notes)


def add_fp32(work: Work, options: ExportOptions) -> None:
    """Write the FP32 graph, which the others are made of, and compare it with torch.

    Raises:
        ExportError: torch cannot export the model.
        GateError: a gate was not passed.
    """
    path = work.draft("fp32")
    export_graph(work.graph, work.graph.example(), path, options.opset)
    noise = np.random.default_rng(0).integers(0, 256, (NUM_RANDOM, *work.graph.input_size_px, 3), dtype=np.uint8)
    some = [*work.shown[: 2 * NUM_RANDOM], *noise]
    parity = fp32_parity(path, work.graph, some, sorted({1, 2, options.max_batch}))
    figures = _measure(work, _run(path, work.inputs))
    figures["min_cosine"] = min(figures["min_cosine"], parity["min_cosine"])
    figures["max_norm_error"] = max(figures["max_norm_error"], parity["max_norm_error"])
    check(figures, LIMITS["fp32"], graph="the FP32 graph")
    _keep(work, "fp32", path, figures | {"max_abs_difference": parity["max_abs_difference"]})


def add_fp16(work: Work, options: ExportOptions) -> None:
    """Type the FP32 graph as half outside the islands, and compute it strictly.

    Raises:
        ExportError: an operator that the strict executor does not know, or ONNX Runtime fails on the graph.
        GateError: a gate was not passed.
    """
    model = onnx.load(work.paths["fp32"])
    islands = default_islands(model)
    shown = work.inputs if options.calibration is None else to_model_input(options.calibration, work.graph.preprocess)
    audit = audit_ranges(model, ({INPUT_NAME: shown[first : first + BATCH]} for first in range(0, len(shown), BATCH)))
    islands, widenings = widen(model, islands, audit)
    for widening in widenings:
        work.notes.append(f"kept in FP32: {widening.operator} {widening.node} ({widening.reason})")
        _log.warning("FP16: %s %s stays FP32: %s", widening.operator, widening.node, widening.reason)
    half = to_half(model, islands)
    executor = StrictExecutor(half)
    rows = [
        executor.run({INPUT_NAME: work.inputs[first : first + BATCH]})[OUTPUT_NAME]
        for first in range(0, len(work.inputs), BATCH)
    ]
    figures = _measure(work, np.concatenate(rows))
    check(figures, LIMITS["fp16"], graph="the FP16 graph")
    path = work.draft("fp16")
    onnx.save(half, path)
    # ONNX Runtime computes it in FP32 and proves nothing about half, but it must load and run there.
    run_graph(path, [{INPUT_NAME: work.inputs[:1]}])
    work.islands = tuple(sorted(islands))
    work.notes.append(_half_in_words(count_precisions(half), describe_islands(model, islands)))
    _keep(work, "fp16", path, figures)


def _half_in_words(counts: Mapping[str, int], islands: Mapping[str, int]) -> str:
    kept = ", ".join(f"{count} {operator}" for operator, count in sorted(islands.items()))
    return f"FP16: {counts['half']} nodes in half, {counts['float']} in FP32 ({kept}), {counts['casts']} casts"


def add_int8(work: Work, options: ExportOptions) -> None:
    """Quantise the FP32 graph with the calibration images, and compare it with torch.

    Raises:
        ExportError: see `quantise`.
        GateError: a gate was not passed.
    """
    path = work.draft("int8")
    images = options.calibration or ()
    report = quantise(
        work.paths["fp32"], images, work.graph.preprocess, path, target=options.int8_for, force=options.force
    )
    figures = _measure(work, _run(path, work.inputs))
    check(figures, LIMITS["int8"], graph="the INT8 graph")
    work.notes.extend(report.notes)
    work.notes.append(
        f"INT8: {len(report.quantised)} nodes, {report.num_images} images, {report.calibrator}, for {options.int8_for}"
    )
    _keep(work, "int8", path, figures)


def _keep(work: Work, precision: Precision, path: Path, figures: dict[str, float]) -> None:
    work.paths[precision], work.figures[precision] = path, figures


def _run(path: Path, inputs: NDArray[Any]) -> NDArray[np.float32]:
    batches = [{INPUT_NAME: inputs[first : first + BATCH]} for first in range(0, len(inputs), BATCH)]
    return np.concatenate([outputs[OUTPUT_NAME] for outputs in run_graph(path, batches)])


def _measure(work: Work, found: NDArray[np.float32]) -> dict[str, float]:
    probe = work.probe
    return measure(
        work.reference,
        found,
        different_places=probe.different_places,
        is_query=probe.is_query,
        same_place=probe.same_place,
    )


def write(work: Work, out: Path, options: ExportOptions) -> Manifest:
    """Write the bundle of the graphs that passed; see `write_bundle`."""
    preprocess = work.graph.preprocess
    golden = golden_inputs(work.probe, preprocess)
    record = BundleRecord(
        name=work.source.name,
        architecture=work.source.architecture,
        preprocess=preprocess,
        opset=options.opset,
        checkpoint_sha256=work.source.checkpoint_sha256,
        max_batch=options.max_batch,
        islands=work.islands,
        probe_images=work.probe.source,
        notes=(*([] if work.source.warning is None else [NOT_TRAINED]), *work.notes),
        input_name=INPUT_NAME,
        output_name=OUTPUT_NAME,
    )
    descriptors = _run(work.paths["fp32"], to_model_input(list(golden), preprocess))
    return write_bundle(out, work.paths, record, work.figures, golden, descriptors, force=options.force)
