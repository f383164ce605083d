"""Bakes half precision into the types of an FP32 graph.

TensorRT 11 has no flag for half precision; a typed graph is the one route that works from 10 on and can be judged
without a GPU (`research/export.md` 1.2 and 2.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Literal

import numpy as np
import onnx
from onnx import checker, helper, numpy_helper, shape_inference

from progeo_export.errors import ExportError
from progeo_export.half.graph_edges import GraphEdges, constant_tensor, node_key, read_edges

Precision = Literal["half", "float"]

HALF_MAX = 65504.0

# fmt: off
HALF_OPERATORS = frozenset({
    "Abs", "Add", "AveragePool", "Clip", "Conv", "Div", "Einsum", "Elu", "Erf", "Gelu", "Gemm", "HardSigmoid",
    "HardSwish", "LeakyRelu", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "PRelu", "Relu", "Sigmoid", "Sub",
    "Sum", "Tanh",
})
# fmt: on
"""Computed in half outside the islands. Powers, roots, exponentials, reductions, normalisations and whatever is not
listed keep FP32: they over- and underflow first, and cost little."""

# fmt: off
MOVING_OPERATORS = frozenset({
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalMaxPool", "Identity", "Pad", "Reshape", "Shape",
    "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
})
# fmt: on
"""Take the precision of what they are given."""


def assign_precisions(model: onnx.ModelProto, islands: Set[str], edges: GraphEdges) -> dict[str, Precision]:
    """In which precision every node computes, by `node_key`.

    Args:
        model: FP32 graph, topologically sorted.
        islands: Keys of nodes that stay FP32.
        edges: Of the same model.
    """
    precisions: dict[str, Precision] = {}
    for node in model.graph.node:
        key = node_key(node)
        floats = [name for name in node.input if edges.is_float(name)]
        if key in islands or node.op_type not in HALF_OPERATORS | MOVING_OPERATORS or not floats:
            precisions[key] = "float"
        elif node.op_type in HALF_OPERATORS:
            precisions[key] = "half"
        else:
            precisions[key] = _given_precision(floats, precisions, edges)
    return precisions


def to_half(model: onnx.ModelProto, islands: Set[str]) -> onnx.ModelProto:
    """Type the graph outside the islands as FP16.

    Types of the graph's inputs and outputs stay. Weights that half nodes read are stored as float16. A tensor that
    crosses is cast once, however many nodes read it.

    Args:
        model: FP32 graph with its weights inside; not changed.
        islands: Keys (`node_key`) of the nodes that stay FP32, as of `default_islands` and `widen`.

    Returns:
        A graph that passes ONNX's full check.

    Raises:
        ExportError: an island names no node, a weight of the half part exceeds 65504, the graph is already typed, or
            the result does not pass the check.
    """
    _check_order(model)
    edges = read_edges(model)
    _check_islands(model, islands, edges)
    precisions = assign_precisions(model, islands, edges)
    typed = _Typing(model, precisions, edges).convert()
    try:
        typed = shape_inference.infer_shapes(typed, check_type=True, strict_mode=True)
        checker.check_model(typed, full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        raise ExportError(f"the graph typed as half does not pass ONNX's check: {error}") from error
    return typed


def count_precisions(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of a typed graph give half tensors ("half") and float32 ones ("float"), and its "casts"."""
    types = read_edges(model).types
    given = [types[node.output[0]] for node in model.graph.node if node.op_type not in ("Cast", "Constant")]
    return {
        "half": given.count(onnx.TensorProto.FLOAT16),
        "float": given.count(onnx.TensorProto.FLOAT),
        "casts": sum(node.op_type == "Cast" for node in model.graph.node),
    }


def _given_precision(floats: Iterable[str], precisions: Mapping[str, Precision], edges: GraphEdges) -> Precision:
    """Half if any of the tensors is half, or if all are weights."""
    dynamic = [name for name in floats if name not in edges.weights]
    if not dynamic:
        return "half"
    producers = [edges.producers.get(name) for name in dynamic]
    return "half" if any(node is not None and precisions[node_key(node)] == "half" for node in producers) else "float"


def _check_order(model: onnx.ModelProto) -> None:
    try:
        checker.check_model(model)
    except checker.ValidationError as error:
        raise ExportError(f"the FP32 graph does not pass ONNX's check: {error}") from error


def _check_islands(model: onnx.ModelProto, islands: Set[str], edges: GraphEdges) -> None:
    unknown = sorted(islands - {node_key(node) for node in model.graph.node})
    if unknown:
        raise ExportError(f"the FP32 island names {unknown[0]}, which is no node of the graph")
    halves = [name for name, kind in edges.types.items() if kind == onnx.TensorProto.FLOAT16]
    if halves:
        raise ExportError(f"tensor {halves[0]} is FP16 already; give the FP32 graph")


class _Typing:
    """One conversion: walks the nodes in order and writes the typed graph."""

    def __init__(self, model: onnx.ModelProto, precisions: Mapping[str, Precision], edges: GraphEdges) -> None:
        self._model = model
        self._precisions = precisions
        self._edges = edges
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._outputs = {value.name for value in model.graph.output}
        self._taken = set(edges.types)
        # Where a tensor is found in a precision, once it has been stored or cast so.
        self._found: dict[tuple[str, Precision], str] = {}

    def convert(self) -> onnx.ModelProto:
        graph = self._model.graph
        for value in graph.input:
            self._found[value.name, "float"] = value.name
        for node in graph.node:
            if constant_tensor(node) is None:
                self._add(node)
        for name in self._outputs & set(self._edges.weights):
            self._weights[name] = self._edges.weights[name]
        typed = onnx.ModelProto()
        typed.CopyFrom(self._model)
        for field in ("node", "initializer", "value_info"):
            typed.graph.ClearField(field)
        typed.graph.node.extend(self._nodes)
        typed.graph.initializer.extend(self._weights.values())
        return typed

    def _add(self, node: onnx.NodeProto) -> None:
        precision = self._precisions[node_key(node)]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for position, name in enumerate(node.input):
            if name:
                copy.input[position] = self._read(name, precision, node)
        closing = list(self._store(copy, precision)) if precision == "half" else []
        if precision == "float":
            self._found.update(((name, "float"), name) for name in node.output)
        self._nodes.append(copy)
        self._nodes.extend(closing)

    def _read(self, name: str, precision: Precision, node: onnx.NodeProto) -> str:
        """The name under which a node of this precision reads a tensor; casts or stores it if need be."""
        if name in self._edges.weights:
            return self._weight(name, precision, node)
        if not self._edges.is_float(name):
            return name
        if (name, precision) not in self._found:
            given = self._found[name, "half" if precision == "float" else "float"]
            cast = self._new_name(f"{name}_{precision}")
            self._nodes.append(_cast(given, cast, precision))
            self._found[name, precision] = cast
        return self._found[name, precision]

    def _store(self, node: onnx.NodeProto, precision: Precision) -> Iterator[onnx.NodeProto]:
        """Register the half results of a node; yields the casts that keep the graph's outputs FP32."""
        for position, name in enumerate(node.output):
            if not name or not self._edges.is_float(name):
                continue
            if name in self._outputs:
                node.output[position] = self._new_name(f"{name}_half")
                self._found[name, "float"] = name
                yield _cast(node.output[position], name, "float")
            self._found[name, precision] = node.output[position]

    def _weight(self, name: str, precision: Precision, node: onnx.NodeProto) -> str:
        tensor = self._edges.weights[name]
        if precision == "float" or tensor.data_type != onnx.TensorProto.FLOAT:
            self._weights[name] = tensor
            return name
        if (name, "half") not in self._found:
            half = self._new_name(f"{name}_half")
            self._weights[half] = numpy_helper.from_array(_rounded(self._edges, name, node), half)
            self._found[name, "half"] = half
        return self._found[name, "half"]

    def _new_name(self, wanted: str) -> str:
        name, number = wanted, 2
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name


def _rounded(edges: GraphEdges, name: str, node: onnx.NodeProto) -> np.ndarray:
    values = edges.array(name)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    lost = np.isfinite(values) & ~np.isfinite(half)
    if lost.any():
        largest = float(np.abs(values[lost]).max())
        raise ExportError(
            f"weight {name} of node {node_key(node)} reaches {largest:.4g}, above {HALF_MAX:g}, the largest number of "
            "half precision; add the node to the FP32 island (the range audit does so by itself)"
        )
    return half


def _cast(given: str, result: str, precision: Precision) -> onnx.NodeProto:
    to = onnx.TensorProto.FLOAT16 if precision == "half" else onnx.TensorProto.FLOAT
    return helper.make_node("Cast", [given], [result], name=f"cast_{result}", to=to)
