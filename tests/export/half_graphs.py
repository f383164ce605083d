"""Small FP32 graphs for the tests of half precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

ELEMENT_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.bool_): TensorProto.BOOL,
}


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[Any]]],
    outputs: Mapping[str, tuple[int, Sequence[Any] | None]],
    weights: Mapping[str, Array] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    """A model of nodes; inputs and outputs are (element type, shape) by name."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def place_graph(
    *, seed: int = 0, feature_scale: float = 1.0, layer_norm: Literal["one op", "written out"] | None = None
) -> onnx.ModelProto:
    """uint8 (N, 32, 32, 3) to (N, 24) unit rows: two convolutions, then ProGEO's head (L2, GeM, linear, L2).

    Args:
        seed: Of the weights.
        feature_scale: Factor on the last convolution's weights.
        layer_norm: Normalise the channels before the head, in one operator or in many.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, Array] = {
        "scale": np.full((1, 3, 1, 1), 1 / 58, np.float32),
        "shift": np.full((1, 3, 1, 1), 2.1, np.float32),
        "first": rng.normal(0, 0.25, (16, 3, 5, 5)).astype(np.float32),
        "second": rng.normal(0, 0.12, (48, 16, 3, 3)).astype(np.float32) * np.float32(feature_scale),
        "gamma": np.ones(48, np.float32),
        "linear": rng.normal(0, 0.2, (48, 24)).astype(np.float32),
        "eps": np.array(1e-6, np.float32),
        "norm_eps": np.array(1e-5, np.float32),
        "p": np.array(3.0, np.float32),
        "root": np.array(1 / 3, np.float32),
        "channels": np.array([1], np.int64),
        "last": np.array([-1], np.int64),
        "positions": np.array([2, 3], np.int64),
        "two": np.array(2.0, np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["pixels"], name="/cast", to=TensorProto.FLOAT),
        node("Transpose", ["pixels"], ["planes"], name="/planes", perm=[0, 3, 1, 2]),
        node("Mul", ["planes", "scale"], ["scaled"], name="/scale"),
        node("Sub", ["scaled", "shift"], ["normalised"], name="/shift"),
        node("Conv", ["normalised", "first"], ["one"], name="/trunk/conv1", strides=[2, 2], pads=[2, 2, 2, 2]),
        node("Relu", ["one"], ["active"], name="/trunk/relu1"),
        node("Conv", ["active", "second"], ["map"], name="/trunk/conv2", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["map"], ["raw"], name="/trunk/relu2"),
        *_norm_nodes(layer_norm),
        node("ReduceL2", ["features", "channels"], ["lengths"], name="/head/norm/ReduceL2"),
        node("Max", ["lengths", "eps"], ["safe"], name="/head/norm/Max"),
        node("Div", ["features", "safe"], ["unit"], name="/head/norm/Div"),
        node("Max", ["unit", "eps"], ["clamped"], name="/head/gem/Max"),
        node("Pow", ["clamped", "p"], ["powers"], name="/head/gem/Pow"),
        node("ReduceMean", ["powers", "positions"], ["mean"], name="/head/gem/Mean", keepdims=0),
        node("Pow", ["mean", "root"], ["pooled"], name="/head/gem/Root"),
        node("MatMul", ["pooled", "linear"], ["projected"], name="/head/linear"),
        node("ReduceL2", ["projected", "channels"], ["norm"], name="/head/norm2/ReduceL2"),
        node("Div", ["projected", "norm"], ["descriptor"], name="/head/norm2/Div"),
    ]
    used = {name for each in nodes for name in each.input}
    return model_of(
        nodes,
        {"image": (TensorProto.UINT8, ["n", 32, 32, 3])},
        {"descriptor": (TensorProto.FLOAT, ["n", 24])},
        {name: array for name, array in weights.items() if name in used},
    )


def _norm_nodes(kind: Literal["one op", "written out"] | None) -> list[onnx.NodeProto]:
    node = helper.make_node
    if kind is None:
        return [node("Identity", ["raw"], ["features"], name="/trunk/identity")]
    before = node("Transpose", ["raw"], ["rows"], name="/trunk/rows", perm=[0, 2, 3, 1])
    after = node("Transpose", ["normed"], ["features"], name="/trunk/columns", perm=[0, 3, 1, 2])
    if kind == "one op":
        return [before, node("LayerNormalization", ["rows", "gamma"], ["normed"], name="/trunk/norm"), after]
    return [
        before,
        node("ReduceMean", ["rows", "last"], ["centre"], name="/trunk/norm/mean"),
        node("Sub", ["rows", "centre"], ["centred"], name="/trunk/norm/sub"),
        node("Mul", ["centred", "centred"], ["squared"], name="/trunk/norm/square"),
        node("ReduceMean", ["squared", "last"], ["variance"], name="/trunk/norm/variance"),
        node("Add", ["variance", "norm_eps"], ["positive"], name="/trunk/norm/add"),
        node("Sqrt", ["positive"], ["deviation"], name="/trunk/norm/sqrt"),
        node("Div", ["centred", "deviation"], ["normal"], name="/trunk/norm/div"),
        node("Mul", ["normal", "gamma"], ["normed"], name="/trunk/norm/scale"),
        after,
    ]


def scenes(count: int = 4, size_px: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """(count, size_px, size_px, 3) images of random rectangles over gradients."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 90, size_px)[:, None, None] * np.ones((1, size_px, 3))
    images = []
    for _ in range(count):
        image = ramp * rng.uniform(0.2, 1, 3)
        for _ in range(6):
            top, left = rng.integers(0, size_px - 6, 2)
            image[top : top + rng.integers(3, 16), left : left + rng.integers(3, 16)] = rng.uniform(0, 255, 3)
        images.append(image)
    return np.asarray(images).astype(np.uint8)


def exported_graph(kind: Literal["resnet", "vit"]) -> onnx.ModelProto:
    """A tiny encoder through torch's TorchScript exporter at operator set 17; nodes carry their scopes."""
    # Heavy, and needed by few tests.
    from tests.export.tiny_export import export_tiny

    return export_tiny(kind)


def cosines(left: Array, right: Array) -> NDArray[np.float64]:
    """Cosine of each row with the row of the other array."""
    first, second = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    product: NDArray[np.float64] = (first * second).sum(axis=1) / lengths
    return product
