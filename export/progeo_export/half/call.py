"""One operator of a graph about to be computed: its values, its attributes and how its results are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor

from progeo_export.errors import ExportError

TORCH_TYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.BOOL: torch.bool,
}

NARROW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Call:
    """A node with the values of its inputs.

    Attributes:
        node: The node.
        inputs: Values, half ones raised to float32; None where an optional input is left out.
        stored: Type in which the node's floating tensors are declared; float32 where it has none.
        opset: Version of the operator set of the model.
    """

    node: onnx.NodeProto
    inputs: Sequence[Tensor | None]
    stored: torch.dtype
    opset: int

    def value(self, position: int) -> Tensor:
        """Input `position`, which the operator requires."""
        value = self.optional(position)
        if value is None:
            raise self.refusal(f"input {position} is missing")
        return value

    def optional(self, position: int) -> Tensor | None:
        """Input `position`, or None."""
        return self.inputs[position] if position < len(self.inputs) else None

    def integers(self, position: int, attribute: str) -> list[int] | None:
        """Integers that newer operator sets take as an input and older ones as an attribute."""
        value = self.optional(position)
        if value is not None:
            return [int(number) for number in value.reshape(-1).tolist()]
        listed: list[int] | None = self.attribute(attribute, None)
        return listed

    def attribute(self, name: str, default: Any) -> Any:  # noqa: ANN401 - ints, floats, strings or tensors
        """An attribute as a Python value (text decoded)."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def rounded(self, values: Tensor) -> Tensor:
        """Values as they are after being stored in the declared type."""
        return values.to(self.stored).to(values.dtype) if self.stored in NARROW else values

    def refusal(self, reason: str) -> ExportError:
        """The error that names this node."""
        name = self.node.name or self.node.output[0]
        return ExportError(f"node {name} ({self.node.op_type}): {reason}")
