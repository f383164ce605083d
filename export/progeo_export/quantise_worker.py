"""Runs ONNX Runtime's static quantisation. A process of its own, because it can crash and keeps much memory.

Started by `int8.quantise` as `python -m progeo_export.quantise_worker REQUEST.json`; the request's keys are the
attributes of `Request`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

QUANTISED_OPS = ("Conv", "MatMul", "Gemm")
_METHODS = {
    "percentile": CalibrationMethod.Percentile,
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
}
_PERCENTILE = 99.99


@dataclass(frozen=True)
class Request:
    """One quantisation.

    Attributes:
        model: FP32 graph.
        out: Where the graph with Q/DQ goes.
        inputs: .npy file, (N, ...) graph inputs.
        num_inputs: Rows of it that count.
        input_name: Name of the graph's input.
        calibrator: "percentile", "minmax" or "entropy".
        nodes: Names of the nodes to quantise.
        threads: Cores to use; None for all.
    """

    model: str
    out: str
    inputs: str
    num_inputs: int
    input_name: str
    calibrator: str
    nodes: list[str]
    threads: int | None


class _OneByOne(CalibrationDataReader):  # type: ignore[misc]
    """Gives the inputs in batches of one, and lets the calibrator take them in steps so that memory stays small."""

    def __init__(self, inputs: NDArray[Any], name: str) -> None:
        self._inputs, self._name = inputs, name
        self.set_range(0, len(inputs))

    def __len__(self) -> int:
        return len(self._inputs)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._next, self._end = start_index, end_index

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        if self._next >= self._end:
            return None
        row = np.ascontiguousarray(self._inputs[self._next : self._next + 1])
        self._next += 1
        return {self._name: row}


def run(request: Request) -> None:
    """Quantise: symmetric, per channel, Q/DQ at the inputs and weights of the chosen nodes and nowhere else."""
    if request.threads is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: request.threads])
    inputs = np.load(request.inputs, mmap_mode="r", allow_pickle=False)[: request.num_inputs]
    quantize_static(
        request.model,
        request.out,
        _OneByOne(inputs, request.input_name),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(QUANTISED_OPS),
        nodes_to_quantize=request.nodes,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=_METHODS[request.calibrator],
        calibration_providers=["CPUExecutionProvider"],
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(QUANTISED_OPS),
            "QDQKeepRemovableActivations": True,
            "CalibStridedMinMax": 1,
            "CalibPercentile": _PERCENTILE,
        },
    )


if __name__ == "__main__":
    # The advice to run its pre-processing does not apply: our graphs come simplified and with shapes.
    logging.getLogger().setLevel(logging.ERROR)
    run(Request(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
