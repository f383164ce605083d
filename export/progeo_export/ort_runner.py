"""Runs a graph with ONNX Runtime in a process of its own, which half graphs are known to crash.

Only numpy and ONNX Runtime are imported here.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from progeo_export.worker import run_module

Arrays = Mapping[str, NDArray[Any]]
# At "all", 1.24 and 1.32 crash on half ViTs.
Level = Literal["disabled", "basic", "extended"]

_LEVELS = {"disabled": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED"}


def run_graph(
    path: Path, batches: Sequence[Arrays], level: Level = "extended", *, timeout_s: float = 1800.0, threads: int = 0
) -> list[dict[str, NDArray[Any]]]:
    """Compute a graph's outputs for several inputs, on the CPU.

    Args:
        path: ONNX file.
        batches: For each run, the arrays of the graph's inputs by name.
        level: Optimisations of ONNX Runtime.
        timeout_s: The process is ended after this time.
        threads: Of one operator; 0 takes as many as there are cores.

    Returns:
        For each run, the outputs by name.

    Raises:
        ExportError: the graph cannot be loaded or run, or the process crashed or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="progeo-ort-") as folder:
        for number, batch in enumerate(batches):
            _write(_inputs(Path(folder), number), batch)
        request = {"graph": str(path), "runs": len(batches), "level": level, "threads": threads}
        run_module(
            "progeo_export.ort_runner",
            folder,
            json.dumps(request),
            work=f"ONNX Runtime on {path}",
            timeout_s=timeout_s,
            remedy="try another --opset or precision, or another version of it",
        )
        return [_read(_outputs(Path(folder), number)) for number in range(len(batches))]


def main() -> None:
    """The process: folder and request on the command line."""
    import onnxruntime

    folder, request = Path(sys.argv[1]), json.loads(sys.argv[2])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[request["level"]])
    options.intra_op_num_threads = request["threads"]
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(request["graph"], options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for number in range(request["runs"]):
        values = session.run(names, _read(_inputs(folder, number)))
        _write(_outputs(folder, number), dict(zip(names, values, strict=True)))


def _inputs(folder: Path, number: int) -> Path:
    return folder / f"inputs{number}.npz"


def _outputs(folder: Path, number: int) -> Path:
    return folder / f"outputs{number}.npz"


def _write(path: Path, arrays: Arrays) -> None:
    values: dict[str, Any] = dict(arrays)
    np.savez(path, **values)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


if __name__ == "__main__":
    main()
