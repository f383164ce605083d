"""A loaded engine with its memory on the GPU: batches of graph inputs to batches of outputs."""

from __future__ import annotations

import logging
import traceback
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import Manifest
from progeo_edge.encoders.cuda import Buffer, Gpu, Stream
from progeo_edge.encoders.cuda_graph import CudaGraph, capture
from progeo_edge.encoders.trt_log import LogLines, captured, logger_of
from progeo_edge.errors import ModelError

_log = logging.getLogger(__name__)


class PlanError(ModelError):
    """A plan that TensorRT does not take, or that is not an engine of this bundle: building it again may help."""


class EngineSession:
    """One engine, one execution context, one stream and one set of buffers. Not safe for use by two threads at once.

    Args:
        trt: The tensorrt module.
        gpu: Where it runs.
        plan: Serialised engine.
        manifest: Names, sizes and dimension that the engine must have.
        max_batch: Batch that the buffers are made for; the engine's profile must reach it.
        zero_copy: Let the GPU work on the host's memory.
        cuda_graph: Record the work of each batch size once and replay it afterwards.

    Raises:
        PlanError: the plan does not deserialise here, or has other inputs, outputs or sizes.
        ModelError: too little memory, or another failure of CUDA.
    """

    def __init__(
        self,
        trt: ModuleType,
        gpu: Gpu,
        plan: bytes,
        manifest: Manifest,
        *,
        max_batch: int,
        zero_copy: bool = False,
        cuda_graph: bool = False,
    ) -> None:
        self._gpu = gpu
        self._manifest = manifest
        self._use_graphs = cuda_graph
        self._graphs: dict[int, CudaGraph] = {}
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream: Stream | None = None
        self._buffers: list[Buffer] = []
        spec = manifest.preprocess
        image = (spec.height_px, spec.width_px, 3) if spec.layout == "nhwc" else (3, spec.height_px, spec.width_px)
        try:
            with gpu.current(), captured() as lines:
                self._load(trt, plan, lines)
                _check_engine(trt, self._engine, manifest, image, max_batch, lines)
                self._make_context(lines)
                self._make_buffers((max_batch, *image), zero_copy, lines)
        except BaseException as error:
            # The dead frames hold TensorRT's objects, which must go while the context is current.
            with gpu.current():
                traceback.clear_frames(error.__traceback__)
                self.close()
            raise

    @property
    def is_open(self) -> bool:
        """False after `close`."""
        return self._context is not None

    def run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Run one batch.

        Args:
            batch: (N, ...) contiguous graph input, 1 <= N <= max_batch.

        Returns:
            (N, D) float32, a copy that the caller keeps.

        Raises:
            ModelError: TensorRT or CUDA failed, or the session was closed.
        """
        stream = self._open_stream()
        source, result = self._buffers
        count = len(batch)
        if batch.shape[1:] != source.host.shape[1:] or not 1 <= count <= len(source.host):
            raise ModelError(
                f"the engine takes 1 to {len(source.host)} images of shape {source.host.shape[1:]}, not an array of "
                f"shape {batch.shape}"
            )
        with self._gpu.current(), captured() as lines:
            source.host[:count] = batch
            if count in self._graphs:
                self._graphs[count].launch(stream)
            else:
                self._enqueue(batch.shape, lines)
            stream.synchronize()
            rows = np.array(result.host[:count])
            if self._use_graphs and count not in self._graphs:
                self._record(batch.shape, lines)
        return rows

    def close(self) -> None:
        """Free everything, in the order in which it depends on each other; may be called again."""
        with self._gpu.current():
            for graph in self._graphs.values():
                graph.free()
            self._graphs.clear()
            self._context = None
            self._engine = None
            self._runtime = None
            while self._buffers:
                self._buffers.pop().free()
            if self._stream is not None:
                self._stream.free()
                self._stream = None

    def _load(self, trt: ModuleType, plan: bytes, lines: LogLines) -> None:
        try:
            self._runtime = trt.Runtime(logger_of(trt))
        except TypeError as error:  # how the binding tells of a null pointer
            raise lines.fail(f"TensorRT's runtime did not start ({error})") from error
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise PlanError(
                f"TensorRT {trt.__version__} cannot load the engine (another version or GPU built it, or it is "
                f"damaged); {lines.summary()}"
            )

    def _make_context(self, lines: LogLines) -> None:
        self._stream = self._gpu.make_stream()
        needed, free = _device_memory_bytes(self._engine), self._gpu.free_memory_bytes()
        if needed > free:
            _log.warning("the engine needs %.0f MB of GPU memory, %.0f MB are free", needed / 1e6, free / 1e6)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise lines.fail(
                f"TensorRT made no execution context, which needs {needed / 1e6:.0f} MB of GPU memory",
                "close other programs, or build with a smaller max_batch",
            )

    def _make_buffers(self, input_shape: tuple[int, ...], zero_copy: bool, lines: LogLines) -> None:
        manifest = self._manifest
        shapes = {
            manifest.input_name: (input_shape, np.dtype(manifest.preprocess.dtype)),
            manifest.output_name: ((input_shape[0], manifest.dimension), np.dtype(np.float32)),
        }
        for name, (shape, dtype) in shapes.items():
            buffer = self._gpu.make_buffer(shape, dtype, zero_copy=zero_copy)
            self._buffers.append(buffer)
            if not self._context.set_tensor_address(name, buffer.address):
                raise lines.fail(f"TensorRT refused the memory of tensor {name!r}")

    def _enqueue(self, shape: tuple[int, ...], lines: LogLines) -> None:
        """Queue copy in, inference and copy out for one batch."""
        source, result = self._buffers
        stream = self._open_stream()
        name = self._manifest.input_name
        if not self._context.set_input_shape(name, shape):
            raise lines.fail(f"TensorRT refused the shape {shape} of {name!r}")
        source.upload(shape[0], stream)
        if not self._context.execute_async_v3(stream.handle):
            raise lines.fail(f"TensorRT did not run a batch of shape {shape}")
        result.download(shape[0], stream)

    def _record(self, shape: tuple[int, ...], lines: LogLines) -> None:
        """Record the work for this batch size after it has run once; without a graph it only runs slower."""
        try:
            with self._gpu.current():  # names CUDA's errors, too
                self._graphs[shape[0]] = capture(self._open_stream(), lambda: self._enqueue(shape, lines))
        except ModelError as error:
            # As text: a handler that keeps the error would keep the frames behind it, and with them CUDA's objects.
            _log.warning("no CUDA graph: %s; every call is launched one by one instead", str(error))
            self._use_graphs = False

    def _open_stream(self) -> Stream:
        if self._stream is None:
            raise ModelError("the engine was closed")
        return self._stream


def _device_memory_bytes(engine: Any) -> int:  # noqa: ANN401
    """Scratch memory of one execution context; `device_memory_size` went away with version 11."""
    size = engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
    return int(size)


def _check_engine(
    trt: ModuleType,
    engine: Any,  # noqa: ANN401
    manifest: Manifest,
    image: tuple[int, ...],
    max_batch: int,
    lines: LogLines,
) -> None:
    """Compare the engine's tensors with the manifest, since a wrong size would be a write outside of the buffers."""
    found = {name: _describe(trt, engine, name) for name in map(engine.get_tensor_name, range(engine.num_io_tensors))}
    dtype = {"uint8": trt.DataType.UINT8, "float32": trt.DataType.FLOAT}[manifest.preprocess.dtype]
    expected = {
        manifest.input_name: (trt.TensorIOMode.INPUT, dtype, len(image) + 1),
        manifest.output_name: (trt.TensorIOMode.OUTPUT, trt.DataType.FLOAT, 2),
    }
    if found != expected:
        raise PlanError(f"the engine has the tensors {_names(found)}, the manifest says {_names(expected)}")
    smallest, _, largest = (tuple(shape) for shape in engine.get_tensor_profile_shape(manifest.input_name, 0))
    if smallest != (1, *image) or largest != (max_batch, *image):
        raise PlanError(f"the engine takes {smallest} to {largest}, expected {(1, *image)} to {(max_batch, *image)}")
    dimension = tuple(engine.get_tensor_shape(manifest.output_name))[1]
    if dimension not in (-1, manifest.dimension):
        raise PlanError(f"the engine gives {dimension} values per image, the manifest says {manifest.dimension}")


def _describe(trt: ModuleType, engine: Any, name: str) -> tuple[Any, Any, int]:  # noqa: ANN401
    return engine.get_tensor_mode(name), engine.get_tensor_dtype(name), len(tuple(engine.get_tensor_shape(name)))


def _names(tensors: dict[str, tuple[Any, Any, int]]) -> str:
    return ", ".join(f"{name} ({mode}, {dtype}, {axes} axes)" for name, (mode, dtype, axes) in tensors.items())
