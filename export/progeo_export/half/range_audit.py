"""Ranges of every tensor of an FP32 graph on calibration images: what half precision would have to hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from progeo_export.errors import ExportError
from progeo_export.half.graph_edges import read_edges
from progeo_export.half.strict_executor import StrictExecutor

_SMALLEST_NORMAL = 2.0**-14


@dataclass(frozen=True, slots=True)
class Range:
    """The values of one tensor.

    Attributes:
        largest: Largest magnitude; infinite or NaN if the tensor has such values in FP32 already.
        subnormal_share: Share of the non-zero values below 6.1e-5, which half holds with fewer digits or loses.
    """

    largest: float
    subnormal_share: float


@dataclass(frozen=True, slots=True)
class RangeAudit:
    """Ranges of a graph.

    Attributes:
        tensors: Of every float32 tensor that a node gives, over all calibration inputs.
        weights: Of every float32 weight and constant; infinities, which half holds, left out.
        num_inputs: Number of calibration inputs (calls, not images).
    """

    tensors: Mapping[str, Range]
    weights: Mapping[str, Range]
    num_inputs: int


def audit_ranges(model: onnx.ModelProto, inputs: Iterable[Mapping[str, NDArray[Any]]]) -> RangeAudit:
    """Run the FP32 graph on calibration inputs and note what its tensors reach.

    Args:
        model: FP32 graph with its weights inside.
        inputs: One mapping per call: array of every graph input by name. Real images, never noise.

    Raises:
        ExportError: no calibration input, or an operator that the strict executor does not know.
    """
    edges = read_edges(model)
    totals: dict[str, _Total] = {}

    def observe(name: str, values: Tensor) -> None:
        if values.dtype == torch.float32 and values.numel() and name not in edges.weights:
            totals.setdefault(name, _Total()).add(values)

    executor = StrictExecutor(model)
    num_inputs = 0
    for given in inputs:
        executor.run(given, observe)
        num_inputs += 1
    if not num_inputs:
        raise ExportError("the range audit has no calibration images; give at least one")
    weights = {name: _weight_range(edges.array(name)) for name in edges.weights if edges.is_float(name)}
    return RangeAudit({name: total.range() for name, total in totals.items()}, weights, num_inputs)


class _Total:
    """Running figures of one tensor."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.non_zero = 0
        self.subnormal = 0

    def add(self, values: Tensor) -> None:
        magnitudes = values.abs()
        # The maximum of torch is NaN where a value is; so the total stays NaN, which no limit lets pass.
        self.largest = float(torch.maximum(magnitudes.max(), torch.tensor(self.largest)))
        # Counted on booleans, which torch does several times faster than on numbers.
        non_zero = int(torch.count_nonzero(magnitudes != 0))
        self.non_zero += non_zero
        self.subnormal += int(torch.count_nonzero(magnitudes < _SMALLEST_NORMAL)) - (magnitudes.numel() - non_zero)

    def range(self) -> Range:
        return Range(self.largest, self.subnormal / max(self.non_zero, 1))


def _weight_range(values: NDArray[np.generic]) -> Range:
    total = _Total()
    numbers = np.asarray(values, dtype=np.float32)
    finite = torch.from_numpy(np.where(np.isfinite(numbers), numbers, 0))
    if finite.numel():
        total.add(finite)
    return total.range()
