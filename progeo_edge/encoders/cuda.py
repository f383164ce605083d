"""All CUDA calls of the runtime: one GPU's primary context, a stream, and pairs of host and device memory.

pycuda binds every object to a context and gives it back only where that context is current, so everything here is made,
used and freed inside `with gpu.current():`. `pycuda.autoinit` is never used: its context belongs to the thread that
imported it, and a callback of ROS or of a web server runs in another one.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from progeo_edge.errors import ModelError

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: does not wait for the default stream of other libraries. pycuda has no name for it."""


class Stream:
    """A queue of work on the GPU that does not wait for other libraries' default stream."""

    def __init__(self, driver: ModuleType) -> None:
        self._stream: Any = driver.Stream(_NON_BLOCKING)

    @property
    def handle(self) -> int:
        """Its CUstream as an integer, which TensorRT takes."""
        return int(self.of_pycuda.handle)

    @property
    def of_pycuda(self) -> Any:  # noqa: ANN401 - a class of pycuda
        """The stream as pycuda takes it; never keep it, since pycuda destroys it with its last reference."""
        if self._stream is None:
            raise ModelError("the CUDA stream was freed")
        return self._stream

    def synchronize(self) -> None:
        """Wait until everything queued has been done; other Python threads go on meanwhile."""
        self.of_pycuda.synchronize()

    def free(self) -> None:
        """Destroy it; where something else still holds this object, that does not matter."""
        self._stream = None


def open_gpu(index: int = 0) -> Gpu:
    """The GPU `index`, the same object for everybody in this process.

    Its primary context is retained once and kept until the process ends, as the CUDA runtime itself does. pycuda cannot
    release it from another thread than the one that retained it.

    Raises:
        ModelError: pycuda is not installed, or there is no such GPU.
    """
    with _OPEN_LOCK:
        return open_once(index)


_OPEN_LOCK = threading.Lock()


class Gpu:
    """One GPU and its primary context, which it shares with every other CUDA library in the process.

    Attributes:
        name: As the driver calls it ("Orin").
        compute_capability: For example (8, 7).
        integrated: Whether CPU and GPU share their memory, as on every Jetson.
    """

    def __init__(self, index: int) -> None:
        self._driver = _import_pycuda()
        with _as_model_error(f"GPU {index} cannot be used", self._driver):
            self._driver.init()
            device = self._driver.Device(index)
            self.name = str(device.name())
            major, minor = device.compute_capability()
            self.compute_capability = (int(major), int(minor))
            self.integrated = bool(device.get_attribute(self._driver.device_attribute.INTEGRATED))
            self._context = device.retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the primary context current in this thread; may be nested, and used from any thread.

        Raises:
            ModelError: a CUDA call in the body failed.
        """
        with _as_model_error("CUDA failed", self._driver):
            self._context.push()
            try:
                yield
            finally:
                self._driver.Context.pop()

    def free_memory_bytes(self) -> int:
        """Memory that could be allocated now; on an integrated GPU, the free part of the whole machine's."""
        free, _total = self._driver.mem_get_info()
        return int(free)

    def make_stream(self) -> Stream:
        """A stream of its own."""
        return Stream(self._driver)

    def make_buffer(self, shape: Sequence[int], dtype: DTypeLike, *, zero_copy: bool = False) -> Buffer:
        """Memory for one tensor, on both sides.

        Args:
            shape: Shape of the host array; the first axis is the batch.
            dtype: numpy type of an element.
            zero_copy: Let the GPU read and write the host's memory. Only sensible where CPU and GPU share it.
        """
        return Buffer(self._driver, tuple(shape), np.dtype(dtype), zero_copy=zero_copy)


open_once = functools.cache(Gpu)
"""Behind `open_gpu`, which keeps two threads from retaining the context twice."""


class Buffer:
    """Pinned host memory, and the device memory that belongs to it.

    Attributes:
        host: Array in pinned memory, of the shape asked for.
        address: Address that the GPU uses.
    """

    def __init__(self, driver: ModuleType, shape: tuple[int, ...], dtype: np.dtype[Any], *, zero_copy: bool) -> None:
        self._driver = driver
        flags = driver.host_alloc_flags.DEVICEMAP if zero_copy else 0
        self.host: NDArray[Any] = driver.pagelocked_empty(shape, dtype, "C", flags)
        self._device: Any = None
        try:
            if zero_copy:
                self.address = int(self._pinned.get_device_pointer())
            else:
                self._device = driver.mem_alloc(self.host.nbytes)
                self.address = int(self._device)
        except BaseException:
            self._pinned.free()
            raise

    @property
    def _pinned(self) -> Any:  # noqa: ANN401 - a class of pycuda
        return self.host.base

    def upload(self, count: int, stream: Stream) -> None:
        """Queue the copy of the first `count` rows to the GPU."""
        if self._device is not None:
            self._driver.memcpy_htod_async(self._device, self.host[:count], stream.of_pycuda)

    def download(self, count: int, stream: Stream) -> None:
        """Queue the copy of the first `count` rows to the host."""
        if self._device is not None:
            self._driver.memcpy_dtoh_async(self.host[:count], self._device, stream.of_pycuda)

    def free(self) -> None:
        """Give both back; the host array must not be touched afterwards."""
        if self._device is not None:
            self._device.free()
            self._device = None
        pinned = self._pinned
        self.host = np.empty(0)
        if pinned is not None:
            pinned.free()


def _import_pycuda() -> ModuleType:
    try:
        return importlib.import_module("pycuda.driver")
    except ImportError as error:
        raise ModelError(
            f"pycuda cannot be imported ({error}); install it on the device with: pip install "
            "'progeo-edge[tensorrt]' (it is compiled there and needs nvcc on the PATH)"
        ) from error


@contextmanager
def _as_model_error(what: str, driver: ModuleType) -> Iterator[None]:
    try:
        yield
    except driver.MemoryError as error:
        raise ModelError(
            f"{what}: {error}; the GPU has too little free memory: close other programs, or use a smaller max_batch"
        ) from error
    except driver.Error as error:
        raise ModelError(f"{what}: {error}") from error
