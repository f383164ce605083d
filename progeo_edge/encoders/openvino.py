"""Encoder of an ONNX graph through OpenVINO on the CPU: a bundle, or a foreign .onnx beside its .yaml."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import ModelSpec, Precision, read_manifest
from progeo_edge.encoders.descriptor_rows import DescriptorError
from progeo_edge.encoders.golden import GoldenError, read_golden, run_golden
from progeo_edge.encoders.graph_identity import open_checked_graph
from progeo_edge.encoders.graph_ports import Port, check_input, check_output, input_shape
from progeo_edge.encoders.graph_runner import GraphRunner, Infer, first_line
from progeo_edge.errors import ModelError
from progeo_edge.graph_file import Graph
from progeo_edge.types import Image

_log = logging.getLogger(__name__)

Arithmetic = Literal["f32", "bf16"]
"""What everything that is not INT8 is computed in."""

_DEVICE = "CPU"
_EXACT_CHECKS = 2


class OpenVinoEncoder:
    """Image -> descriptor by OpenVINO on the CPU. Safe to call from several threads, which then take turns.

    FP32 graphs, and what is not quantised in INT8 ones, are computed in FP32. An FP16 graph is computed in bfloat16 on
    a CPU that has it, when the bundle's golden images then keep the limits of FP16; else in FP32. Where a bundle has
    golden images, they are run whenever it is opened (of an FP32 graph the first two).

    Args:
        path: Bundle folder, or an .onnx file with a .yaml of the same name beside it.
        threads: Threads of one inference; 0 lets OpenVINO take one per core.
        precision: Which graph of a bundle; None prefers FP32, then FP16, then INT8.

    Raises:
        ModelError: openvino is not installed; the model is missing, altered, damaged, not what its description says, or
            uses what OpenVINO cannot compute. A GoldenError when it computes other descriptors than were exported.
    """

    def __init__(self, path: Path, *, threads: int = 0, precision: Precision | None = None) -> None:
        runtime = _import_openvino()
        checked = open_checked_graph(Path(path), precision)
        graph = checked.graph
        loaded = _Loaded(runtime, graph, threads)
        self._runner, self._arithmetic = _open_runner(loaded, graph)
        self._precision = graph.precision
        self._spec = checked.spec(loaded.output_name, self._runner.dimension)
        self._device_name = loaded.device_name
        _log.info("OpenVINO runs on %s", self.says)

    @property
    def spec(self) -> ModelSpec:
        """Identity of the model; that of the same graph under ONNX Runtime."""
        return self._spec

    @property
    def precision(self) -> Precision | None:
        """Which graph of a bundle runs; None for a foreign model."""
        return self._precision

    @property
    def arithmetic(self) -> Arithmetic:
        """What everything that is not INT8 is really computed in."""
        return self._arithmetic

    @property
    def says(self) -> str:
        """What computes, for people: "AMD EPYC computing in bf16"."""
        return f"{self._device_name} computing in {self._arithmetic}"

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
        """Free the graph; `encode` raises afterwards."""
        self._runner.close()


class _Loaded:
    """A graph that OpenVINO has read and that is what its description says, to be compiled in an arithmetic.

    Attributes:
        output_name: Of the descriptor output.
        batch: Rows that it takes at once.
        device_name: What it will run on.
        has_bfloat16: Whether that computes in bfloat16.
    """

    def __init__(self, runtime: ModuleType, graph: Graph, threads: int) -> None:
        self._core = runtime.Core()
        self._graph, self._threads = graph, threads
        self._model = self._read()
        input_name, fixed_batch = check_input(_ports(self._model.inputs, graph.input_name), graph)
        self.output_name = check_output(_ports(self._model.outputs, graph.output_name), graph)
        # A graph of a dynamic batch gains nothing from batches on a CPU, and loses from having no shape.
        self.batch = fixed_batch or 1
        self._reshape(input_name, (self.batch, *input_shape(graph)))
        self.device_name = str(self._core.get_property(_DEVICE, "FULL_DEVICE_NAME"))
        self.has_bfloat16 = "BF16" in self._core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")

    def compile(self, arithmetic: Arithmetic) -> GraphRunner:
        """The graph, ready to run."""
        options = {
            # Left alone, OpenVINO takes bfloat16 for FP32 graphs on CPUs that have it.
            "INFERENCE_PRECISION_HINT": arithmetic,
            "PERFORMANCE_HINT": "LATENCY",
            # Pinned threads wait for their own core while another one is free.
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_NUM_THREADS": self._threads,
        }
        try:
            compiled = self._core.compile_model(self._model, _DEVICE, options)
        except RuntimeError as error:
            raise ModelError(f"model {self._graph.path} cannot be compiled by OpenVINO: {_reason(error)}") from error
        return GraphRunner(self._graph, _infer(compiled, self.output_name), batch=self.batch, fixed=True)

    def _read(self) -> Any:  # noqa: ANN401
        try:
            return self._core.read_model(self._graph.path)
        except RuntimeError as error:
            raise ModelError(
                f"model {self._graph.path} cannot be loaded by OpenVINO: {_reason(error)}; use ONNX Runtime"
            ) from error

    def _reshape(self, name: str, shape: tuple[int, ...]) -> None:
        try:
            self._model.reshape({name: list(shape)})
        except RuntimeError as error:
            raise ModelError(
                f"model {self._graph.path} does not take an input of shape {shape}: {_reason(error)}; check width_px, "
                "height_px and layout"
            ) from error


def _open_runner(loaded: _Loaded, graph: Graph) -> tuple[GraphRunner, Arithmetic]:
    """The graph in the fastest arithmetic that is right for its precision, and which that is.

    OpenVINO has been seen to leave out an attribute of an operator in silence, and no export has proven bfloat16. So
    what it computes is compared with the golden images of the bundle.
    """
    check = _golden_check(graph)
    if graph.precision == "fp16" and loaded.has_bfloat16 and check is not None:
        try:
            runner = loaded.compile("bf16")
            check(runner)
        except (DescriptorError, GoldenError) as error:
            _log.warning("the FP16 graph is computed in FP32, not in bfloat16: %s", error)
        else:
            return runner, "bf16"
    runner = loaded.compile("f32")
    if check is not None:
        check(runner)
    return runner, "f32"


def _golden_check(graph: Graph) -> Callable[[GraphRunner], object] | None:
    """What raises a GoldenError for wrong descriptors; None for a model that has no golden images."""
    if graph.precision is None:
        return None
    precision, manifest = graph.precision, read_manifest(graph.folder)
    if manifest.golden is None:
        _log.warning("what OpenVINO computes is not checked: bundle %s has no golden images", graph.folder)
        return None
    golden = read_golden(graph.folder, manifest)
    # FP32 is exact or wrong, which few images show and each costs an inference at every start. The limits of the
    # others are shares in the mean.
    count = _EXACT_CHECKS if precision == "fp32" else None
    return lambda runner: run_golden(golden, manifest, precision, runner.raw, count)


def _infer(compiled: Any, output_name: str) -> Infer:  # noqa: ANN401
    """Run one batch; a request serves one call at a time."""
    request, output = compiled.create_infer_request(), compiled.output(output_name)
    lock = threading.Lock()

    def infer(batch: NDArray[Any]) -> NDArray[Any]:
        with lock:
            request.infer({0: batch}, share_inputs=True)
            return cast("NDArray[Any]", request.get_tensor(output).data.copy())

    return infer


def _import_openvino() -> ModuleType:
    try:
        import openvino
    except (ImportError, OSError) as error:
        raise ModelError(
            f"openvino cannot be imported ({error}); install it with: pip install 'progeo-edge[openvino]'"
        ) from error
    return cast(ModuleType, openvino)


def _ports(items: Sequence[Any], wanted: str | None) -> list[Port]:
    return [_port(item, wanted) for item in items]


def _port(item: Any, wanted: str | None) -> Port:  # noqa: ANN401
    """One tensor may have several names; the wanted one is taken where it is among them."""
    names = item.get_names()
    name = wanted if wanted is not None and wanted in names else str(item.get_any_name())
    rank = item.get_partial_shape().rank
    shape = None if rank.is_dynamic else tuple(_axis(axis) for axis in item.get_partial_shape())
    return Port(name, _dtype(item.get_element_type()), shape)


def _axis(axis: Any) -> int | None:  # noqa: ANN401
    return None if axis.is_dynamic else int(axis.get_length())


def _dtype(kind: Any) -> str:  # noqa: ANN401
    try:
        return str(np.dtype(kind.to_dtype()))
    except (RuntimeError, TypeError):  # one that numpy does not have
        return str(kind.get_type_name())


def _reason(error: Exception) -> str:
    """The line of OpenVINO's message that says what is wrong; the first ones name its own source files."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return telling[-1] if telling else first_line(error)
