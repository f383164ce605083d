"""INT8 as Q/DQ nodes in the ONNX: symmetric, per channel, calibrated on real images, head and stem left in FP32.

Q/DQ pairs are the one form that TensorRT 8.6 to 11 read; zero points are 0, as TensorRT demands. Where they stand
depends on who will run the graph: `int8_outputs` says why.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from progeo_edge.bundle import Preprocess
from progeo_edge.preprocess import to_model_input
from progeo_edge.types import Image
from progeo_export.errors import ExportError
from progeo_export.int8_outputs import close_outputs, find_open_outputs, measure_peaks
from progeo_export.probe_images import is_picture
from progeo_export.quantise_worker import QUANTISED_OPS, Request
from progeo_export.worker import run_module

_log = logging.getLogger(__name__)

MIN_IMAGES = 100
"""Fewer distinct calibration images are refused: the ranges would be those of a few views."""
RECOMMENDED_IMAGES = 500
MAX_IMAGES = 1024

Calibrator = Literal["percentile", "minmax", "entropy"]
Target = Literal["tensorrt", "cpu"]

_MAX_SHARE_NO_PICTURE = 0.1
_ATTENTION_OPS = frozenset({"LayerNormalization", "Softmax", "Attention"})
_POOLS = frozenset({"AveragePool", "MaxPool"})
_MAX_STEM_CONVS = 3
_TIME_LIMIT_S = 4 * 3600


@dataclass(frozen=True, slots=True)
class Int8Report:
    """What was done.

    Attributes:
        quantised: Names of the nodes that compute in INT8.
        kept: Names of the weighted nodes that do not: stem, head, and what was excluded.
        num_images: Distinct calibration images.
        calibrator: How ranges were chosen.
        notes: Warnings, for the manifest.
    """

    quantised: tuple[str, ...]
    kept: tuple[str, ...]
    num_images: int
    calibrator: Calibrator
    notes: tuple[str, ...]


def quantise(
    model: Path,
    images: Iterable[Image],
    preprocess: Preprocess,
    out: Path,
    *,
    calibrator: Calibrator = "percentile",
    target: Target = "tensorrt",
    exclude: Iterable[str] = (),
    force: bool = False,
    input_name: str = "image",
    threads: int | None = None,
) -> Int8Report:
    """Write the INT8 graph of an FP32 one.

    Args:
        model: FP32 graph; the nodes of its head have "head" in their scope ("head/linear").
        images: Calibration images, (H, W, 3) BGR uint8 of any size: real ones, of the camera that will be used. At most
            `MAX_IMAGES` are taken.
        preprocess: How they become the graph's input.
        out: Where the graph goes.
        calibrator: "percentile" keeps 99.99 per cent of the values, "minmax" all, "entropy" minimises the divergence.
        target: Who will run it. "tensorrt" quantises what goes into convolutions and matrix products; "cpu" also what
            comes out of convolutions, without which ONNX Runtime computes them in FP32, and all of the stem but its
            first convolution.
        exclude: Names of further nodes to keep in FP32.
        force: Also quantise graphs with attention, which lose much and gain little.
        input_name: Name of the graph's input.
        threads: Cores to use; None for all.

    Raises:
        ExportError: attention without `force`; too few, repeated or random images; nothing to quantise; the quantiser
            failed, or its graph is not what was asked for.
    """
    graph = onnx.load(model)
    _refuse_attention(graph, force)
    quantised, kept = _split_nodes(graph, frozenset(exclude), target)
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Path(scratch) / "inputs.npy"
        count, notes = _write_inputs(images, preprocess, inputs)
        request = Request(str(model), str(out), str(inputs), count, input_name, calibrator, quantised, threads)
        _run_worker(request, Path(scratch) / "request.json")
        result = onnx.load(out)
        _leave_residuals(result, frozenset(quantised))
        check_quantised(result, quantised)
        if target == "cpu":
            _close_outputs(
                result,
                frozenset(quantised),
                model,
                np.load(inputs, mmap_mode="r", allow_pickle=False)[:count],
                input_name,
            )
    onnx.save(result, out)
    for note in notes:
        _log.warning("%s", note)
    return Int8Report(tuple(quantised), tuple(kept), count, calibrator, notes)


def check_quantised(model: onnx.ModelProto, quantised: Iterable[str]) -> None:
    """Read in the graph itself that it is what TensorRT takes, whatever the quantiser was asked for.

    Raises:
        ExportError: the checker refuses it, a zero point is not 0, a weight has one scale for all channels, or a node
            is quantised that should not be, or the reverse.
    """
    remedy = "use the onnxruntime version that pip install 'progeo-edge[export]' gives"
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the INT8 graph is no valid ONNX: {error}; {remedy}") from error
    quantised = frozenset(quantised)
    constants = {item.name: item for item in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        has_zero_point = node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2
        if has_zero_point and np.any(numpy_helper.to_array(constants[node.input[2]])):
            raise ExportError(f"zero point {node.input[2]!r} of the INT8 graph is not 0; {remedy}")
    by_name = {node.name: node for node in model.graph.node}
    for name in sorted(quantised):
        pair = [producers.get(value) for value in by_name[name].input[:2]]
        if any(source is None or source.op_type != "DequantizeLinear" for source in pair):
            raise ExportError(f"node {name!r} was to be quantised, but its input or weight has no Q/DQ; {remedy}")
        scale = constants[pair[1].input[1]] if pair[1] is not None else None
        if scale is None or len(scale.dims) != 1:
            raise ExportError(f"the weight of node {name!r} has one scale for all channels; {remedy}")
    for node in model.graph.node:
        sources = [producers[value].op_type for value in node.input if value in producers]
        if "DequantizeLinear" in sources and node.name not in quantised:
            raise ExportError(f"node {node.name!r} was to stay in FP32, but it has Q/DQ; {remedy}")


def is_head(name: str) -> bool:
    """Whether a node's name has "head" in its scope."""
    return "head" in re.split(r"[/.]", name)


def _refuse_attention(graph: onnx.ModelProto, force: bool) -> None:
    found = sorted({node.op_type for node in graph.graph.node} & _ATTENTION_OPS)
    if found and not force:
        raise ExportError(
            f"the graph has {', '.join(found)}, so it is a transformer: in INT8 these lose much accuracy and are often "
            "slower than in FP16; use --fp16, or --int8 --force to try all the same"
        )


def _split_nodes(graph: onnx.ModelProto, exclude: frozenset[str], target: Target) -> tuple[list[str], list[str]]:
    """Names of the weighted nodes to quantise, and of those to keep."""
    constants = {item.name for item in graph.graph.initializer}
    weighted = [n for n in graph.graph.node if n.op_type in QUANTISED_OPS and n.input[1] in constants]
    if not any(is_head(node.name) for node in graph.graph.node):
        raise ExportError(
            "no node of the graph has 'head' in its name, so the head cannot be kept in FP32; export again"
        )
    kept = _stem(graph, target) | exclude
    names = [node.name for node in weighted if node.name not in kept and not is_head(node.name)]
    if not names:
        raise ExportError("the graph has no convolution or matrix product between stem and head; nothing to quantise")
    return names, [node.name for node in weighted if node.name not in names]


def _stem(graph: onnx.ModelProto, target: Target) -> set[str]:
    """All before the first convolution (a fused resize), and the convolutions up to the first pooling.

    Without a pooling after one to three convolutions the stem is the first convolution alone. So it is for CPUs: the
    two others of an RN50 were an eighth of the time there, and lost nothing (docs/encoder_speed.md).
    """
    nodes = list(graph.graph.node)
    first = next((k for k, node in enumerate(nodes) if node.op_type == "Conv"), -1)
    before_pool = list(takewhile(lambda node: node.op_type not in _POOLS, nodes))
    convs = [node.name for node in before_pool if node.op_type == "Conv"]
    has_stem = target == "tensorrt" and len(before_pool) < len(nodes) and len(convs) <= _MAX_STEM_CONVS
    return {node.name for node in nodes[: first + 1]} | (set(convs) if has_stem else set())


def _leave_residuals(graph: onnx.ModelProto, quantised: frozenset[str]) -> None:
    """Give every node that is not quantised the tensor as it was before Q/DQ.

    The quantiser replaces a tensor for all its readers, so the sums of a residual network would add up the rounding of
    every block; measured on RN50, that loses a fifth more of the distance between places.
    """
    source = {
        output: (node.op_type, node.input[0]) for node in graph.graph.node for output in node.output if node.input
    }
    for node in graph.graph.node:
        if node.name in quantised:
            continue
        for k, value in enumerate(node.input):
            kind, rounded = source.get(value, ("", ""))
            if kind == "DequantizeLinear" and source.get(rounded, ("", ""))[0] == "QuantizeLinear":
                node.input[k] = source[rounded][1]


def _close_outputs(
    graph: onnx.ModelProto, quantised: frozenset[str], model: Path, inputs: NDArray[Any], input_name: str
) -> None:
    """Quantise what comes out of the convolutions, and let the checker look at the result."""
    outputs = find_open_outputs(graph, quantised)
    unknown = [output.measured for output in outputs if output.scale is None]
    close_outputs(graph, outputs, measure_peaks(model, unknown, inputs, input_name))
    onnx.checker.check_model(graph, full_check=True)


def _write_inputs(images: Iterable[Image], preprocess: Preprocess, path: Path) -> tuple[int, tuple[str, ...]]:
    """Write the graph inputs of the distinct pictures; returns their number and the warnings."""
    shape = to_model_input([], preprocess).shape[1:]
    # On disk, because a thousand inputs of 512 x 512 pixels may not fit in memory beside the model.
    rows = np.lib.format.open_memmap(path, "w+", dtype=preprocess.dtype, shape=(MAX_IMAGES, *shape))
    seen: set[str] = set()
    total = num_no_picture = 0
    for image in images:
        total += 1
        if not is_picture(image):
            num_no_picture += 1
            continue
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        if digest not in seen and len(seen) < MAX_IMAGES:
            rows[len(seen)] = to_model_input([image], preprocess)[0]
            seen.add(digest)
    rows.flush()
    _judge_images(total, num_no_picture, len(seen))
    notes = []
    if len(seen) < RECOMMENDED_IMAGES:
        notes.append(
            f"INT8 was calibrated on {len(seen)} images; at least {RECOMMENDED_IMAGES} of the robot's own camera are "
            "recommended"
        )
    if num_no_picture:
        notes.append(f"{num_no_picture} of {total} calibration images are blank or noise and were left out")
    return len(seen), tuple(notes)


def _judge_images(total: int, num_no_picture: int, num_distinct: int) -> None:
    if total and num_no_picture > _MAX_SHARE_NO_PICTURE * total:
        raise ExportError(
            f"{num_no_picture} of {total} calibration images are blank or noise; INT8 ranges must come from "
            "real images of the camera that will be used"
        )
    if num_distinct < MIN_IMAGES:
        raise ExportError(
            f"{num_distinct} different calibration images of {total} given are too few; expected at least "
            f"{MIN_IMAGES}, better {RECOMMENDED_IMAGES} or more, of many places"
        )


def _run_worker(request: Request, file: Path) -> None:
    file.write_text(json.dumps(asdict(request)), encoding="utf-8")
    run_module(
        "progeo_export.quantise_worker",
        str(file),
        work="INT8 quantisation",
        timeout_s=_TIME_LIMIT_S,
        remedy="export without --int8, or report this with the model's architecture",
    )
