"""A stand-in for pycuda on a machine without a GPU, stricter than the real one.

Device memory is ordinary memory, but everything needs a context that is current in the calling thread, work on a stream
happens only when the stream is synchronised, addresses that were freed are refused, and what is alive is counted.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from progeo_edge.encoders import cuda, cuda_graph

_ALIGNMENT = 256


class Error(Exception):
    pass


class LogicError(Error):
    pass


class MemoryError(Error):
    pass


class FakeCuda:
    """The state behind one fake driver.

    Attributes:
        live: Number of objects of each kind that are not freed.
        memory_bytes: Device memory in all.
        fail_at: Names of driver calls that raise; "a copy while recording" raises only while a graph is recorded.
    """

    def __init__(self) -> None:
        self.live: dict[str, int] = {}
        self.memory_bytes = 1 << 30
        self.integrated = 1
        self.name = "Fake Orin"
        self.capability = (8, 7)
        self.fail_at: set[str] = set()
        self.synchronisations = 0
        self.graph_launches = 0
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.memory: dict[int, Any] = {}
        self.handles = itertools.count(1)
        self.stacks = threading.local()

    def stack(self) -> list[Context]:
        if not hasattr(self.stacks, "contexts"):
            self.stacks.contexts = []
        return self.stacks.contexts  # type: ignore[no-any-return]

    def need_context(self, call: str) -> None:
        if not self.stack():
            raise LogicError(f"{call} failed: invalid device context")
        if call in self.fail_at:
            raise LogicError(f"{call} failed: as the test asked")

    def count(self, kind: str, change: int) -> None:
        self.live[kind] = self.live.get(kind, 0) + change

    def alive(self) -> dict[str, int]:
        return {kind: number for kind, number in self.live.items() if number}

    def allocate(self, size: int, kind: str) -> int:
        if sum(len(block) for block in self.memory.values()) + size > self.memory_bytes:
            raise MemoryError("cuMemAlloc failed: out of memory")
        block = np.full(size + _ALIGNMENT, 0xAB, np.uint8)
        address = -(-block.ctypes.data // _ALIGNMENT) * _ALIGNMENT
        self.memory[address] = block
        self.count(kind, 1)
        return address

    def release(self, address: int, kind: str) -> None:
        self.need_context("cuMemFree")
        if self.memory.pop(address, None) is None:
            raise LogicError("cuMemFree failed: invalid handle")
        self.count(kind, -1)

    def view(self, address: int, size: int) -> Any:
        """The memory at an address of this GPU; anything else is the crash that a real one would answer with."""
        block = self.memory.get(address)
        if block is None or size > len(block) - _ALIGNMENT:
            raise LogicError("illegal memory access")
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


class Context:
    def __init__(self, state: FakeCuda) -> None:
        self.state = state

    def push(self) -> None:
        self.state.stack().append(self)


class Stream:
    def __init__(self, state: FakeCuda, flags: int = 0) -> None:
        state.need_context("cuStreamCreate")
        assert flags == 1, "a stream that waits for the default stream"
        self.state = state
        self.handle = next(state.handles) * 4096
        self.queue: list[Callable[[], None]] = []
        self.recorded: list[Callable[[], None]] | None = None
        state.streams[self.handle] = self
        state.count("Stream", 1)

    def put(self, work: Callable[[], None]) -> None:
        (self.queue if self.recorded is None else self.recorded).append(work)

    def synchronize(self) -> None:
        self.state.need_context("cuStreamSynchronize")
        self.state.synchronisations += 1
        assert self.recorded is None, "a synchronisation breaks the recording of a graph"
        work, self.queue = self.queue, []
        for item in work:
            item()

    def destroy(self) -> None:
        if self.state.stack():
            self.state.count("Stream", -1)


class _StreamHandle:
    """What the user holds: the stream is destroyed with it, and leaks where no context is current."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.handle = stream.handle

    def synchronize(self) -> None:
        self._stream.synchronize()

    def __del__(self) -> None:
        self._stream.state.streams.pop(self.handle, None)
        self._stream.destroy()


class DeviceAllocation:
    def __init__(self, state: FakeCuda, size: int) -> None:
        state.need_context("cuMemAlloc")
        self._state, self.address = state, state.allocate(size, "DeviceAllocation")

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self._state.release(self.address, "DeviceAllocation")


class PagelockedHostAllocation:
    def __init__(self, state: FakeCuda, shape: tuple[int, ...], dtype: np.dtype[Any], flags: int) -> None:
        state.need_context("cuMemHostAlloc")
        size = int(np.prod(shape)) * dtype.itemsize
        self._state, self._mapped = state, bool(flags)
        self._address = state.allocate(size, "PagelockedHostAllocation")
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (self._address, False),
            "version": 3,
        }

    def get_device_pointer(self) -> int:
        if not self._mapped:
            raise LogicError("cuMemHostGetDevicePointer failed: invalid argument")
        return self._address

    def free(self) -> None:
        self._state.release(self._address, "PagelockedHostAllocation")


def driver_of(state: FakeCuda) -> ModuleType:
    """A module with the part of `pycuda.driver` that is used."""
    driver: Any = ModuleType("pycuda.driver")
    driver.Error, driver.LogicError, driver.MemoryError = Error, LogicError, MemoryError
    driver.init = lambda: None
    driver.device_attribute = SimpleNamespace(INTEGRATED="integrated")
    driver.host_alloc_flags = SimpleNamespace(DEVICEMAP=2)

    class Device:
        def __init__(self, index: int) -> None:
            if index > 0:
                raise LogicError("cuDeviceGet failed: invalid device ordinal")

        def name(self) -> str:
            return state.name

        def compute_capability(self) -> tuple[int, int]:
            return state.capability

        def get_attribute(self, attribute: str) -> int:
            assert attribute == "integrated"
            return state.integrated

        def retain_primary_context(self) -> Context:
            state.count("primary context", 1)
            return Context(state)

    def pop() -> None:
        state.stack().pop()

    def mem_get_info() -> tuple[int, int]:
        state.need_context("cuMemGetInfo")
        used = sum(len(block) for block in state.memory.values())
        return state.memory_bytes - used, state.memory_bytes

    def memcpy_htod_async(dest: DeviceAllocation, src: np.ndarray[Any, Any], stream: _StreamHandle) -> None:
        state.need_context("cuMemcpyHtoDAsync")
        if stream._stream.recorded is not None and "a copy while recording" in state.fail_at:
            raise LogicError("cuMemcpyHtoDAsync failed: operation not permitted when stream is capturing")
        stream._stream.put(lambda: _copy(state, int(dest), src.ctypes.data, src.nbytes))

    def memcpy_dtoh_async(dest: np.ndarray[Any, Any], src: DeviceAllocation, stream: _StreamHandle) -> None:
        state.need_context("cuMemcpyDtoHAsync")
        stream._stream.put(lambda: _copy(state, dest.ctypes.data, int(src), dest.nbytes))

    def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray[Any, Any]:
        return np.asarray(PagelockedHostAllocation(state, tuple(shape), np.dtype(dtype), mem_flags))

    driver.Device = Device
    driver.Context = SimpleNamespace(pop=pop)
    driver.Stream = lambda flags=0: _StreamHandle(Stream(state, flags))
    driver.mem_alloc = lambda size: DeviceAllocation(state, size)
    driver.mem_get_info = mem_get_info
    driver.memcpy_htod_async = memcpy_htod_async
    driver.memcpy_dtoh_async = memcpy_dtoh_async
    driver.pagelocked_empty = pagelocked_empty
    return driver  # type: ignore[no-any-return]


def _copy(state: FakeCuda, dest: int, src: int, size: int) -> None:
    """Between two addresses that must both be pinned or on the device."""
    state.view(dest, size)[:] = state.view(src, size)


class FakeLibcuda:
    """The functions of libcuda.so.1 that CUDA graphs need."""

    def __init__(self, state: FakeCuda) -> None:
        self._state = state

    def cuStreamBeginCapture_v2(self, stream: Any, mode: Any) -> int:
        found = self._state.streams[stream.value]
        assert not found.queue, "work is still queued"
        found.recorded = []
        return 0

    def cuStreamEndCapture(self, stream: Any, graph: Any) -> int:
        found = self._state.streams[stream.value]
        recorded, found.recorded = found.recorded, None
        assert recorded is not None
        if "cuStreamEndCapture" in self._state.fail_at:
            return 900
        self._state.count("graph", 1)
        graph._obj.value = next(self._state.handles)
        self._state.graphs[graph._obj.value] = recorded
        return 0

    def cuGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: Any) -> int:
        if "cuGraphInstantiateWithFlags" in self._state.fail_at:
            return 2
        executable._obj.value = next(self._state.handles)
        self._state.graphs[executable._obj.value] = self._state.graphs[graph.value]
        self._state.count("executable graph", 1)
        return 0

    def cuGraphLaunch(self, executable: Any, stream: Any) -> int:
        self._state.graph_launches += 1
        for work in self._state.graphs[executable.value]:
            self._state.streams[stream.value].put(work)
        return 0

    def cuGraphDestroy(self, graph: Any) -> int:
        del self._state.graphs[graph.value]
        self._state.count("graph", -1)
        return 0

    def cuGraphExecDestroy(self, executable: Any) -> int:
        del self._state.graphs[executable.value]
        self._state.count("executable graph", -1)
        return 0


def install(patch: pytest.MonkeyPatch, state: FakeCuda) -> None:
    """Let `import pycuda.driver` and the driver's own library be the fakes."""
    package, driver = ModuleType("pycuda"), driver_of(state)
    package.driver = driver  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "pycuda", package)
    patch.setitem(sys.modules, "pycuda.driver", driver)
    patch.setattr(cuda_graph, "_driver", lambda: FakeLibcuda(state))
    cuda.open_once.cache_clear()
