from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, checker, helper, numpy_helper, shape_inference

from progeo_export.errors import ExportError
from progeo_export.half.half_typing import count_precisions, to_half
from progeo_export.half.islands import default_islands
from progeo_export.half.strict_executor import StrictExecutor
from tests.export.half_graphs import cosines, exported_graph, model_of, place_graph, scenes

_LOAD = """
import sys
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
np.save(sys.argv[3], session.run(None, {"image": np.load(sys.argv[2])})[0])
"""


def _types(model: onnx.ModelProto) -> dict[str, int]:
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    return {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.input, *graph.output]}


def _assert_sorted(model: onnx.ModelProto) -> None:
    known = {value.name for value in model.graph.input} | {weight.name for weight in model.graph.initializer}
    for node in model.graph.node:
        assert {name for name in node.input if name} <= known
        assert known.isdisjoint(node.output)
        known.update(node.output)


@pytest.mark.parametrize("norm", [None, "one op", "written out"])
def test_the_trunk_is_half_and_the_head_is_not(norm: Literal["one op", "written out"] | None) -> None:
    model = place_graph(layer_norm=norm)
    typed = to_half(model, default_islands(model))
    checker.check_model(typed, full_check=True)
    _assert_sorted(typed)
    assert typed.graph.input == model.graph.input and typed.graph.output == model.graph.output
    types = _types(typed)
    for node in typed.graph.node:
        in_trunk = node.op_type in ("Conv", "Relu")
        if node.name.startswith("/head") or in_trunk:
            wanted = TensorProto.FLOAT16 if in_trunk else TensorProto.FLOAT
            assert types[node.output[0]] == wanted, node.name
    if norm == "one op":
        (layer_norm,) = [node for node in typed.graph.node if node.op_type == "LayerNormalization"]
        assert types[layer_norm.input[0]] == types[layer_norm.output[0]] == TensorProto.FLOAT
    if norm == "written out":
        written = [node for node in typed.graph.node if node.name.startswith("/trunk/norm/") and node.op_type != "Mul"]
        assert all(types[node.output[0]] == TensorProto.FLOAT for node in written)
    images = {"image": scenes()}
    exact, half = (StrictExecutor(each).run(images)["descriptor"] for each in (model, typed))
    assert half.dtype == np.float32 and cosines(exact, half).min() > 0.99999
    assert not np.array_equal(exact, half)


def test_a_plain_trunk_is_cast_twice() -> None:
    model = place_graph()
    typed = to_half(model, default_islands(model))
    # The pixels' own cast, into the trunk, and out of it.
    assert count_precisions(typed)["casts"] == 3
    assert count_precisions(typed)["half"] == 5


def test_the_given_model_is_not_changed() -> None:
    model = place_graph()
    before = model.SerializeToString(deterministic=True)
    to_half(model, default_islands(model))
    assert model.SerializeToString(deterministic=True) == before


def test_half_weights_are_stored_as_half() -> None:
    model = place_graph()
    typed = to_half(model, default_islands(model))
    kinds = {weight.name: weight.data_type for weight in typed.graph.initializer}
    assert kinds["first_half"] == kinds["second_half"] == TensorProto.FLOAT16
    assert kinds["linear"] == kinds["scale"] == TensorProto.FLOAT and "first" not in kinds
    weights = {weight.name: weight for weight in typed.graph.initializer}
    exact = {weight.name: weight for weight in model.graph.initializer}
    np.testing.assert_array_equal(
        numpy_helper.to_array(weights["second_half"]), numpy_helper.to_array(exact["second"]).astype(np.float16)
    )


def test_a_weight_read_by_both_is_stored_twice_and_a_tensor_cast_once() -> None:
    node = helper.make_node
    model = model_of(
        [
            node("Mul", ["x", "w"], ["a"], name="a"),
            node("Mul", ["a", "w"], ["b"], name="b"),
            node("Add", ["a", "b"], ["c"], name="c"),
            node("Add", ["c", "a"], ["y"], name="y"),
        ],
        {"x": (TensorProto.FLOAT, [2])},
        {"y": (TensorProto.FLOAT, [2]), "a": (TensorProto.FLOAT, [2])},
        {"w": np.array([2, 3], np.float32)},
    )
    typed = to_half(model, {"b"})
    assert {weight.name: weight.data_type for weight in typed.graph.initializer} == {
        "w": TensorProto.FLOAT,
        "w_half": TensorProto.FLOAT16,
    }
    # x down, a up (an output, so its FP32 form exists once), b down, y up.
    assert count_precisions(typed)["casts"] == 4
    _assert_sorted(typed)
    result = StrictExecutor(typed).run({"x": np.array([1, 2], np.float32)})
    np.testing.assert_array_equal(result["a"], [2, 6])
    np.testing.assert_array_equal(result["y"], [8, 30])


def test_what_only_moves_values_is_half_where_one_of_them_is() -> None:
    node = helper.make_node
    model = model_of(
        [
            node("Relu", ["x"], ["h"], name="half"),
            node("Relu", ["x"], ["f"], name="island"),
            node("Concat", ["h", "f"], ["both"], name="both", axis=0),
            node("Concat", ["f", "f"], ["floats"], name="floats", axis=0),
            node("Concat", ["w", "w"], ["weights"], name="weights", axis=0),
            node("Concat", ["both", "floats", "weights"], ["y"], name="y", axis=0),
        ],
        {"x": (TensorProto.FLOAT, [2])},
        {"y": (TensorProto.FLOAT, [12])},
        {"w": np.ones(2, np.float32)},
    )
    types = _types(to_half(model, {"island"}))
    kinds = {name: types[name] for name in ("h", "f", "both", "floats", "weights")}
    half, full = TensorProto.FLOAT16, TensorProto.FLOAT
    assert kinds == {"h": half, "f": full, "both": half, "floats": full, "weights": half}


def test_weights_beyond_half_are_refused_by_name() -> None:
    model = place_graph(feature_scale=1e6)
    with pytest.raises(ExportError, match=r"weight second of node /trunk/conv2 reaches .* above 65504.*island"):
        to_half(model, default_islands(model))
    to_half(model, default_islands(model) | {"/trunk/conv2"})


def test_infinite_masks_stay_infinite() -> None:
    model = model_of(
        [helper.make_node("Add", ["x", "mask"], ["y"], name="masked")],
        {"x": (TensorProto.FLOAT, [2])},
        {"y": (TensorProto.FLOAT, [2])},
        {"mask": np.array([0, -np.inf], np.float32)},
    )
    result = StrictExecutor(to_half(model, set())).run({"x": np.ones(2, np.float32)})["y"]
    np.testing.assert_array_equal(result, [1, -np.inf])


def test_bad_requests_are_refused() -> None:
    model = place_graph()
    islands = default_islands(model)
    with pytest.raises(ExportError, match="/trunk/conv9, which is no node"):
        to_half(model, islands | {"/trunk/conv9"})
    with pytest.raises(ExportError, match="FP16 already"):
        to_half(to_half(model, islands), set())
    model.graph.node.reverse()
    with pytest.raises(ExportError, match="does not pass ONNX's check"):
        to_half(model, islands)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_exported_encoders_are_typed(kind: Any, tmp_path: Path) -> None:
    model = exported_graph(kind)
    islands = default_islands(model)
    typed = to_half(model, islands)
    _assert_sorted(typed)
    types = _types(typed)
    for node in typed.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert types[node.input[0]] == types[node.output[0]] == TensorProto.FLOAT
        if node.op_type in ("Conv", "Gelu"):
            assert types[node.output[0]] == TensorProto.FLOAT16
    operators = [node.op_type for node in typed.graph.node]
    if kind == "vit":
        assert operators.count("LayerNormalization") == 6 and operators.count("Softmax") == 2
    assert 0.45 < typed.ByteSize() / model.ByteSize() < 0.75
    images = scenes(3, 64)
    exact = StrictExecutor(model).run({"image": images})["descriptor"]
    strict = StrictExecutor(typed).run({"image": images})["descriptor"]
    assert cosines(exact, strict).min() > 0.9999
    np.testing.assert_allclose(np.linalg.norm(strict, axis=1), 1, atol=1e-5)
    assert cosines(_through_onnxruntime(typed, images, tmp_path), strict).min() > 0.9999


def _through_onnxruntime(model: onnx.ModelProto, images: np.ndarray, folder: Path) -> np.ndarray:
    """Outputs of ONNX Runtime at EXTENDED, in a process of its own: half graphs can crash it."""
    onnx.save(model, folder / "half.onnx")
    np.save(folder / "images.npy", images)
    files = [str(folder / name) for name in ("half.onnx", "images.npy", "out.npy")]
    subprocess.run([sys.executable, "-c", _LOAD, *files], check=True, timeout=60)
    result: np.ndarray = np.load(folder / "out.npy")
    return result
