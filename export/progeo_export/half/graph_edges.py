"""Names, types, producers and consumers of a graph: what typing, islands and audit look up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, helper, numpy_helper, shape_inference

from progeo_export.errors import ExportError


def node_key(node: onnx.NodeProto) -> str:
    """How islands name a node: its own name, or that of its first result where it has none."""
    return node.name or node.output[0]


@dataclass(frozen=True, slots=True)
class GraphEdges:
    """What is known of the tensors of a graph.

    Attributes:
        types: ONNX element type of every tensor.
        producers: Node that gives a tensor; none for inputs and weights.
        consumers: Nodes that read a tensor.
        weights: Stored tensors by name, `Constant` nodes among them.
    """

    types: dict[str, int]
    producers: dict[str, onnx.NodeProto]
    consumers: dict[str, list[onnx.NodeProto]]
    weights: dict[str, onnx.TensorProto]

    def is_float(self, name: str) -> bool:
        """Whether a tensor is float32."""
        return self.types.get(name) == onnx.TensorProto.FLOAT

    def array(self, name: str) -> NDArray[np.generic]:
        """A weight as an array."""
        return numpy_helper.to_array(self.weights[name])


def read_edges(model: onnx.ModelProto) -> GraphEdges:
    """Infer the types of a model and collect who gives and reads what.

    Raises:
        ExportError: types cannot be inferred, two nodes have one name, or a node holds a graph of its own.
    """
    _refuse_subgraphs(model.graph)
    try:
        inferred = shape_inference.infer_shapes(model, strict_mode=True).graph
    except shape_inference.InferenceError as error:
        raise ExportError(f"the graph's types cannot be inferred: {error}") from error
    types = {value.name: value.type.tensor_type.elem_type for value in _values(inferred)}
    types.update((weight.name, weight.data_type) for weight in inferred.initializer)
    producers: dict[str, onnx.NodeProto] = {}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in model.graph.node:
        producers.update((name, node) for name in node.output if name)
        for name in dict.fromkeys(name for name in node.input if name):
            consumers.setdefault(name, []).append(node)
        constant = constant_tensor(node)
        if constant is not None:
            weights[node.output[0]] = constant
    untyped = [name for name in producers if not types.get(name)]
    if untyped:
        raise ExportError(f"the type of tensor {untyped[0]} is unknown; export with shape inference")
    return GraphEdges(types, producers, consumers, weights)


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a `Constant` node holds, named by its result; None for other nodes."""
    if node.op_type != "Constant":
        return None
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(attribute.t)
            tensor.name = node.output[0]
            return tensor
        if attribute.name in ("value_float", "value_floats"):
            numbers = np.asarray(helper.get_attribute_value(attribute), dtype=np.float32)
            return numpy_helper.from_array(numbers, node.output[0])
        if attribute.name in ("value_int", "value_ints"):
            return numpy_helper.from_array(np.asarray(helper.get_attribute_value(attribute)), node.output[0])
    return None


def _values(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    return [*graph.input, *graph.output, *graph.value_info]


def _refuse_subgraphs(graph: onnx.GraphProto) -> None:
    names = Counter(node_key(node) for node in graph.node)
    doubled = [name for name, count in names.items() if count > 1]
    if doubled:
        raise ExportError(f"{names[doubled[0]]} nodes are called {doubled[0]}; node names must differ")
    for node in graph.node:
        if any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute):
            raise ExportError(
                f"node {node_key(node)} ({node.op_type}) holds a graph of its own, which cannot be typed as half"
            )
