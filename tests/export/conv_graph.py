"""A small convolutional encoder made with onnx.helper: stem, pooling, one residual block, and a head in its scope."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from progeo_edge.bundle import Preprocess

SIZE_PX, DIMENSION = 32, 24
STEM, BLOCK, HEAD = ("/trunk/conv1",), ("/trunk/layer1/conv1", "/trunk/layer1/conv2"), ("/head/linear",)
PREPROCESS = Preprocess(
    width_px=SIZE_PX, height_px=SIZE_PX, color="bgr", layout="nhwc", dtype="uint8", mean=None, std=None
)


def conv_graph(*, seed: int = 0, attention: bool = False, head_scope: str = "/head") -> onnx.ModelProto:
    """uint8 (N, 32, 32, 3) BGR to (N, 24) unit rows; the block's two convolutions are what INT8 may take."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray[Any, Any]] = {
        "scale": np.full((1, 3, 1, 1), 1 / 64, np.float32),
        "shift": np.full((1, 3, 1, 1), 2.0, np.float32),
        "stem": rng.normal(0, 0.25, (12, 3, 3, 3)).astype(np.float32),
        "first": rng.normal(0, 0.12, (12, 12, 3, 3)).astype(np.float32),
        "second": rng.normal(0, 0.12, (12, 12, 3, 3)).astype(np.float32),
        "linear": rng.normal(0, 0.1, (12 * 16, DIMENSION)).astype(np.float32),
        "axis": np.array([1], np.int64),
        "smallest": np.array(1e-12, np.float32),
    }
    weights["first"] *= np.geomspace(0.1, 3.0, 12).astype(np.float32)[:, None, None, None]
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["values"], name="/cast", to=TensorProto.FLOAT),
        node("Transpose", ["values"], ["planes"], name="/planes", perm=[0, 3, 1, 2]),
        node("Mul", ["planes", "scale"], ["scaled"], name="/scale"),
        node("Sub", ["scaled", "shift"], ["normalised"], name="/shift"),
        node("Conv", ["normalised", "stem"], ["s"], name=STEM[0], pads=[1, 1, 1, 1]),
        node("Relu", ["s"], ["s_relu"], name="/trunk/relu"),
        node("AveragePool", ["s_relu"], ["pooled"], name="/trunk/pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["pooled", "first"], ["c1"], name=BLOCK[0], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["c1_relu"], name="/trunk/layer1/relu1"),
        node("Conv", ["c1_relu", "second"], ["c2"], name=BLOCK[1], pads=[1, 1, 1, 1]),
        node("Add", ["c2", "pooled"], ["sum"], name="/trunk/layer1/add"),
        *([node("Softmax", ["sum"], ["map"], name="/trunk/softmax")] if attention else []),
        *([] if attention else [node("Relu", ["sum"], ["map"], name="/trunk/layer1/relu2")]),
        node("AveragePool", ["map"], ["grid"], name=f"{head_scope}/pool", kernel_shape=[4, 4], strides=[4, 4]),
        node("Flatten", ["grid"], ["flat"], name=f"{head_scope}/flatten"),
        node("Gemm", ["flat", "linear"], ["projected"], name=f"{head_scope}/linear"),
        node("ReduceL2", ["projected", "axis"], ["norm"], name=f"{head_scope}/norm"),
        node("Max", ["norm", "smallest"], ["safe"], name=f"{head_scope}/max"),
        node("Div", ["projected", "safe"], ["descriptor"], name=f"{head_scope}/div"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE_PX, SIZE_PX, 3])
    output = helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, ["batch", DIMENSION])
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "conv", [image], [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def write_conv_graph(path: Path, **options: bool | int | str) -> Path:
    """Save `conv_graph` and return its path."""
    onnx.save(conv_graph(**options), path)  # type: ignore[arg-type]
    return path
