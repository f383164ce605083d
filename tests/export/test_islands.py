from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import TensorProto, helper

from progeo_export.errors import ExportError
from progeo_export.half.graph_edges import node_key
from progeo_export.half.half_typing import to_half
from progeo_export.half.islands import default_islands, describe_islands, widen
from progeo_export.half.range_audit import Range, RangeAudit, audit_ranges
from progeo_export.half.strict_executor import StrictExecutor
from tests.export.half_graphs import cosines, model_of, place_graph, scenes

IMAGES = {"image": scenes()}


def test_the_island_holds_head_norms_and_pixels() -> None:
    model = place_graph(layer_norm="one op")
    islands = default_islands(model)
    expected = {node_key(node) for node in model.graph.node if not node.name.startswith("/trunk")}
    assert islands == expected | {"/trunk/norm"}
    assert describe_islands(model, islands)["LayerNormalization"] == 1


def test_what_follows_the_head_is_in_the_island() -> None:
    model = place_graph()
    for node in model.graph.node:
        if node.name.startswith("/head/") and not node.name.startswith("/head/norm/"):
            node.name = node.name.replace("/head/", "/after/")
    assert {"/after/linear", "/after/norm2/Div"} <= default_islands(model)


def test_a_written_out_layer_norm_is_found() -> None:
    model = place_graph(layer_norm="written out")
    found = {name for name in default_islands(model) if name.startswith("/trunk")}
    parts = ("mean", "sub", "square", "variance", "add", "sqrt", "div")
    assert found == {f"/trunk/norm/{part}" for part in parts}


def test_a_graph_without_a_named_head_is_refused() -> None:
    model = place_graph()
    for node in model.graph.node:
        node.name = node.name.replace("/head/", "/overhead/")
    with pytest.raises(ExportError, match='scope "head"'):
        default_islands(model)


def test_doubled_names_are_refused() -> None:
    model = place_graph()
    model.graph.node[1].name = model.graph.node[0].name
    with pytest.raises(ExportError, match="2 nodes are called /cast"):
        default_islands(model)


def test_a_tame_model_is_not_widened() -> None:
    for norm in (None, "one op"):
        model = place_graph(layer_norm=norm)
        islands = default_islands(model)
        assert widen(model, islands, audit_ranges(model, [IMAGES])) == (islands, [])


@pytest.mark.parametrize("feature_scale", [3e4, 1e7])
def test_features_that_overflow_half_are_widened(feature_scale: float) -> None:
    model = place_graph(feature_scale=feature_scale)
    islands = default_islands(model)
    wider, reasons = widen(model, islands, audit_ranges(model, [IMAGES]))
    assert {entry.node for entry in reasons} == wider - islands >= {"/trunk/conv2", "/trunk/relu2"}
    assert "/trunk/conv1" not in wider
    assert any("limit 30000" in entry.reason or "65504" in entry.reason for entry in reasons)
    exact = StrictExecutor(model).run(IMAGES)["descriptor"]
    strict = StrictExecutor(to_half(model, wider)).run(IMAGES)["descriptor"]
    assert cosines(exact, strict).min() > 0.99999
    if feature_scale < 1e6:  # beyond, the weights themselves are refused
        narrow = StrictExecutor(to_half(model, islands)).run(IMAGES)["descriptor"]
        assert not np.isfinite(narrow).all()


def _outside_the_head(islands: set[str]) -> set[str]:
    return {name for name in islands if not name.startswith("/head")}


@pytest.mark.parametrize("feature_scale", [1.0, 400.0])
def test_the_executor_shows_a_removed_island(feature_scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head in half fails in both directions: subnormal powers, and squares that overflow."""
    from progeo_export.half import half_typing

    everything = half_typing.HALF_OPERATORS | {"Pow", "ReduceL2", "ReduceMean"}
    monkeypatch.setattr(half_typing, "HALF_OPERATORS", everything)
    model = place_graph(feature_scale=feature_scale)
    islands = default_islands(model)
    exact = StrictExecutor(model).run(IMAGES)["descriptor"]
    kept = StrictExecutor(to_half(model, islands)).run(IMAGES)["descriptor"]
    removed = StrictExecutor(to_half(model, _outside_the_head(islands))).run(IMAGES)["descriptor"]
    assert cosines(exact, kept).min() > 0.99999
    if feature_scale == 1.0:
        assert cosines(exact, removed).min() < cosines(exact, kept).min()
    else:
        assert not np.isfinite(removed).all()


def test_constants_that_half_loses_widen_their_node() -> None:
    model = place_graph()
    islands = default_islands(model) - {"/head/norm/Max", "/head/gem/Max"}
    wider, reasons = widen(model, islands, audit_ranges(model, [IMAGES]))
    assert wider >= {"/head/norm/Max", "/head/gem/Max"}
    assert any(entry.tensor == "eps" and "loses its digits" in entry.reason for entry in reasons)


@pytest.mark.parametrize(
    ("tensor", "found", "nodes", "reason"),
    [
        ("map", Range(30001, 0), {"/trunk/conv2", "/trunk/relu2"}, "reaches 3e.04 on the calibration images"),
        ("map", Range(float("nan"), 0), {"/trunk/conv2", "/trunk/relu2"}, "reaches nan"),
        ("map", Range(29999, 0), set(), ""),
        ("second", Range(65505, 0), {"/trunk/conv2"}, r"weight 6.55e.04 is above 65504"),
        ("second", Range(65503, 0), set(), ""),
        ("second", Range(6e-5, 1), {"/trunk/conv2"}, r"constant 6e-05 is below 6.1e-05 and loses its digits"),
    ],
)
def test_each_limit_alone_widens(tensor: str, found: Range, nodes: set[str], reason: str) -> None:
    model = place_graph()
    islands = default_islands(model)
    seen = {tensor: found}
    audit = RangeAudit({}, seen, 1) if tensor == "second" else RangeAudit(seen, {}, 1)
    wider, reasons = widen(model, islands, audit)
    assert wider - islands == nodes == {entry.node for entry in reasons}
    assert all(entry.tensor == tensor and re.search(reason, entry.reason) for entry in reasons)


@pytest.mark.parametrize(
    ("reader", "share", "widened"), [("Mul", 0.26, True), ("Mul", 0.24, False), ("Add", 1.0, False)]
)
def test_small_values_matter_where_they_are_multiplied(reader: str, share: float, widened: bool) -> None:
    node = helper.make_node
    model = model_of(
        [
            node("Relu", ["x"], ["small"], name="/trunk/relu"),
            node(reader, ["small", "factor"], ["large"], name="/trunk/reader"),
            node("Abs", ["large"], ["y"], name="/head/abs"),
        ],
        {"x": (TensorProto.FLOAT, [4])},
        {"y": (TensorProto.FLOAT, [4])},
        {"factor": np.array(1000, np.float32)},
    )
    # The pixels' first nodes are an island by default; here all of the trunk is half.
    wider, reasons = widen(model, {"/head/abs"}, RangeAudit({"small": Range(1, share)}, {}, 1))
    assert (wider == {"/head/abs", "/trunk/relu", "/trunk/reader"}) == widened
    assert [entry.reason for entry in reasons] == (
        ["26% of its values are below 6.1e-05, limit 25%, and they are multiplied further"] * 2 if widened else []
    )
