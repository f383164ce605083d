from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from progeo_export.errors import ExportError
from progeo_export.half.strict_executor import OPERATORS, StrictExecutor
from tests.export.half_graphs import ELEMENT_TYPES, Array, exported_graph, model_of, scenes

_RNG = np.random.default_rng(3)


def _random(*shape: int) -> Array:
    return _RNG.normal(size=shape).astype(np.float32)


def _positive(*shape: int) -> Array:
    return _RNG.uniform(0.1, 2, shape).astype(np.float32)


def _ints(*values: int) -> Array:
    return np.array(values, np.int64)


MAP, ROWS = _random(2, 4, 6, 6), _random(3, 5)
BOOLS, OTHERS = _RNG.random((3, 5)) > 0.5, _RNG.random((3, 5)) > 0.5
LEVELS = np.arange(-10, 14, dtype=np.int8).reshape(2, 4, 3)
QUARTERS = np.array([0.1, 0.2, 0.05, 0.3], np.float32)

# Operator, inputs, attributes; float32 inputs are tried in float16 too.
CASES: list[tuple[str, Sequence[Any], dict[str, Any]]] = [
    *((name, [ROWS], {}) for name in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Identity", "Neg", "Relu")),
    *((name, [ROWS], {}) for name in ("Round", "Shape", "Sigmoid", "Sign", "Sin", "Softplus", "Tanh", "HardSwish")),
    *((name, [_positive(3, 5)], {}) for name in ("Log", "Reciprocal", "Sqrt")),
    *((name, [ROWS, _random(5)], {}) for name in ("Add", "Sub", "Mul", "Max", "Min", "Sum")),
    *((name, [ROWS, _random(3, 5)], {}) for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    *((name, [BOOLS, OTHERS], {}) for name in ("And", "Or")),
    ("Not", [BOOLS], {}),
    ("Add", [_ints(1, 2), _ints(3, 4)], {}),
    ("Div", [ROWS, _positive(5)], {}),
    ("Div", [_ints(7, -7), _ints(2, 2)], {}),
    ("Mod", [_ints(7, -7), _ints(3, 3)], {}),
    ("Mod", [ROWS, _positive(5)], {"fmod": 1}),
    ("Pow", [_positive(3, 5), np.array(3, np.float32)], {}),
    ("Clip", [ROWS, np.array(-0.5, np.float32), np.array(0.5, np.float32)], {}),
    ("Clip", [ROWS, np.array(0, np.float32)], {}),
    ("Cast", [ROWS], {"to": TensorProto.FLOAT16}),
    ("Cast", [ROWS * 5], {"to": TensorProto.INT32}),
    ("Gelu", [ROWS], {}),
    ("Gelu", [ROWS], {"approximate": "tanh"}),
    ("HardSigmoid", [ROWS], {"alpha": 0.3}),
    ("LeakyRelu", [ROWS], {"alpha": 0.1}),
    ("Elu", [ROWS], {}),
    ("PRelu", [ROWS, _positive(5)], {}),
    ("Where", [BOOLS, ROWS, _random(5)], {}),
    ("Conv", [MAP, _random(6, 4, 3, 3), _random(6)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Conv", [MAP, _random(4, 1, 3, 3)], {"group": 4, "pads": [0, 1, 1, 0]}),
    ("Gemm", [ROWS, _random(4, 5), _random(4)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("MatMul", [_random(2, 3, 4), _random(4, 5)], {}),
    ("Einsum", [_random(3, 4), _random(4, 2)], {"equation": "ij,jk->ik"}),
    ("BatchNormalization", [MAP, _random(4), _random(4), _random(4), _positive(4)], {}),
    ("InstanceNormalization", [MAP, _random(4), _random(4)], {}),
    ("LayerNormalization", [ROWS, _random(5), _random(5)], {}),
    ("LayerNormalization", [MAP, _random(6, 6)], {"axis": -2, "epsilon": 1e-3}),
    ("Softmax", [ROWS], {"axis": 0}),
    ("LogSoftmax", [ROWS], {}),
    ("AveragePool", [MAP], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("AveragePool", [MAP], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [MAP], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("MaxPool", [MAP], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("GlobalAveragePool", [MAP], {}),
    ("GlobalMaxPool", [MAP], {}),
    *((name, [MAP, _ints(2, 3)], {"keepdims": 0}) for name in ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean")),
    *((name, [ROWS, _ints(1)], {}) for name in ("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare")),
    ("ReduceMean", [ROWS], {}),
    ("Concat", [ROWS, _random(2, 5)], {"axis": 0}),
    ("Constant", [], {"value": numpy_helper.from_array(ROWS)}),
    ("ConstantOfShape", [_ints(2, 3)], {"value": numpy_helper.from_array(np.array([7], np.int64))}),
    ("DepthToSpace", [MAP], {"blocksize": 2, "mode": "CRD"}),
    ("Expand", [_random(3, 1), _ints(2, 1, 4)], {}),
    ("Flatten", [MAP], {"axis": 2}),
    ("Gather", [MAP, np.array([[0, -1], [2, 1]], np.int64)], {"axis": 1}),
    ("Gather", [ROWS, np.array(1, np.int64)], {"axis": 0}),
    ("Gather", [_ints(4, 5), np.array(1, np.int64)], {"axis": 0}),
    ("Pad", [ROWS, _ints(1, 0, 0, 2)], {}),
    ("Range", [np.array(1, np.int64), np.array(9, np.int64), np.array(3, np.int64)], {}),
    ("Reshape", [MAP, _ints(0, -1, 6)], {}),
    ("Shape", [MAP], {"start": 1, "end": -1}),
    ("Slice", [MAP, _ints(-1), _ints(np.iinfo(np.int64).min), _ints(1), _ints(-1)], {}),
    ("Slice", [MAP, _ints(1, 0), _ints(4, 99), _ints(2, 3), _ints(1, 2)], {}),
    ("Split", [ROWS, _ints(2, 3)], {"axis": 1}),
    ("Squeeze", [_random(3, 1, 2), _ints(1)], {}),
    ("Tile", [ROWS, _ints(2, 1)], {}),
    ("Transpose", [MAP], {"perm": [0, 2, 3, 1]}),
    ("Unsqueeze", [ROWS, _ints(0, 3)], {}),
    ("QuantizeLinear", [ROWS, np.array(0.02, np.float32), np.array(0, np.int8)], {}),
    ("QuantizeLinear", [MAP, QUARTERS, np.zeros(4, np.int8)], {"axis": 1}),
    ("DequantizeLinear", [LEVELS, QUARTERS, np.zeros(4, np.int8)], {"axis": 1}),
    ("DequantizeLinear", [_RNG.integers(-9999, 9999, 5).astype(np.int32), np.array(0.01, np.float32)], {}),
]
_FLOAT_ONLY = {"QuantizeLinear", "DequantizeLinear"}


def _one_node(operator: str, inputs: Sequence[Array], attributes: dict[str, Any]) -> onnx.ModelProto:
    names = [f"x{index}" for index in range(len(inputs))]
    outputs = ["y", "z"] if operator == "Split" else ["y"]
    given = {name: (ELEMENT_TYPES[value.dtype], value.shape) for name, value in zip(names, inputs, strict=True)}
    node = helper.make_node(operator, names, outputs, name="node", **attributes)
    # The reference knows DequantizeLinear from 19 on.
    opset = 20 if operator in {"Gelu", "DequantizeLinear"} else 18
    return model_of([node], given, dict.fromkeys(outputs, (TensorProto.UNDEFINED, None)), opset=opset)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case[0]}" for number, case in enumerate(CASES)])
def test_every_operator_agrees_with_onnx(case: tuple[str, Sequence[Any], dict[str, Any]], half: bool) -> None:
    operator, inputs, attributes = case
    if half and operator in _FLOAT_ONLY:
        pytest.skip("ONNX allows float32 scales alone at this operator set")
    if half:
        inputs = [value.astype(np.float16) if value.dtype == np.float32 else value for value in inputs]
    model = _one_node(operator, inputs, attributes)
    given = {f"x{index}": value for index, value in enumerate(inputs)}
    results = StrictExecutor(model).run(given)
    for value, expected in zip(results.values(), ReferenceEvaluator(model).run(None, given), strict=True):
        assert value.dtype == expected.dtype and value.shape == expected.shape
        tolerance = 4e-3 if value.dtype == np.float16 else 2e-5
        np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance / 4)


def test_the_cases_cover_every_operator() -> None:
    assert set(OPERATORS) == {case[0] for case in CASES}


def _probe(norm: list[onnx.NodeProto]) -> onnx.ModelProto:
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), *norm]
    nodes.append(helper.make_node("Cast", ["s"], ["y"], to=TensorProto.FLOAT))
    weights = {"axis": _ints(1)}
    return model_of(nodes, {"x": (TensorProto.FLOAT, [1, 64])}, {"y": (TensorProto.FLOAT, [1, 1])}, weights)


def test_squares_overflow_as_on_a_device() -> None:
    norm = [
        helper.make_node("Mul", ["h", "h"], ["m"]),
        helper.make_node("ReduceSum", ["m", "axis"], ["r"]),
        helper.make_node("Sqrt", ["r"], ["s"]),
    ]
    x = np.full((1, 64), 1000, np.float32)
    assert np.isinf(StrictExecutor(_probe(norm)).run({"x": x})["y"]).all()
    assert np.isinf(StrictExecutor(_probe([helper.make_node("ReduceL2", ["h", "axis"], ["s"])])).run({"x": x})["y"])
    np.testing.assert_allclose(StrictExecutor(_probe(norm)).run({"x": x / 1000})["y"], 8)


def test_every_tensor_is_rounded_when_stored() -> None:
    nodes = [helper.make_node("Add", ["x", "x"], ["a"]), helper.make_node("Add", ["a", "x"], ["y"])]
    half = (TensorProto.FLOAT16, [1])
    x = np.array([1 + 2**-10], np.float16)
    seen: dict[str, Any] = {}
    result = StrictExecutor(model_of(nodes, {"x": half}, {"y": half})).run(
        {"x": x}, lambda name, value: seen.update({name: value.dtype})
    )["y"]
    # 3 + 3 * 2^-10 needs one bit more than half has.
    assert result[0] == np.float16(3 + 2**-8) and {str(kind) for kind in seen.values()} == {"torch.float16"}


def test_half_values_below_its_range_vanish() -> None:
    half = (TensorProto.FLOAT16, [1])
    model = model_of([helper.make_node("Mul", ["x", "x"], ["y"])], {"x": half}, {"y": half})
    assert StrictExecutor(model).run({"x": np.array([1e-4], np.float16)})["y"][0] == 0


def test_squares_of_a_norm_are_stored_in_half_too() -> None:
    """(1e-4)^2 is below half's smallest number, however many of them are summed."""
    norm = [helper.make_node("ReduceL2", ["h", "axis"], ["s"])]
    assert StrictExecutor(_probe(norm)).run({"x": np.full((1, 64), 1e-4, np.float32)})["y"] == 0
    found = StrictExecutor(_probe(norm)).run({"x": np.full((1, 64), 1e-2, np.float32)})["y"]
    np.testing.assert_allclose(found, 0.08, rtol=2e-3)


def test_a_layer_norm_in_half_rounds_what_it_normalised() -> None:
    rng = np.random.default_rng(0)
    x, scale = (rng.uniform(0.5, 2, shape).astype(np.float16) for shape in ((8, 64), (64,)))
    half = TensorProto.FLOAT16
    model = model_of(
        [helper.make_node("LayerNormalization", ["x", "scale"], ["y"], epsilon=1e-5)],
        {"x": (half, [8, 64])},
        {"y": (half, [8, 64])},
        {"scale": scale},
    )
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    normalised = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    expected = normalised.astype(np.float16).astype(np.float32) * scale.astype(np.float32)
    found = StrictExecutor(model).run({"x": x})["y"]
    np.testing.assert_array_equal(found, expected.astype(np.float16))
    assert (found != (normalised * scale).astype(np.float16)).any()


def test_statistics_of_a_layer_norm_in_half_are_refused() -> None:
    """TensorRT may keep them so; nobody could say what it then computes."""
    model = model_of(
        [helper.make_node("LayerNormalization", ["x", "scale"], ["y"], name="/trunk/norm", stash_type=10)],
        {"x": (TensorProto.FLOAT16, [2, 4])},
        {"y": (TensorProto.FLOAT16, [2, 4])},
        {"scale": np.ones(4, np.float16)},
    )
    with pytest.raises(ExportError, match=r"/trunk/norm \(LayerNormalization\).*stash_type must be 1"):
        StrictExecutor(model).run({"x": np.ones((2, 4), np.float16)})


def test_long_products_accumulate_in_float32() -> None:
    half = TensorProto.FLOAT16
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": (half, [1, 8192]), "w": (half, [8192, 1])},
        {"y": (half, [1, 1])},
    )
    ones = np.ones((1, 8192), np.float16)
    assert StrictExecutor(model).run({"x": ones, "w": ones.T})["y"] == 8192


def test_statistics_of_a_layer_norm_are_float32() -> None:
    """Squares of 300 overflow half; the operator's definition keeps them in float32."""
    half = (TensorProto.FLOAT16, [1, 4])
    weights = {"one": np.ones(4, np.float16)}
    model = model_of([helper.make_node("LayerNormalization", ["x", "one"], ["y"])], {"x": half}, {"y": half}, weights)
    x = np.array([[300, -300, 300, -300]], np.float16)
    np.testing.assert_array_equal(StrictExecutor(model).run({"x": x})["y"], np.sign(x))


def test_unknown_operators_are_refused_by_name() -> None:
    model = model_of(
        [helper.make_node("CumSum", ["x", "axis"], ["y"], name="/trunk/running")],
        {"x": (TensorProto.FLOAT, [3])},
        {"y": (TensorProto.FLOAT, [3])},
        {"axis": np.array(0, np.int64)},
    )
    with pytest.raises(ExportError, match=r"CumSum \(node /trunk/running\)"):
        StrictExecutor(model)
    old = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, [3])}, {"y": (1, [3])}, opset=11)
    with pytest.raises(ExportError, match="operator set 11"):
        StrictExecutor(old)


def test_mixed_types_and_missing_inputs_are_refused() -> None:
    model = model_of(
        [helper.make_node("Add", ["x", "w"], ["y"], name="sum")],
        {"x": (TensorProto.FLOAT, [1]), "w": (TensorProto.FLOAT16, [1])},
        {"y": (TensorProto.FLOAT, [1])},
    )
    ones = np.ones(1, np.float32)
    with pytest.raises(ExportError, match=r"node sum \(Add\) mixes float16 and float32"):
        StrictExecutor(model).run({"x": ones, "w": ones.astype(np.float16)})
    with pytest.raises(ExportError, match="input w is not given"):
        StrictExecutor(model).run({"x": ones})


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_an_exported_encoder_gives_what_onnx_gives(kind: Any) -> None:
    model = exported_graph(kind)
    images = {"image": scenes(2, 64)}
    outputs: Any = ReferenceEvaluator(model).run(None, images)
    expected = outputs[0]
    np.testing.assert_allclose(StrictExecutor(model).run(images)["descriptor"], expected, atol=2e-6)
