"""A stand-in for the tensorrt package that computes with ONNX Runtime on the addresses given to `set_tensor_address`.

It has the names of the version that it is made as, and no more; test_trt_names.py holds it to the real bindings. Like
the real one it logs a reason and returns False or None where a call cannot be done.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from progeo_edge.encoders import trt_log
from tests.encoders.fake_cuda import FakeCuda

_MAGIC = b"FAKEPLAN"


@dataclass
class FakeTensorRT:
    """What tests set and read.

    Attributes:
        cuda: The fake GPU on whose memory and streams it works.
        version: As `trt.__version__`.
        fail_at: Names of calls that fail: they log and return False or None.
        miscompile: Size of the error that built engines make; of loaded ones when `miscompile_at_load`.
        builds: One record per engine that was built.
        live: Objects that are not yet freed, per class.
        orphans: Classes of objects that were destroyed where no CUDA context was current.
    """

    cuda: FakeCuda
    version: str = "10.3.0"
    fail_at: set[str] = field(default_factory=set)
    miscompile: float = 0.0
    miscompile_at_load: float = 0.0
    needs_bytes: int = 1 << 20
    builds: list[dict[str, Any]] = field(default_factory=list)
    live: dict[str, int] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split(".")[:2])

    def born(self, item: object) -> None:
        kind = type(item).__name__
        self.live[kind] = self.live.get(kind, 0) + 1
        weakref.finalize(item, self._died, kind)

    def _died(self, kind: str) -> None:
        self.live[kind] -= 1
        if not self.cuda.stack():
            self.orphans.append(kind)

    def alive(self) -> dict[str, int]:
        return {kind: number for kind, number in self.live.items() if number}


@functools.lru_cache(maxsize=8)
def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _enum(name: str, members: str) -> Any:
    return enum.IntEnum(name, {member: value for value, member in enumerate(members.split())})


def make(state: FakeTensorRT) -> ModuleType:
    """The module `tensorrt` of `state.version`."""
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = state.version
    trt.TensorIOMode = _enum("TensorIOMode", "NONE INPUT OUTPUT")
    trt.MemoryPoolType = _enum("MemoryPoolType", "WORKSPACE")
    trt.DataType = _enum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8" + (" INT64" if state.major >= 10 else ""))
    network_flags = {8: "EXPLICIT_BATCH", 10: "EXPLICIT_BATCH STRONGLY_TYPED", 11: "STRONGLY_TYPED"}[state.major]
    trt.NetworkDefinitionCreationFlag = _enum("NetworkDefinitionCreationFlag", network_flags)
    weak = "FP16 INT8 OBEY_PRECISION_CONSTRAINTS " if state.major < 11 else ""
    trt.BuilderFlag = _enum("BuilderFlag", weak + "TF32")
    kinds = {
        onnx.TensorProto.FLOAT: trt.DataType.FLOAT,
        onnx.TensorProto.FLOAT16: trt.DataType.HALF,
        onnx.TensorProto.UINT8: trt.DataType.UINT8,
        onnx.TensorProto.INT64: trt.DataType.INT32,
    }

    class ILogger:
        Severity = _enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")

        def __init__(self) -> None:
            self.ready = True

        def log(self, severity: Any, msg: str) -> None:
            raise NotImplementedError

    def complain(logger: ILogger, call: str, reason: str) -> None:
        assert logger.ready, "the base class was not constructed"
        logger.log(ILogger.Severity.ERROR, f"[fake.cpp::{call}] Error Code 3: {reason}")

    def fails(logger: ILogger, call: str) -> bool:
        if call in state.fail_at:
            complain(logger, call, "it failed as the test asked")
        return call in state.fail_at

    class ITensor:
        def __init__(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
            self.name, self.shape, self.dtype = name, shape, dtype

    class ILayer:
        def __init__(self, name: str, dtype: Any) -> None:
            self.name, self._output, self.num_outputs = name, ITensor(name, (), dtype), 1
            if state.major < 11:
                self.precision = None
                self._types: dict[int, Any] = {}

        def get_output(self, index: int) -> ITensor:
            return self._output

    if state.major < 11:

        def set_output_type(self: Any, index: int, dtype: Any) -> None:
            self._types[index] = dtype

        ILayer.set_output_type = set_output_type  # type: ignore[attr-defined]

    class INetworkDefinition:
        def __init__(self, flags: int, logger: ILogger) -> None:
            state.born(self)
            self.flags, self.logger = flags, logger
            self.model = b""
            self._inputs: list[ITensor] = []
            self._outputs: list[ITensor] = []
            self._layers: list[ILayer] = []

        @property
        def typed(self) -> bool:
            flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
            return flag is not None and bool(self.flags >> int(flag) & 1)

        @property
        def num_inputs(self) -> int:
            return len(self._inputs)

        @property
        def num_outputs(self) -> int:
            return len(self._outputs)

        @property
        def num_layers(self) -> int:
            return len(self._layers)

        def get_input(self, index: int) -> ITensor:
            return self._inputs[index]

        def get_output(self, index: int) -> ITensor:
            return self._outputs[index]

        def get_layer(self, index: int) -> ILayer:
            return self._layers[index]

        def read(self, model: onnx.ModelProto) -> None:
            def tensor(value: Any) -> ITensor:
                kind = value.type.tensor_type
                shape = tuple(axis.dim_value or -1 for axis in kind.shape.dim)
                return ITensor(value.name, shape, kinds[kind.elem_type])

            self.model = model.SerializeToString()
            self._inputs = [tensor(value) for value in model.graph.input]
            self._outputs = [tensor(value) for value in model.graph.output]
            for node in model.graph.node:
                dtype = trt.DataType.INT32 if node.op_type in ("Shape", "Slice") else trt.DataType.FLOAT
                self._layers.append(ILayer(node.name or node.output[0], dtype))

    class ParserError:
        def __init__(self, text: str) -> None:
            self._text = text

        def desc(self) -> str:
            return self._text

    class OnnxParser:
        def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
            state.born(self)
            self._network, self._logger = network, logger
            self._errors: list[ParserError] = []

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> ParserError:
            return self._errors[index]

        def parse_from_file(self, model: str) -> bool:
            try:
                if "parse_from_file" in state.fail_at:
                    raise ValueError("No importer registered for op: Strange")
                self._network.read(onnx.load(model))
            except Exception as error:
                self._errors.append(ParserError(f"In node 3 (parse): {error}"))
                return False
            return True

    class IOptimizationProfile:
        def __init__(self) -> None:
            self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            if "set_shape" in state.fail_at:
                raise ValueError("the shapes are not ordered")
            self.shapes[input] = (tuple(min), tuple(opt), tuple(max))

    class IHostMemory(bytes):
        @property
        def nbytes(self) -> int:
            return len(self)

    class ITimingCache:
        def __init__(self, entries: bytes) -> None:
            self.entries = entries

        def serialize(self) -> IHostMemory:
            return IHostMemory(f"TIMING {state.version} ".encode() + self.entries)

    class IBuilderConfig:
        def __init__(self, logger: ILogger) -> None:
            state.born(self)
            self.logger = logger
            self.flags = {trt.BuilderFlag.TF32}
            self.pools: dict[Any, int] = {}
            self.profiles: list[IOptimizationProfile] = []
            self.builder_optimization_level = 3
            self._cache: ITimingCache | None = None

        def set_flag(self, flag: Any) -> None:
            self.flags.add(flag)

        def clear_flag(self, flag: Any) -> None:
            self.flags.discard(flag)

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            self.pools[pool] = pool_size

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            if fails(self.logger, "add_optimization_profile"):
                return -1
            self.profiles.append(profile)
            return len(self.profiles) - 1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
            if fails(self.logger, "create_timing_cache"):
                return None
            if not serialized_timing_cache:
                return ITimingCache(b"")
            start = f"TIMING {state.version} ".encode()
            if not serialized_timing_cache.startswith(start):
                complain(self.logger, "create_timing_cache", "the blob is not a timing cache of this version")
                return None
            return ITimingCache(serialized_timing_cache[len(start) :])

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch, "measurements of another GPU would be taken for this one's"
            if fails(self.logger, "set_timing_cache"):
                return False
            self._cache = cache
            return True

        def get_timing_cache(self) -> ITimingCache | None:
            return self._cache

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            if "Builder" in state.fail_at:
                raise TypeError("pybind11::init(): factory function returned nullptr")
            state.born(self)
            self._logger = logger

        def create_network(self, flags: int = 0) -> INetworkDefinition | None:
            return None if fails(self._logger, "create_network") else INetworkDefinition(flags, self._logger)

        def create_optimization_profile(self) -> IOptimizationProfile | None:
            return None if fails(self._logger, "create_optimization_profile") else IOptimizationProfile()

        def create_builder_config(self) -> IBuilderConfig | None:
            return None if fails(self._logger, "create_builder_config") else IBuilderConfig(self._logger)

        def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
            state.cuda.need_context("build_serialized_network")
            if fails(self._logger, "build_serialized_network"):
                return None
            names = {flag.name for flag in config.flags}
            if network.typed and names & {"FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"}:
                complain(self._logger, "build_serialized_network", "a strongly typed network takes no precision flag")
                return None
            monitor = getattr(config, "progress_monitor", None)
            if monitor is not None and not _work(monitor):
                complain(self._logger, "build_serialized_network", "cancelled by the progress monitor")
                return None
            if config.get_timing_cache() is not None:
                config.get_timing_cache().entries += b"+"  # type: ignore[union-attr]
            record = {
                "version": state.version,
                "sha256": hashlib.sha256(network.model).hexdigest(),
                "capability": list(state.cuda.capability),
                "typed": network.typed,
                "flags": sorted(names),
                "held": [layer.name for layer in network._layers if _is_held_in_fp32(layer, trt.DataType.FLOAT)],
                "workspace": config.pools[trt.MemoryPoolType.WORKSPACE],
                "level": config.builder_optimization_level,
                "error": state.miscompile,
                "profile": config.profiles[0].shapes,
            }
            state.builds.append(record)
            return IHostMemory(_MAGIC + json.dumps(record).encode() + b"\n" + network.model)

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            if "Runtime" in state.fail_at:
                raise TypeError("pybind11::init(): factory function returned nullptr")
            state.born(self)
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            state.cuda.need_context("deserialize_cuda_engine")
            if fails(self._logger, "deserialize_cuda_engine"):
                return None
            header, _, model = serialized_engine.partition(b"\n")
            try:
                record = json.loads(header.removeprefix(_MAGIC))
                damaged = hashlib.sha256(model).hexdigest() != record["sha256"]
            except (ValueError, KeyError):
                damaged = True
            if damaged:
                complain(self._logger, "deserialize_cuda_engine", "Serialization assertion plan->checksum failed")
                return None
            if record["version"] != state.version:
                complain(self._logger, "deserialize_cuda_engine", f"Version tag does not match: {record['version']}")
                return None
            return ICudaEngine(record, model, self._logger)

    class ICudaEngine:
        def __init__(self, record: dict[str, Any], model: bytes, logger: ILogger) -> None:
            state.born(self)
            self.record, self.model, self.logger = record, model, logger
            network = INetworkDefinition(0, logger)
            network.read(onnx.load_model_from_string(model))
            self._modes = {tensor.name: trt.TensorIOMode.INPUT for tensor in network._inputs}
            self._modes |= {tensor.name: trt.TensorIOMode.OUTPUT for tensor in network._outputs}
            self._tensors = {tensor.name: tensor for tensor in (*network._inputs, *network._outputs)}
            if state.major < 11:
                self.device_memory_size = state.needs_bytes
            if state.numbers >= (10, 3):
                self.device_memory_size_v2 = state.needs_bytes

        @property
        def num_io_tensors(self) -> int:
            return len(self._tensors)

        def get_tensor_name(self, index: int) -> str:
            return list(self._tensors)[index]

        def get_tensor_mode(self, name: str) -> Any:
            return self._modes[name]

        def get_tensor_dtype(self, name: str) -> Any:
            return self._tensors[name].dtype

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self._tensors[name].shape

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
            return [tuple(shape) for shape in self.record["profile"][name]]

        def create_execution_context(self) -> IExecutionContext | None:
            state.cuda.need_context("create_execution_context")
            return None if fails(self.logger, "create_execution_context") else IExecutionContext(self)

    class IExecutionContext:
        def __init__(self, engine: ICudaEngine) -> None:
            state.born(self)
            self._engine = engine
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}

        def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
            if fails(self._engine.logger, "set_input_shape"):
                return False
            smallest, _, largest = self._engine.get_tensor_profile_shape(name, 0)
            fits = len(shape) == len(smallest) and all(
                low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
            )
            if not fits:
                complain(self._engine.logger, "set_input_shape", f"{tuple(shape)} is outside of the profile")
                return False
            self._shapes[name] = tuple(shape)
            return True

        def set_tensor_address(self, name: str, memory: int) -> bool:
            if fails(self._engine.logger, "set_tensor_address"):
                return False
            if name not in self._engine._tensors or memory % 256 or not memory:
                complain(self._engine.logger, "set_tensor_address", f"{name}: {memory} is no aligned address")
                return False
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            state.cuda.need_context("execute_async_v3")
            missing = self._engine._tensors.keys() - self._addresses.keys()
            unset = [name for name, mode in self._engine._modes.items() if mode == 1 and name not in self._shapes]
            if fails(self._engine.logger, "execute_async_v3"):
                return False
            if missing or unset:
                complain(self._engine.logger, "execute_async_v3", f"no address {missing} or shape {unset}")
                return False
            shapes = dict(self._shapes)
            state.cuda.streams[stream_handle].put(lambda: self._compute(shapes))
            return True

        def _compute(self, shapes: dict[str, tuple[int, ...]]) -> None:
            inputs = {}
            for name, shape in shapes.items():
                dtype = np.dtype(np.uint8 if self._engine._tensors[name].dtype == trt.DataType.UINT8 else np.float32)
                size = int(np.prod(shape)) * dtype.itemsize
                inputs[name] = state.cuda.view(self._addresses[name], size).view(dtype).reshape(shape)
            outputs = [name for name, mode in self._engine._modes.items() if mode == trt.TensorIOMode.OUTPUT]
            wrong = self._engine.record["error"] + state.miscompile_at_load
            for name, value in zip(outputs, _session(self._engine.model).run(outputs, inputs), strict=True):
                noise = np.random.default_rng(0).normal(0, 1, value.shape[1:]) * wrong
                data = np.ascontiguousarray(value + noise, np.float32).view(np.uint8).reshape(-1)
                state.cuda.view(self._addresses[name], data.size)[:] = data

    classes = (ILogger, ITensor, ILayer, INetworkDefinition, ParserError, OnnxParser, IOptimizationProfile, IHostMemory)
    for kind in (*classes, ITimingCache, IBuilderConfig, Builder, Runtime, ICudaEngine, IExecutionContext):
        setattr(trt, kind.__name__, kind)
    if state.major >= 10:
        trt.IProgressMonitor = _progress_monitor()
    return trt  # type: ignore[no-any-return]


def _is_held_in_fp32(layer: Any, kind: Any) -> bool:
    """A layer computes and gives FP32 only when both are asked for."""
    types = dict.fromkeys(range(layer.num_outputs), kind)
    return bool(getattr(layer, "precision", None) == kind and layer._types == types)


def _progress_monitor() -> Any:
    class IProgressMonitor:
        def __init__(self) -> None:
            self.ready = True

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None: ...

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

        def phase_finish(self, phase_name: str) -> None: ...

    return IProgressMonitor


def _work(monitor: Any) -> bool:
    assert monitor.ready
    for phase, steps in (("Building Engine", 2), ("Timing graph nodes", 3)):
        monitor.phase_start(phase, None, steps)
        for step in range(steps):
            if not monitor.step_complete(phase, step):
                return False
        monitor.phase_finish(phase)
    return True


def install(patch: pytest.MonkeyPatch, state: FakeTensorRT) -> ModuleType:
    """Let `import tensorrt` give the fake."""
    module = make(state)
    patch.setitem(sys.modules, "tensorrt", module)
    trt_log.logger_of.cache_clear()
    return module
