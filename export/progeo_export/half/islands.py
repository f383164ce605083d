"""Which nodes of a graph stay FP32: the head and what follows it, normalisations, softmax, and the pixels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass

import onnx

from progeo_export.errors import ExportError
from progeo_export.half.graph_edges import GraphEdges, node_key, read_edges
from progeo_export.half.half_typing import HALF_MAX, HALF_OPERATORS, assign_precisions
from progeo_export.half.range_audit import RangeAudit

HEAD_SCOPE = "head"
PROLOGUE_SCOPE = "prologue"
LARGEST = 30000.0
"""Values beyond it are kept out of half: activations of other images may be twice those of the audit."""
MOST_SUBNORMAL = 0.25
"""Largest share of a tensor's non-zero values that half may hold with fewer than its ten bits."""
SMALLEST_NORMAL = 2.0**-14

# fmt: off
_ALWAYS_FLOAT = frozenset({
    "BatchNormalization", "InstanceNormalization", "LayerNormalization", "LogSoftmax", "Pow", "ReduceL1",
    "ReduceL2", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softmax", "Sqrt",
})
# fmt: on
_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul", "Einsum"})
_SCALING = frozenset({"Mul", "Div", "Pow", "Sqrt", "Reciprocal"})


@dataclass(frozen=True, slots=True)
class Widening:
    """A node that the audit moved to FP32, and why.

    Attributes:
        node: Its key.
        operator: Its operator.
        tensor: The tensor or weight that half cannot hold.
        reason: In words, with the number and the limit.
    """

    node: str
    operator: str
    tensor: str
    reason: str


def default_islands(model: onnx.ModelProto) -> set[str]:
    """Keys of the nodes that stay FP32 before any image has been seen.

    The head is every node with the scope "head" in its name, and all that follows one; its powers of small numbers
    fail in half in both directions (`research/export.md` 2.3). Decomposed layer norms are found by their shape.

    Args:
        model: FP32 graph.

    Raises:
        ExportError: no node has the scope "head".
    """
    edges = read_edges(model)
    head = {node_key(node) for node in model.graph.node if in_head(node)}
    if not head:
        raise ExportError(
            f'no node of the graph has the scope "{HEAD_SCOPE}" in its name, so the part that must stay FP32 is '
            "unknown; export with progeo-export, which names it"
        )
    followers = _followers(model, head)
    always = {node_key(node) for node in model.graph.node if node.op_type in _ALWAYS_FLOAT}
    return head | followers | always | _prologue(model, edges) | decomposed_layer_norms(model, edges)


def in_head(node: onnx.NodeProto) -> bool:
    """Whether a node's name carries the scope "head", as in "/encoder/head/norm/Div" or "encoder.head.linear"."""
    return _has_scope(node, HEAD_SCOPE)


def _has_scope(node: onnx.NodeProto, scope: str) -> bool:
    return scope in re.split(r"[/.:]", node.name)


def widen(model: onnx.ModelProto, islands: Set[str], audit: RangeAudit) -> tuple[set[str], list[Widening]]:
    """Extend the islands by every node that would read or write what half cannot hold.

    Limits: values beyond 30 000, weights beyond 65 504, constants that half loses, and tensors of which more than a
    quarter is subnormal in half where they are multiplied, divided or raised to a power.

    Args:
        model: The FP32 graph that was audited.
        islands: Keys of the nodes that are FP32 already.
        audit: Ranges of that graph on calibration images.

    Returns:
        The wider islands, and one entry per added node.
    """
    edges = read_edges(model)
    precisions = assign_precisions(model, islands, edges)
    halves = {key for key, precision in precisions.items() if precision == "half"}
    added: dict[str, Widening] = {}
    for tensor, reason in [*_bad_weights(edges, audit), *_bad_values(edges, audit)]:
        producer = edges.producers.get(tensor)
        touching = [*edges.consumers.get(tensor, []), *([producer] if producer is not None else [])]
        for node in touching:
            key = node_key(node)
            if key in halves and key not in added:
                added[key] = Widening(key, node.op_type, tensor, reason)
    return set(islands) | set(added), list(added.values())


def decomposed_layer_norms(model: onnx.ModelProto, edges: GraphEdges) -> set[str]:
    """Keys of the nodes of layer norms that are written out: ReduceMean, Sub, square, ReduceMean, Add, Sqrt, Div.

    Their squares overflow in half without a NaN to show for it, so all of their nodes stay FP32. TensorRT keeps one
    `LayerNormalization` faster; both exporters of torch write that from operator set 17 on.
    """
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type != "Sub":
            continue
        mean = edges.producers.get(node.input[1])
        squares = [each for each in edges.consumers.get(node.output[0], []) if _is_square(each)]
        if mean is None or mean.op_type != "ReduceMean" or node.input[0] not in mean.input or not squares:
            continue
        part = {node_key(mean), node_key(node)}
        frontier = squares
        # From the squares to the division by the deviation: five nodes at most.
        for _ in range(6):
            part.update(node_key(each) for each in frontier)
            frontier = [
                follower
                for each in frontier
                if each.op_type not in ("Div", "Mul") or _is_square(each)
                for follower in edges.consumers.get(each.output[0], [])
            ]
        found |= part
    return found


def _is_square(node: onnx.NodeProto) -> bool:
    return node.op_type == "Pow" or (node.op_type == "Mul" and node.input[0] == node.input[1])


def _followers(model: onnx.ModelProto, start: Set[str]) -> set[str]:
    """Nodes that read, directly or not, what the nodes `start` give."""
    reached: set[str] = set()
    tensors: set[str] = set()
    for node in model.graph.node:
        if node_key(node) in start or tensors.intersection(node.input):
            reached.add(node_key(node))
            tensors.update(node.output)
    return reached


def _prologue(model: onnx.ModelProto, edges: GraphEdges) -> set[str]:
    """Nodes between the graph's inputs and the first layer with weights: types and statistics of the pixels.

    The products of a fused resize are no such layer.
    """
    pixels = {value.name for value in model.graph.input}
    found: set[str] = set()
    for node in model.graph.node:
        dynamic = [name for name in node.input if name and name not in edges.weights]
        is_layer = node.op_type in _WEIGHTED and not _has_scope(node, PROLOGUE_SCOPE)
        if not is_layer and dynamic and all(name in pixels for name in dynamic):
            found.add(node_key(node))
            # Sizes computed from the input are no pixels.
            pixels.update(name for name in node.output if edges.types[name] != onnx.TensorProto.INT64)
    return found


def _bad_weights(edges: GraphEdges, audit: RangeAudit) -> list[tuple[str, str]]:
    reasons = []
    for name, weight in audit.weights.items():
        if weight.largest > HALF_MAX:
            reasons.append((name, f"weight {weight.largest:.4g} is above {HALF_MAX:g}, the largest number of half"))
        elif 0 < weight.largest < SMALLEST_NORMAL:
            reasons.append((name, f"constant {weight.largest:.4g} is below {SMALLEST_NORMAL:.1e} and loses its digits"))
    return [entry for entry in reasons if entry[0] in edges.consumers]


def _bad_values(edges: GraphEdges, audit: RangeAudit) -> list[tuple[str, str]]:
    reasons = []
    for name, values in audit.tensors.items():
        if not values.largest <= LARGEST:
            reasons.append((name, f"reaches {values.largest:.4g} on the calibration images, limit {LARGEST:g}"))
        elif values.subnormal_share > MOST_SUBNORMAL and _feeds_scaling(edges, name):
            share = f"{values.subnormal_share:.0%} of its values are below {SMALLEST_NORMAL:.1e}"
            reasons.append((name, f"{share}, limit {MOST_SUBNORMAL:.0%}, and they are multiplied further"))
    return reasons


def _feeds_scaling(edges: GraphEdges, name: str) -> bool:
    return any(node.op_type in _SCALING or node.op_type.startswith("Reduce") for node in edges.consumers.get(name, []))


def describe_islands(model: onnx.ModelProto, islands: Set[str]) -> Mapping[str, int]:
    """Number of nodes in the islands that half could compute, by operator, for a report."""
    counts: dict[str, int] = {}
    for node in model.graph.node:
        if node_key(node) in islands and node.op_type in HALF_OPERATORS | _ALWAYS_FLOAT:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items()))
