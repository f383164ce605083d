"""CUDA graphs: record what is queued on a stream once, and launch it again with a single call.

pycuda has no binding for them, so the driver's own library is called; the functions are the same from CUDA 11.4 to 13.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

from progeo_edge.encoders.cuda import Stream
from progeo_edge.errors import ModelError

_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: calls of other threads do not break the recording."""


class CudaGraph:
    """A recorded piece of work."""

    def __init__(self, executable: ctypes.c_void_p) -> None:
        self._executable = executable

    def launch(self, stream: Stream) -> None:
        """Queue the recorded work."""
        _call("cuGraphLaunch", self._executable, ctypes.c_void_p(stream.handle))

    def free(self) -> None:
        """Destroy it; it must not be launched afterwards."""
        _call("cuGraphExecDestroy", self._executable)


def capture(stream: Stream, enqueue: Callable[[], None]) -> CudaGraph:
    """Record what `enqueue` puts on the stream, without doing it.

    Raises:
        ModelError: the driver cannot record it, or `enqueue` failed.
    """
    handle = ctypes.c_void_p(stream.handle)
    graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
    _call("cuStreamBeginCapture_v2", handle, ctypes.c_int(_THREAD_LOCAL))
    try:
        enqueue()
    except BaseException:
        if _driver().cuStreamEndCapture(handle, ctypes.byref(graph)) == 0 and graph:
            _driver().cuGraphDestroy(graph)
        raise
    _call("cuStreamEndCapture", handle, ctypes.byref(graph))
    try:
        _call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
    finally:
        _call("cuGraphDestroy", graph)
    return CudaGraph(executable)


@functools.cache
def _driver() -> Any:  # noqa: ANN401 - functions of a C library
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise ModelError(f"the CUDA driver's library cannot be loaded: {error}") from error


def _call(name: str, *arguments: Any) -> None:  # noqa: ANN401 - ctypes values
    try:
        function = getattr(_driver(), name)
    except AttributeError:
        raise ModelError(f"this CUDA driver has no {name}") from None
    status = function(*arguments)
    if status != 0:
        raise ModelError(f"{name} failed with CUDA error {status}")
