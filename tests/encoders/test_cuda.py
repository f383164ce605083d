"""The room of all CUDA calls, on the fake driver."""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import progeo_edge
from progeo_edge.encoders import cuda
from progeo_edge.encoders.cuda import Gpu, open_gpu
from progeo_edge.errors import ModelError
from tests.encoders import fake_cuda
from tests.encoders.fake_cuda import FakeCuda

RUNTIME = Path(progeo_edge.__file__).parent


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    state = FakeCuda()
    fake_cuda.install(monkeypatch, state)
    return state


def _words_of_code(path: Path) -> Iterator[str]:
    """Names and strings of a file, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
    docstrings = {id(node.value) for node in texts}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield f"{node.module}." + ",".join(alias.name for alias in node.names)


def test_cuda_is_reached_from_two_files_alone_and_never_through_autoinit() -> None:
    words = {path: list(_words_of_code(path)) for path in RUNTIME.rglob("*.py")}
    imports = {path.name for path, found in words.items() if any(word.startswith("pycuda") for word in found)}
    assert imports == {"cuda.py"}
    assert {path.name for path, found in words.items() if any("libcuda" in word for word in found)} == {"cuda_graph.py"}
    assert not [path for path, found in words.items() if any("autoinit" in word for word in found)]


def test_importing_the_runtime_s_cuda_room_imports_no_pycuda(state: FakeCuda) -> None:
    assert state.alive() == {}, "nothing is made before a GPU is opened"
    open_gpu()
    assert not [name for name in sys.modules if name.startswith("pycuda.autoinit")]


def test_threads_that_open_together_share_one_context(state: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Barrier(4)
    real = cuda._import_pycuda

    def slowly() -> object:
        threading.Event().wait(0.02)
        return real()

    monkeypatch.setattr(cuda, "_import_pycuda", slowly)

    def open_together(_: int) -> Gpu:
        start.wait()
        return open_gpu()

    with ThreadPoolExecutor(4) as pool:
        opened = set(pool.map(open_together, range(4)))
    assert len(opened) == 1 and state.alive() == {"primary context": 1}


def test_current_may_be_nested_and_ends_after_an_error(state: FakeCuda) -> None:
    gpu = open_gpu()
    with pytest.raises(ZeroDivisionError), gpu.current(), gpu.current():
        assert len(state.stack()) == 2
        1 / 0  # noqa: B018
    assert state.stack() == []
    with pytest.raises(fake_cuda.LogicError, match="invalid device context"):
        gpu.free_memory_bytes()


def test_errors_of_cuda_are_told_as_ours(state: FakeCuda) -> None:
    gpu = open_gpu()
    with pytest.raises(ModelError, match=r"cuMemAlloc failed: out of memory; .*too little free memory"), gpu.current():
        gpu.make_buffer((1 << 31,), np.uint8)
    state.fail_at = {"cuStreamCreate"}
    with pytest.raises(ModelError, match="CUDA failed: cuStreamCreate failed: as the test asked"), gpu.current():
        gpu.make_stream()
    with pytest.raises(ModelError, match="GPU 7 cannot be used"):
        open_gpu(7)
    assert state.alive() == {"primary context": 1}


@pytest.mark.parametrize("zero_copy", [False, True])
def test_a_buffer_carries_rows_there_and_back_and_is_freed_once(zero_copy: bool, state: FakeCuda) -> None:
    gpu = open_gpu()
    with gpu.current():
        stream, buffer = gpu.make_stream(), gpu.make_buffer((3, 5), np.float32, zero_copy=zero_copy)
        assert state.alive().get("DeviceAllocation", 0) == (not zero_copy)
        buffer.host[:] = np.arange(15).reshape(3, 5)
        buffer.upload(2, stream)
        stream.synchronize()
        if not zero_copy:
            buffer.host[:] = 0
        buffer.download(2, stream)
        stream.synchronize()
        np.testing.assert_array_equal(buffer.host[:2].ravel(), np.arange(10))
        buffer.free()
        buffer.free()
        stream.free()
    assert state.alive() == {"primary context": 1} and state.memory == {}
    with pytest.raises(ModelError, match="the CUDA stream was freed"):
        stream.synchronize()


def test_a_buffer_that_is_half_made_gives_its_host_memory_back(state: FakeCuda) -> None:
    gpu = open_gpu()
    state.fail_at = {"cuMemAlloc"}
    with pytest.raises(ModelError, match="cuMemAlloc"), gpu.current():
        gpu.make_buffer((4,), np.uint8)
    assert state.memory == {}
