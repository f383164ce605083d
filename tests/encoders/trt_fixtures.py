"""What the tests of the TensorRT runtime share: a fake GPU, a fake TensorRT on it, and a bundle for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from progeo_edge.encoders.tensorrt import TensorRTEncoder
from tests.encoders import fake_cuda, fake_tensorrt
from tests.tiny_encoder import HEIGHT_PX, WIDTH_PX


@dataclass
class Machine:
    """A device: its fake GPU and its fake TensorRT."""

    patch: pytest.MonkeyPatch
    cuda: fake_cuda.FakeCuda
    trt: fake_tensorrt.FakeTensorRT

    def install(self, version: str) -> None:
        """Replace TensorRT by another version, as an update of JetPack does."""
        self.trt = fake_tensorrt.FakeTensorRT(self.cuda, version)
        fake_tensorrt.install(self.patch, self.trt)

    def assert_all_freed(self) -> None:
        """The primary context stays for the life of the process; everything else must be gone."""
        assert self.trt.alive() == {}
        assert self.trt.orphans == []
        assert self.cuda.alive() == {"primary context": 1}
        assert self.cuda.memory == {}
        assert self.cuda.stack() == []


def make_machine(patch: pytest.MonkeyPatch, cache: Path, version: str = "10.3.0") -> Machine:
    cuda = fake_cuda.FakeCuda()
    fake_cuda.install(patch, cuda)
    machine = Machine(patch, cuda, fake_tensorrt.FakeTensorRT(cuda, version))
    fake_tensorrt.install(patch, machine.trt)
    patch.setenv("XDG_CACHE_HOME", str(cache))
    return machine


def frames(count: int = 5, seed: int = 3) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8))


def plans(bundle: Path) -> list[Path]:
    return sorted((bundle / "engines").glob("*.plan"))


def open_and_close(bundle: Path, **options: Any) -> None:
    with TensorRTEncoder(bundle, **options) as encoder:
        encoder.encode(frames(1))
