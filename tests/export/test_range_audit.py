from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from progeo_export.errors import ExportError
from progeo_export.half.range_audit import audit_ranges
from tests.export.half_graphs import model_of, place_graph, scenes


def test_ranges_cover_all_inputs() -> None:
    model = model_of(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        {"x": (TensorProto.FLOAT, [4])},
        {"y": (TensorProto.FLOAT, [4])},
        {"w": np.array([1, 1, 1, -np.inf], np.float32)},
    )
    calls = [np.array([0, 1e-5, 2, 0], np.float32), np.array([-40000, 1e-5, 0, 0], np.float32)]
    model.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 1.0, 1.0, 1.0]))
    audit = audit_ranges(model, [{"x": x} for x in calls])
    assert audit.num_inputs == 2
    assert audit.tensors["y"].largest == 40000
    # Two of four non-zero values.
    assert audit.tensors["y"].subnormal_share == 0.5


def test_not_a_number_is_not_lost() -> None:
    model = model_of(
        [helper.make_node("Relu", ["x"], ["y"])], {"x": (TensorProto.FLOAT, [1])}, {"y": (TensorProto.FLOAT, [1])}
    )
    calls = [{"x": np.array([value], np.float32)} for value in (1, np.nan, 2)]
    assert np.isnan(audit_ranges(model, calls).tensors["y"].largest)


def test_infinite_weights_are_left_out_of_the_range() -> None:
    model = model_of(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        {"x": (TensorProto.FLOAT, [2])},
        {"y": (TensorProto.FLOAT, [2])},
        {"w": np.array([-np.inf, 3], np.float32)},
    )
    assert audit_ranges(model, [{"x": np.ones(2, np.float32)}]).weights["w"].largest == 3


def test_a_constant_is_judged_as_a_weight() -> None:
    """A mask of -inf is no activation, and half holds it."""
    mask = helper.make_tensor("mask", TensorProto.FLOAT, [2], [-np.inf, 0.5])
    model = model_of(
        [helper.make_node("Constant", [], ["c"], value=mask), helper.make_node("Add", ["x", "c"], ["y"])],
        {"x": (TensorProto.FLOAT, [2])},
        {"y": (TensorProto.FLOAT, [2])},
    )
    audit = audit_ranges(model, [{"x": np.ones(2, np.float32)}])
    assert "c" not in audit.tensors and audit.weights["c"].largest == 0.5


def test_every_float_tensor_of_a_graph_is_judged() -> None:
    model = place_graph()
    audit = audit_ranges(model, [{"image": scenes()}])
    assert set(audit.tensors) == {name for node in model.graph.node for name in node.output}
    assert {"first", "second", "linear", "eps"} <= set(audit.weights) and "channels" not in audit.weights


def test_an_audit_without_images_is_refused() -> None:
    with pytest.raises(ExportError, match="no calibration images"):
        audit_ranges(place_graph(), [])
