"""Encoder of an ONNX graph through ONNX Runtime: a bundle, or a foreign .onnx beside its .yaml."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import ModelSpec, Precision
from progeo_edge.encoders.graph_identity import open_checked_graph
from progeo_edge.encoders.graph_ports import Port, check_input, check_output
from progeo_edge.encoders.graph_runner import GraphRunner, first_line
from progeo_edge.encoders.onnx_scan import GraphScan
from progeo_edge.errors import ModelError
from progeo_edge.types import Image

_log = logging.getLogger(__name__)

_CPU = "CPUExecutionProvider"
_DEFAULT_PROVIDERS = ("CUDAExecutionProvider", "OpenVINOExecutionProvider", _CPU)
"""Best first. TensorRT is used only when named: through ONNX Runtime it builds its engine anew at every start."""

_MAX_BATCH = 16
_NUMPY_NAMES = {"tensor(float)": "float32", "tensor(double)": "float64"}
"""Types whose name is not that of numpy within "tensor(...)"."""


class _Tensor(Protocol):
    """What ONNX Runtime tells about an input or output."""

    name: str
    type: str
    shape: Sequence[int | str | None] | None


class _Session(Protocol):
    """The part of `onnxruntime.InferenceSession` that is used here."""

    def get_inputs(self) -> Sequence[_Tensor]: ...
    def get_outputs(self) -> Sequence[_Tensor]: ...
    def get_providers(self) -> Sequence[str]: ...
    def run(self, outputs: list[str], inputs: dict[str, NDArray[Any]]) -> Sequence[Any]: ...


class OnnxEncoder:
    """Image -> descriptor by ONNX Runtime. Safe to call from several threads.

    Args:
        path: Bundle folder, or an .onnx file with a .yaml of the same name beside it.
        providers: Execution providers, best first; each must be usable. None takes the best that is installed.
        threads: Threads of one inference on the CPU; 0 lets ONNX Runtime take one per core.
        spin: Threads wait for work by polling: faster when the cores are free, far slower when they are not.
        precision: Which graph of a bundle; None prefers FP32, then FP16, then INT8.

    Raises:
        ModelError: onnxruntime is not installed; the model is missing, altered, damaged, or not what its description
            says; a named provider is not usable.
    """

    def __init__(
        self,
        path: Path,
        *,
        providers: Sequence[str] | None = None,
        threads: int = 0,
        spin: bool = False,
        precision: Precision | None = None,
    ) -> None:
        runtime = _import_onnxruntime()
        checked = open_checked_graph(Path(path), precision)
        graph = checked.graph
        wanted = _choose_providers(providers, runtime.get_available_providers())
        session = _open_session(runtime, graph.path, checked.scan, wanted, threads, spin)
        _report_providers(wanted, session.get_providers(), runtime.get_available_providers(), providers)
        if checked.scan.has_half and session.get_providers()[0] == _CPU:
            _log.info("on the CPU half precision is computed in FP32: no faster, and no proof of a half engine")
        self._precision = graph.precision
        input_name, fixed_batch = check_input(_ports(session.get_inputs()), graph)
        output_name = check_output(_ports(session.get_outputs()), graph)
        self._session: _Session | None = session
        self._runner = GraphRunner(
            graph,
            lambda batch: np.asarray(session.run([output_name], {input_name: batch})[0]),
            batch=fixed_batch or _MAX_BATCH,
            fixed=fixed_batch is not None,
        )
        self._spec = checked.spec(output_name, self._runner.dimension)

    @property
    def spec(self) -> ModelSpec:
        """Identity of the model; the FP32 and FP16 graphs of one bundle share its fingerprint."""
        return self._spec

    @property
    def precision(self) -> Precision | None:
        """Which graph of a bundle runs; None for a foreign model."""
        return self._precision

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers that are really active, best first; empty after `close`."""
        return tuple(self._session.get_providers()) if self._session is not None else ()

    def encode(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """N images, (H, W, 3) BGR or (H, W) grey uint8 of any sizes, to (N, D) float32 with unit rows.

        Raises:
            InputError: an image of another shape or type.
            ModelError: the graph fails, or gives NaN, a zero vector or another shape; the encoder was closed.
        """
        return self._runner.encode(images)

    def raw_descriptors(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """As `encode`, but what the graph gives as it is: neither checked nor scaled, so it may hold NaN."""
        return self._runner.raw(images)

    def close(self) -> None:
        """Free the session; `encode` raises afterwards."""
        self._session = None
        self._runner.close()


def _import_onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            f"onnxruntime cannot be imported ({error}); install it with: pip install 'progeo-edge[onnx]'"
        ) from error
    return cast(ModuleType, onnxruntime)


def _choose_providers(asked: Sequence[str] | None, available: Sequence[str]) -> list[str]:
    if asked is None:
        return [name for name in _DEFAULT_PROVIDERS if name in available]
    missing = [name for name in asked if name not in available]
    if missing or not asked:
        raise ModelError(
            f"provider {', '.join(missing) or '(none)'} is not in this onnxruntime; it has {', '.join(available)}"
        )
    return [*asked, *([] if _CPU in asked else [_CPU])]


def _open_session(
    runtime: ModuleType, path: Path, scan: GraphScan, providers: list[str], threads: int, spin: bool
) -> _Session:
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if scan.has_half:
        # At the default level ONNX Runtime has been seen to crash the process on half-precision transformers.
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    reason = "this onnxruntime has no provider that could run it"
    for first, name in enumerate(providers):
        try:
            # ONNX Runtime's own fallback prints to stdout and steps down in the middle of a run.
            session = runtime.InferenceSession(str(path), options, providers=providers[first:], enable_fallback=0)
            return cast(_Session, session)
        except Exception as error:  # onnxruntime raises classes of its own, which share only this base
            reason = first_line(error)
            _log.warning("%s did not start: %s", name, reason)
    raise ModelError(f"model {path} cannot be loaded: {reason}; export it again")


def _report_providers(
    wanted: Sequence[str], active: Sequence[str], available: Sequence[str], asked: Sequence[str] | None
) -> None:
    """Say which provider runs, and why the better ones do not; a provider that was named and fails is an error."""
    failed = [name for name in wanted if name not in active]
    if asked is not None and failed:
        raise ModelError(f"provider {', '.join(failed)} did not start; the log says why")
    reasons = [f"{name} failed to start" for name in failed]
    reasons += [f"{name} is not in this onnxruntime" for name in _DEFAULT_PROVIDERS if name not in available]
    if asked is None and "TensorrtExecutionProvider" in available:
        reasons.append("TensorrtExecutionProvider builds its engine at every start, so it must be named")
    _log.info("ONNX Runtime runs on %s%s", active[0], f" ({'; '.join(reasons)})" if reasons else "")


def _ports(tensors: Sequence[_Tensor]) -> list[Port]:
    return [
        Port(item.name, _numpy_name(item.type), None if item.shape is None else tuple(item.shape)) for item in tensors
    ]


def _numpy_name(kind: str) -> str:
    """Of ONNX Runtime's "tensor(uint8)"."""
    return _NUMPY_NAMES.get(kind, kind.removeprefix("tensor(").removesuffix(")"))
