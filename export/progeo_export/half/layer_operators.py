"""Operators that combine elements (layers, products, reductions, normalisation), for the strict executor.

Convolutions, matrix products and sums accumulate in float32; what an operator's definition stores in between
(the squares of ReduceL2, the normalised values of LayerNormalization) is rounded to the declared type.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from progeo_export.half.call import Call
from progeo_export.half.elementwise_operators import Operator

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def _padding(call: Call, spatial: int) -> tuple[list[int], list[int]]:
    """Pixels added at the begin and the end of each spatial axis."""
    automatic = call.attribute("auto_pad", "NOTSET")
    if automatic not in ("NOTSET", "VALID"):
        raise call.refusal(f"auto_pad {automatic} is not known to the strict executor; export explicit pads")
    pads = call.attribute("pads", None) if automatic == "NOTSET" else None
    pads = [0] * (2 * spatial) if pads is None else list(pads)
    return pads[:spatial], pads[spatial:]


def _pad(values: Tensor, begin: list[int], end: list[int], fill: float) -> Tensor:
    if not any(begin) and not any(end):
        return values
    widths = [width for pair in zip(reversed(begin), reversed(end), strict=True) for width in pair]
    return F.pad(values, widths, value=fill)


def _convolve(call: Call) -> Tensor:
    values, weight = call.value(0), call.value(1)
    spatial = values.ndim - 2
    if values.ndim not in _CONVOLUTIONS:
        raise call.refusal(f"{spatial} spatial axes; the strict executor knows 1 to 3")
    begin, end = _padding(call, spatial)
    symmetric = begin == end
    return _CONVOLUTIONS[values.ndim](
        values if symmetric else _pad(values, begin, end, 0.0),
        weight,
        call.optional(2),
        stride=call.attribute("strides", [1] * spatial),
        padding=begin if symmetric else 0,
        dilation=call.attribute("dilations", [1] * spatial),
        groups=call.attribute("group", 1),
    )


def _gemm(call: Call) -> Tensor:
    left = call.value(0).T if call.attribute("transA", 0) else call.value(0)
    right = call.value(1).T if call.attribute("transB", 0) else call.value(1)
    product = float(call.attribute("alpha", 1.0)) * (left @ right)
    bias = call.optional(2)
    return product if bias is None else product + float(call.attribute("beta", 1.0)) * bias


def _matmul(call: Call) -> Tensor:
    return torch.matmul(call.value(0), call.value(1))


def _einsum(call: Call) -> Tensor:
    return torch.einsum(call.attribute("equation", ""), *[call.value(index) for index in range(len(call.inputs))])


def _batch_norm(call: Call) -> Tensor:
    if call.attribute("training_mode", 0):
        raise call.refusal("is in training mode; export the model in evaluation mode")
    return F.batch_norm(
        call.value(0),
        call.value(3),
        call.value(4),
        call.value(1),
        call.value(2),
        training=False,
        eps=call.attribute("epsilon", 1e-5),
    )


def _instance_norm(call: Call) -> Tensor:
    return F.instance_norm(call.value(0), None, None, call.value(1), call.value(2), eps=call.attribute("epsilon", 1e-5))


def _layer_norm(call: Call) -> Tensor:
    if call.attribute("stash_type", 1) != 1:
        raise call.refusal("computes its statistics in half precision (stash_type must be 1)")
    values, scale, bias = call.value(0), call.value(1), call.optional(2)
    axes = list(range(call.attribute("axis", -1) % values.ndim, values.ndim))
    centred = values - values.mean(axes, keepdim=True)
    variance = centred.square().mean(axes, keepdim=True)
    normalised = call.rounded(centred / torch.sqrt(variance + call.attribute("epsilon", 1e-5)))
    scaled = normalised * scale
    return scaled if bias is None else call.rounded(scaled) + bias


def _softmax(call: Call) -> Tensor:
    return torch.softmax(call.value(0), call.attribute("axis", -1))


def _log_softmax(call: Call) -> Tensor:
    return torch.log_softmax(call.value(0), call.attribute("axis", -1))


def _window(call: Call) -> tuple[list[int], list[int], list[int], list[int]]:
    if call.value(0).ndim != 4:
        raise call.refusal("pools over other than two spatial axes")
    if call.attribute("ceil_mode", 0) or any(step != 1 for step in call.attribute("dilations", [1])):
        raise call.refusal("ceil_mode and dilations are not known to the strict executor")
    kernel = list(call.attribute("kernel_shape", []))
    begin, end = _padding(call, 2)
    return kernel, list(call.attribute("strides", [1, 1])), begin, end


def _average_pool(call: Call) -> Tensor:
    values = call.value(0)
    kernel, strides, begin, end = _window(call)
    means = F.avg_pool2d(_pad(values, begin, end, 0.0), kernel, strides)
    if call.attribute("count_include_pad", 0) or not (any(begin) or any(end)):
        return means
    inside = _pad(torch.ones_like(values[:1, :1]), begin, end, 0.0)
    return means / F.avg_pool2d(inside, kernel, strides)


def _max_pool(call: Call) -> Tensor:
    if len(call.node.output) > 1:
        raise call.refusal("asks for the indices of the maxima")
    kernel, strides, begin, end = _window(call)
    return F.max_pool2d(_pad(call.value(0), begin, end, -torch.inf), kernel, strides)


def _spatial(values: Tensor) -> list[int]:
    return list(range(2, values.ndim))


def _global_average_pool(call: Call) -> Tensor:
    return call.value(0).mean(_spatial(call.value(0)), keepdim=True)


def _global_max_pool(call: Call) -> Tensor:
    return call.value(0).amax(_spatial(call.value(0)), keepdim=True)


def _reduction(function: Callable[[Call, Tensor, list[int], bool], Tensor]) -> Operator:
    def compute(call: Call) -> Tensor:
        values = call.value(0)
        axes = call.integers(1, "axes")
        if not axes and call.attribute("noop_with_empty_axes", 0):
            return values
        every = list(range(values.ndim))
        return function(call, values, axes or every, bool(call.attribute("keepdims", 1)))

    return compute


def _sum_of_squares(call: Call, values: Tensor, axes: list[int], keep: bool) -> Tensor:
    return call.rounded(call.rounded(values.square()).sum(axes, keepdim=keep))


def _product(call: Call, values: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % values.ndim for axis in axes), reverse=True):
        values = values.prod(axis, keepdim=keep)
    return values


LAYERS: dict[str, Operator] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _convolve,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _log_softmax,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "ReduceL1": _reduction(lambda call, values, axes, keep: values.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduction(lambda call, values, axes, keep: _sum_of_squares(call, values, axes, keep).sqrt()),
    "ReduceMax": _reduction(lambda call, values, axes, keep: values.amax(axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda call, values, axes, keep: values.mean(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda call, values, axes, keep: values.amin(axes, keepdim=keep)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(lambda call, values, axes, keep: values.sum(axes, keepdim=keep)),
    "ReduceSumSquare": _reduction(_sum_of_squares),
    "Softmax": _softmax,
}
"""Operator name to computation; half values arrive in float32 and the executor rounds the result."""
