"""Operators that compute each element by itself, for the strict executor."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from progeo_export.half.call import TORCH_TYPES, Call

Operator = Callable[[Call], Tensor | tuple[Tensor, ...]]


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda call: function(call.value(0))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda call: function(call.value(0), call.value(1))


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda call: reduce(function, [call.value(index) for index in range(len(call.inputs))])


def _divide(call: Call) -> Tensor:
    numerator, denominator = call.value(0), call.value(1)
    if numerator.is_floating_point():
        return numerator / denominator
    return torch.div(numerator, denominator, rounding_mode="trunc")


def _modulo(call: Call) -> Tensor:
    function = torch.fmod if call.attribute("fmod", 0) else torch.remainder
    return function(call.value(0), call.value(1))


def _power(call: Call) -> Tensor:
    base, exponent = call.value(0), call.value(1)
    return torch.pow(base, exponent).to(base.dtype)


def _clip(call: Call) -> Tensor:
    values, low, high = call.value(0), call.optional(1), call.optional(2)
    values = values if low is None else torch.maximum(values, low)
    return values if high is None else torch.minimum(values, high)


def _cast(call: Call) -> Tensor:
    to = int(call.attribute("to", 0))
    if to not in TORCH_TYPES:
        raise call.refusal(f"casts to ONNX type {to}, which the strict executor does not know")
    return call.value(0).to(TORCH_TYPES[to])


def _gelu(call: Call) -> Tensor:
    return F.gelu(call.value(0), approximate=call.attribute("approximate", "none"))


def _hard_sigmoid(call: Call) -> Tensor:
    alpha, beta = float(call.attribute("alpha", 0.2)), float(call.attribute("beta", 0.5))
    return (call.value(0) * alpha + beta).clamp(0.0, 1.0)


def _hard_swish(call: Call) -> Tensor:
    return call.value(0) * (call.value(0) / 6 + 0.5).clamp(0.0, 1.0)


def _leaky_relu(call: Call) -> Tensor:
    return F.leaky_relu(call.value(0), call.attribute("alpha", 0.01))


def _elu(call: Call) -> Tensor:
    return F.elu(call.value(0), call.attribute("alpha", 1.0))


def _p_relu(call: Call) -> Tensor:
    values = call.value(0)
    return torch.where(values < 0, values * call.value(1), values)


def _softplus(values: Tensor) -> Tensor:
    return torch.logaddexp(values, torch.zeros_like(values))


def _where(call: Call) -> Tensor:
    return torch.where(call.value(0), call.value(1), call.value(2))


def _along(scale_or_zero: Tensor, values: Tensor, axis: int) -> Tensor:
    """A value per channel, shaped to broadcast along `axis`."""
    if scale_or_zero.ndim == 0 or scale_or_zero.numel() == 1:
        return scale_or_zero.reshape(())
    shape = [1] * values.ndim
    shape[axis] = -1
    return scale_or_zero.reshape(shape)


def _quantize(call: Call) -> Tensor:
    values, zero = call.value(0), call.optional(2)
    axis = call.attribute("axis", 1)
    zero = torch.zeros((), dtype=torch.uint8) if zero is None else zero
    if zero.dtype not in (torch.int8, torch.uint8):
        raise call.refusal(f"quantises to {zero.dtype}; the strict executor knows int8 and uint8")
    limits = torch.iinfo(zero.dtype)
    levels = torch.round(values / _along(call.value(1), values, axis)) + _along(zero, values, axis).float()
    return levels.clamp(limits.min, limits.max).to(zero.dtype)


def _dequantize(call: Call) -> Tensor:
    levels, scale, zero = call.value(0), call.value(1), call.optional(2)
    axis = call.attribute("axis", 1)
    # In double precision, so that int32 biases lose nothing before the scale.
    centred = levels.double() if zero is None else levels.double() - _along(zero, levels, axis).double()
    return (centred * _along(scale, levels, axis).double()).to(scale.dtype)


ELEMENTWISE: dict[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "Cast": _cast,
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "DequantizeLinear": _dequantize,
    "Div": _divide,
    "Elu": _elu,
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": _gelu,
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": _leaky_relu,
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "Max": _variadic(torch.maximum),
    "Min": _variadic(torch.minimum),
    "Mod": _modulo,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _p_relu,
    "Pow": _power,
    "QuantizeLinear": _quantize,
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(torch.relu),
    "Round": _unary(torch.round),
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Softplus": _unary(_softplus),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _variadic(torch.add),
    "Tanh": _unary(torch.tanh),
    "Where": _where,
}
"""Operator name to computation; half values arrive in float32 and the executor rounds the result."""
