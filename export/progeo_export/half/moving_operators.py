"""Operators that move, join and describe values without computing with them, for the strict executor."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor

from progeo_export.half.call import Call
from progeo_export.half.elementwise_operators import Operator


def to_tensor(values: np.ndarray) -> Tensor:
    """An array as a tensor of its own memory."""
    return torch.from_numpy(np.array(values, order="C"))


def _constant(call: Call) -> Tensor:
    tensor = call.attribute("value", None)
    if tensor is not None:
        return to_tensor(numpy_helper.to_array(tensor))
    for name, dtype in (("value_float", torch.float32), ("value_int", torch.int64)):
        for form in (name, name + "s"):
            if call.attribute(form, None) is not None:
                return torch.tensor(call.attribute(form, None), dtype=dtype)
    raise call.refusal("holds neither a tensor nor numbers")


def _constant_of_shape(call: Call) -> Tensor:
    tensor = call.attribute("value", None)
    fill = torch.zeros(1) if tensor is None else to_tensor(numpy_helper.to_array(tensor))
    return fill.reshape(()).expand(call.value(0).tolist()).clone()


def _shape(call: Call) -> Tensor:
    sizes = list(call.value(0).shape)
    return torch.tensor(sizes[call.attribute("start", 0) : call.attribute("end", None)], dtype=torch.int64)


def _reshape(call: Call) -> Tensor:
    values = call.value(0)
    shape = [int(size) for size in call.value(1).tolist()]
    if not call.attribute("allowzero", 0):
        shape = [values.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return values.reshape(shape)


def _flatten(call: Call) -> Tensor:
    values, axis = call.value(0), call.attribute("axis", 1)
    axis = axis + values.ndim if axis < 0 else axis
    rows = int(np.prod(values.shape[:axis], dtype=np.int64))
    return values.reshape(rows, -1)


def _transpose(call: Call) -> Tensor:
    values = call.value(0)
    return values.permute(call.attribute("perm", list(reversed(range(values.ndim)))))


def _concat(call: Call) -> Tensor:
    return torch.cat([call.value(index) for index in range(len(call.inputs))], dim=call.attribute("axis", 0))


def _slice(call: Call) -> Tensor:
    values = call.value(0)
    starts, ends = call.integers(1, "starts") or [], call.integers(2, "ends") or []
    axes = call.integers(3, "axes") or list(range(len(starts)))
    steps = call.integers(4, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        kept = range(*slice(start, end, step).indices(values.shape[axis]))
        if step == 1:
            values = values.narrow(axis, kept.start, len(kept))
        else:
            values = values.index_select(axis, torch.tensor(list(kept), dtype=torch.int64))
    return values


def _gather(call: Call) -> Tensor:
    values, indices = call.value(0), call.value(1).long()
    axis = call.attribute("axis", 0) % values.ndim
    positive = torch.where(indices < 0, indices + values.shape[axis], indices)
    picked = values.index_select(axis, positive.reshape(-1))
    return picked.reshape([*values.shape[:axis], *indices.shape, *values.shape[axis + 1 :]])


def _squeeze(call: Call) -> Tensor:
    values, axes = call.value(0), call.integers(1, "axes")
    chosen = [axis for axis, size in enumerate(values.shape) if size == 1] if axes is None else axes
    dropped = {axis % values.ndim for axis in chosen}
    return values.reshape([size for axis, size in enumerate(values.shape) if axis not in dropped])


def _unsqueeze(call: Call) -> Tensor:
    values, axes = call.value(0), call.integers(1, "axes") or []
    for axis in sorted(axis % (values.ndim + len(axes)) for axis in axes):
        values = values.unsqueeze(axis)
    return values


def _expand(call: Call) -> Tensor:
    values = call.value(0)
    shape = np.broadcast_shapes(tuple(values.shape), tuple(call.value(1).tolist()))
    return values.broadcast_to(shape)


def _split(call: Call) -> tuple[Tensor, ...]:
    values, axis = call.value(0), call.attribute("axis", 0)
    sizes = call.integers(1, "split")
    if sizes is None:
        parts = len(call.node.output)
        each = -(-values.shape[axis] // parts)
        sizes = [each] * (parts - 1) + [values.shape[axis] - each * (parts - 1)]
    return torch.split(values, sizes, dim=axis)


def _tile(call: Call) -> Tensor:
    return call.value(0).repeat([int(times) for times in call.value(1).tolist()])


def _range(call: Call) -> Tensor:
    start, limit, step = (call.value(index) for index in range(3))
    return torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)


def _pad(call: Call) -> Tensor:
    values = call.value(0)
    if call.attribute("mode", "constant") != "constant" or call.optional(3) is not None:
        raise call.refusal("only constant padding of every axis is known to the strict executor")
    pads = call.integers(1, "pads") or []
    begin, end = pads[: values.ndim], pads[values.ndim :]
    fill = call.optional(2)
    widths = [width for pair in zip(reversed(begin), reversed(end), strict=True) for width in pair]
    return F.pad(values, widths, value=0.0 if fill is None else float(fill))


def _depth_to_space(call: Call) -> Tensor:
    if call.attribute("mode", "DCR") != "CRD":
        raise call.refusal("mode DCR is not known to the strict executor")
    return F.pixel_shuffle(call.value(0), call.attribute("blocksize", 1))


MOVING: dict[str, Operator] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": lambda call: call.value(0),
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Operator name to computation."""
