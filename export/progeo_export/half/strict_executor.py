"""Computes an ONNX graph as its types say: every tensor is stored in its declared type after every operator.

ONNX Runtime on a CPU inserts casts and computes half graphs in float32, so it passes graphs that give infinities on
a device: Cast to half, x * x, ReduceSum, Sqrt of x = 1000 is 8000 there and infinite on hardware
(`research/export.md` 2.4). This executor is what an FP16 graph is judged by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from progeo_export.errors import ExportError
from progeo_export.half.call import NARROW, Call
from progeo_export.half.elementwise_operators import ELEMENTWISE, Operator
from progeo_export.half.layer_operators import LAYERS
from progeo_export.half.moving_operators import MOVING, to_tensor

Observer = Callable[[str, Tensor], None]

OPERATORS: dict[str, Operator] = {**ELEMENTWISE, **LAYERS, **MOVING}
OLDEST_OPSET = 13

_MIXED_FLOATS = frozenset({"BatchNormalization", "Pow", "QuantizeLinear", "Cast", "Shape"})
"""Operators whose floating inputs may differ in type."""


class StrictExecutor:
    """Runs one graph with torch on the CPU, in the precision that each tensor is declared in.

    Convolutions and matrix products accumulate in float32 and are rounded once; values above 65504 become infinite
    in half, as on a device.

    Args:
        model: The graph, with its weights inside.

    Raises:
        ExportError: an operator or operator set that is not known here, named.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._opset = _opset(model)
        graph = model.graph
        _refuse_unknown(graph)
        self._nodes = list(graph.node)
        self._weights = {weight.name: to_tensor(numpy_helper.to_array(weight)) for weight in graph.initializer}
        self._inputs = [value.name for value in graph.input if value.name not in self._weights]
        self._outputs = [value.name for value in graph.output]
        self._uses = Counter(name for node in graph.node for name in node.input)
        self._uses.update(self._outputs)

    def run(self, inputs: Mapping[str, NDArray[Any]], observe: Observer | None = None) -> dict[str, NDArray[Any]]:
        """Compute the outputs.

        Args:
            inputs: Array of every graph input, by name, in the type that the graph declares.
            observe: Called with name and value of every tensor that a node gives; None observes nothing.

        Returns:
            Array of every graph output, by name.

        Raises:
            ExportError: an input is missing, or a node mixes floating types, or has a form that is not known.
        """
        missing = [name for name in self._inputs if name not in inputs]
        if missing:
            raise ExportError(f"the graph's input {missing[0]} is not given; given are {sorted(inputs)}")
        values = dict(self._weights)
        values.update((name, to_tensor(inputs[name])) for name in self._inputs)
        uses = Counter(self._uses)
        with torch.no_grad():
            for node in self._nodes:
                for name, result in zip(node.output, self._compute(node, values), strict=False):
                    values[name] = result
                    if observe is not None and name:
                        observe(name, result)
                _forget_used(node, values, uses)
        return {name: np.array(values[name].numpy()) for name in self._outputs}

    def _compute(self, node: onnx.NodeProto, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        stored = [values[name] if name else None for name in node.input]
        declared = _float_type(node, stored)
        raised = [value.float() if value is not None and value.dtype in NARROW else value for value in stored]
        call = Call(node, raised, declared, self._opset)
        try:
            result = OPERATORS[node.op_type](call)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise call.refusal(f"cannot be computed: {error}") from error
        results = result if isinstance(result, tuple) else (result,)
        if node.op_type == "Cast" or declared not in NARROW:
            return results
        return tuple(each.to(declared) if each.is_floating_point() else each for each in results)


def _opset(model: onnx.ModelProto) -> int:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    version = int(versions.get("", versions.get("ai.onnx", 0)))
    if version < OLDEST_OPSET:
        raise ExportError(f"the graph uses operator set {version}; the strict executor needs {OLDEST_OPSET} or later")
    return version


def _refuse_unknown(graph: onnx.GraphProto) -> None:
    unknown = {
        node.op_type: node.name or node.output[0]
        for node in graph.node
        if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx")
    }
    if unknown:
        named = ", ".join(f"{operator} (node {name})" for operator, name in sorted(unknown.items()))
        raise ExportError(
            f"the strict executor does not know {named}; half precision cannot be proven for this graph: "
            "export without --fp16, or add the operator to progeo_export.half"
        )


def _float_type(node: onnx.NodeProto, inputs: list[Tensor | None]) -> torch.dtype:
    """The type in which the node's floating results are stored: that of its floating inputs."""
    floats = [value.dtype for value in inputs if value is not None and value.is_floating_point()]
    if not floats:
        return torch.float32
    if len(set(floats)) > 1 and node.op_type not in _MIXED_FLOATS:
        names = " and ".join(sorted({str(dtype).removeprefix("torch.") for dtype in floats}))
        raise ExportError(f"node {node.name or node.output[0]} ({node.op_type}) mixes {names}; a cast is missing")
    return floats[0]


def _forget_used(node: onnx.NodeProto, values: dict[str, Tensor], uses: Counter[str]) -> None:
    """Drop the values that no later node reads."""
    for name in node.input:
        uses[name] -= 1
        if uses[name] == 0:
            values.pop(name, None)
