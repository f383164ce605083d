"""Q/DQ at the outputs of quantised convolutions, without which ONNX Runtime computes them in FP32.

ONNX Runtime takes its integer kernels only for a convolution between Q/DQ on every side. TensorRT and OpenVINO take
theirs by the inputs alone, and a pair more can keep TensorRT from fusing; so this is for graphs that CPUs will run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from progeo_export.ort_runner import run_graph

MAX_IMAGES = 64
"""Calibration images of which the largest values are taken."""

_LARGEST_CODE = 127
_BATCH = 8


@dataclass(frozen=True, slots=True)
class OpenOutput:
    """An output of a quantised convolution that nothing quantises.

    Attributes:
        tensor: Its name.
        measured: Name of the tensor whose largest magnitude is its range: behind a Relu that is its only reader, what
            the Relu gives, since what is below zero does not matter.
        scale: Name of the scale by which that tensor is quantised; None where it is not. Taken here too, the pair
            changes nothing that follows the quantisation: rounding and Relu can be swapped, since the zero point is 0.
    """

    tensor: str
    measured: str
    scale: str | None


def find_open_outputs(model: onnx.ModelProto, quantised: frozenset[str]) -> list[OpenOutput]:
    """Outputs of the quantised convolutions, in the order of the graph.

    Args:
        model: The INT8 graph.
        quantised: Names of the nodes that compute in INT8.
    """
    readers = _readers(model)
    found = []
    for node in model.graph.node:
        if node.op_type != "Conv" or node.name not in quantised:
            continue
        tensor = measured = node.output[0]
        if [reader.op_type for reader in readers[tensor]] == ["Relu"]:
            measured = readers[tensor][0].output[0]
        scales = [reader.input[1] for reader in readers[measured] if reader.op_type == "QuantizeLinear"]
        found.append(OpenOutput(tensor, measured, scales[0] if scales else None))
    return found


def measure_peaks(model: Path, tensors: list[str], inputs: NDArray[Any], input_name: str) -> dict[str, float]:
    """Largest magnitude of each tensor over some images.

    Args:
        model: FP32 graph, which has tensors of these names.
        tensors: Their names.
        inputs: (N, ...) graph inputs; at most `MAX_IMAGES` of them are run, spread evenly.
        input_name: Name of the graph's input.

    Raises:
        ExportError: ONNX Runtime fails on the graph.
    """
    if not tensors:
        return {}
    graph = onnx.load(model)
    peaks = [f"peak/{number}" for number in range(len(tensors))]
    for name, peak in zip(tensors, peaks, strict=True):
        graph.graph.node.append(helper.make_node("Abs", [name], [f"{peak}/abs"]))
        graph.graph.node.append(helper.make_node("ReduceMax", [f"{peak}/abs"], [peak], keepdims=0))
    del graph.graph.output[:]
    graph.graph.output.extend(helper.make_tensor_value_info(peak, onnx.TensorProto.FLOAT, []) for peak in peaks)
    rows = inputs[:: -(-len(inputs) // MAX_IMAGES)]
    batches = [{input_name: np.ascontiguousarray(rows[at : at + _BATCH])} for at in range(0, len(rows), _BATCH)]
    with tempfile.TemporaryDirectory(prefix="progeo-peaks-") as folder:
        onnx.save(graph, Path(folder) / "peaks.onnx")
        results = run_graph(Path(folder) / "peaks.onnx", batches)
    return {name: max(float(one[peak]) for one in results) for name, peak in zip(tensors, peaks, strict=True)}


def close_outputs(model: onnx.ModelProto, outputs: list[OpenOutput], peaks: Mapping[str, float]) -> None:
    """Put a Q/DQ pair behind each output, in place.

    Args:
        model: The INT8 graph.
        outputs: From `find_open_outputs`.
        peaks: Largest magnitude of every tensor that has no scale.
    """
    readers = _readers(model)
    pairs: dict[str, list[onnx.NodeProto]] = {}
    for number, output in enumerate(outputs):
        tag = f"int8_output/{number}"
        scale = output.scale or _add_constant(model, f"{tag}/scale", np.float32(peaks[output.measured] / _LARGEST_CODE))
        zero = _add_constant(model, f"{tag}/zero", np.int8(0))
        pairs[output.tensor] = [
            helper.make_node("QuantizeLinear", [output.tensor, scale, zero], [f"{tag}/q"], name=f"{tag}/quantise"),
            helper.make_node("DequantizeLinear", [f"{tag}/q", scale, zero], [f"{tag}/dq"], name=f"{tag}/dequantise"),
        ]
        for reader in readers[output.tensor]:
            for place, value in enumerate(reader.input):
                if value == output.tensor:
                    reader.input[place] = f"{tag}/dq"
    nodes = [follower for node in model.graph.node for follower in [node, *pairs.get(node.output[0], [])]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = {name: [] for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    return readers


def _add_constant(model: onnx.ModelProto, name: str, value: np.generic) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name
