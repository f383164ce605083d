"""Encoder of an ONNX graph through ONNX Runtime: a bundle, or a foreign .onnx beside its .yaml."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import ModelSpec, Precision
from progeo_edge.encoders.descriptor_rows import unit_rows
from progeo_edge.encoders.graph_identity import check_external_files, graph_fingerprint
from progeo_edge.encoders.onnx_scan import GraphScan, scan_graph
from progeo_edge.errors import ModelError
from progeo_edge.graph_file import Graph, open_graph
from progeo_edge.preprocess import to_model_input
from progeo_edge.types import Image

_log = logging.getLogger(__name__)

_CPU = "CPUExecutionProvider"
_DEFAULT_PROVIDERS = ("CUDAExecutionProvider", "OpenVINOExecutionProvider", _CPU)
"""Best first. TensorRT is used only when named: through ONNX Runtime it builds its engine anew at every start."""

_MAX_BATCH = 16
_INPUT_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
_OUTPUT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")


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
        threads: Threads of one inference on the CPU; None lets ONNX Runtime take one per core.
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
        threads: int | None = None,
        precision: Precision | None = None,
    ) -> None:
        runtime = _import_onnxruntime()
        graph = open_graph(Path(path), precision)
        scan = scan_graph(graph.path)
        external = check_external_files(graph, scan)
        wanted = _choose_providers(providers, runtime.get_available_providers())
        session = _open_session(runtime, graph.path, scan, wanted, threads)
        _report_providers(wanted, session.get_providers(), runtime.get_available_providers(), providers)
        if scan.has_half and session.get_providers()[0] == _CPU:
            _log.info("on the CPU half precision is computed in FP32: no faster, and no proof of a half engine")
        self._path = graph.path
        self._precision = graph.precision
        self._preprocess = graph.preprocess
        self._input_name, self._fixed_batch = _check_input(session, graph)
        self._output_name = _check_output(session, graph)
        self._session: _Session | None = session
        dimension = self._probe(graph.dimension)
        fingerprint = graph_fingerprint(graph, external, self._output_name)
        self._spec = ModelSpec(name=graph.name, dimension=dimension, fingerprint=fingerprint)

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
        return self._encode(images, lambda output: unit_rows(output, self._path))

    def raw_descriptors(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """As `encode`, but what the graph gives as it is: neither checked nor scaled, so it may hold NaN."""
        return self._encode(images, lambda output: output)

    def _encode(self, images: Sequence[Image], finish: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[np.float32]:
        rows = np.empty((len(images), self._spec.dimension), dtype=np.float32)
        size = self._fixed_batch or _MAX_BATCH
        for start in range(0, len(images), size):
            batch = to_model_input(images[start : start + size], self._preprocess)
            rows[start : start + len(batch)] = finish(self._run(batch, self._spec.dimension))
        return rows

    def close(self) -> None:
        """Free the session; `encode` raises afterwards."""
        self._session = None

    def _probe(self, stated: int | None) -> int:
        """Run one image, so that a graph that cannot work is refused now and not at the first frame."""
        noise = np.random.default_rng(0).integers(0, 256, (self._preprocess.height_px, self._preprocess.width_px, 3))
        output = self._run(to_model_input([noise.astype(np.uint8)], self._preprocess), stated)
        return int(unit_rows(output, self._path).shape[1])

    def _run(self, batch: NDArray[Any], dimension: int | None) -> NDArray[Any]:
        session = self._session
        if session is None:
            raise ModelError(f"encoder of {self._path} was closed; open it again with load_encoder")
        count = len(batch)
        if self._fixed_batch is not None and count < self._fixed_batch:
            batch = np.concatenate([batch, np.repeat(batch[-1:], self._fixed_batch - count, axis=0)])
        try:
            output = np.asarray(session.run([self._output_name], {self._input_name: batch})[0])
        except Exception as error:  # onnxruntime raises classes of its own, which share only this base
            raise ModelError(
                f"model {self._path} failed on a batch of shape {batch.shape}: {_first_line(error)}; "
                "check width_px, height_px and layout, or export it with a dynamic (or fixed) batch"
            ) from error
        if output.ndim != 2 or len(output) != len(batch) or (dimension is not None and output.shape[1] != dimension):
            raise ModelError(
                f"model {self._path} gave shape {output.shape} for {len(batch)} images; expected "
                f"({len(batch)}, {dimension or 'D'}): check the output's name, the dimension and the batch axis"
            )
        return output[:count]


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
    runtime: ModuleType, path: Path, scan: GraphScan, providers: list[str], threads: int | None
) -> _Session:
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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
            reason = _first_line(error)
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


def _check_input(session: _Session, graph: Graph) -> tuple[str, int | None]:
    """Name of the image input and its batch size, None when that is dynamic."""
    chosen = _pick(session.get_inputs(), graph.input_name, "input", graph.path)
    others = [item.name for item in session.get_inputs() if item.name != chosen.name]
    if others:
        raise ModelError(f"model {graph.path} also needs the inputs {', '.join(others)}; export it with the image only")
    spec = graph.preprocess
    if chosen.type != _INPUT_TYPES[spec.dtype]:
        raise ModelError(
            f"input {chosen.name!r} of {graph.path} takes {chosen.type}, but its description says {spec.dtype}"
        )
    height, width = spec.height_px, spec.width_px
    expected = (height, width, 3) if spec.layout == "nhwc" else (3, height, width)
    shape = list(chosen.shape or [])
    agrees = len(shape) == 4 and all(
        not isinstance(size, int) or size == want for size, want in zip(shape[1:], expected, strict=True)
    )
    if not agrees:
        raise ModelError(
            f"input {chosen.name!r} of {graph.path} has shape {shape}, but its description says "
            f"{spec.layout} ('batch', {', '.join(map(str, expected))})"
        )
    batch = shape[0]
    return chosen.name, batch if isinstance(batch, int) and batch > 0 else None


def _check_output(session: _Session, graph: Graph) -> str:
    chosen = _pick(session.get_outputs(), graph.output_name, "output", graph.path)
    if chosen.type not in _OUTPUT_TYPES:
        raise ModelError(f"output {chosen.name!r} of {graph.path} is {chosen.type}; expected floats of shape (N, D)")
    shape = list(chosen.shape or [])
    stated = graph.dimension
    if shape and len(shape) != 2:
        raise ModelError(f"output {chosen.name!r} of {graph.path} has shape {shape}; expected descriptors (N, D)")
    if shape and stated is not None and isinstance(shape[1], int) and shape[1] != stated:
        raise ModelError(
            f"output {chosen.name!r} of {graph.path} has dimension {shape[1]}, but its description says {stated}"
        )
    return chosen.name


def _pick(items: Sequence[_Tensor], name: str | None, what: str, path: Path) -> _Tensor:
    names = [item.name for item in items]
    if name is None and len(items) == 1:
        return items[0]
    if name is None:
        raise ModelError(
            f"model {path} has {len(items)} {what}s ({', '.join(names)}); name one as '{what}:' in the yaml"
        )
    if name not in names:
        raise ModelError(f"model {path} has no {what} {name!r}; it has {', '.join(names)}")
    return items[names.index(name)]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
