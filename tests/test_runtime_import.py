"""What a robot's process loads: the runtime, and no library that only a command, a report or a training needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.encoders.tensorrt_bundle import write_golden_bundle

ROOT = Path(__file__).parent.parent
IMPORT = "from progeo_edge import Frame, LoopDetector, MapStore, load_encoder\n"
COMMANDS_ONLY = {
    "matplotlib",
    "rich",
    "jinja2",
    "typer",
    "click",
    "yaml",
    "rosbags",
    "gtsam",
    "rerun",
    "scipy",
    "torch",
    "onnx",
    "multiprocessing",
    "http",
    "asyncio",
    "unittest",
    "importlib.metadata",
}
"""importlib.metadata is what pydantic searches for plugins with when it builds its first validator."""
BACKENDS = {"onnxruntime", "openvino", "tensorrt", "pycuda"}


def loaded_by(code: str) -> set[str]:
    """Modules in a new process that has run `code`."""
    program = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_runtime_loads_nothing_that_only_a_command_needs():
    loaded = loaded_by(IMPORT)
    assert {"numpy", "cv2", "pydantic", "progeo_edge.detector", "progeo_edge.map_store"} <= loaded
    assert loaded & (COMMANDS_ONLY | BACKENDS) == set()


def test_importing_the_runtime_builds_no_validator():
    code = (
        IMPORT + "from progeo_edge import bundle, config\n"
        "kinds = [*config.Section.__subclasses__(), *bundle._Strict.__subclasses__()]\n"
        "assert len(kinds) > 15\n"
        "built = [kind.__name__ for kind in kinds if kind.__pydantic_complete__]\n"
        "assert not built, built\n"
        "config.Config()\n"
        "assert config.Config.__pydantic_complete__\n"
    )
    loaded_by(code)


def test_opening_vlad_loads_no_backend():
    loaded = loaded_by(IMPORT + "load_encoder()")
    assert "progeo_edge.encoders.vlad" in loaded
    assert loaded & (COMMANDS_ONLY | BACKENDS) == set()


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_opening_a_bundle_loads_its_backend_alone(backend: str, tmp_path: Path):
    module = {"onnx": "onnxruntime", "openvino": "openvino"}[backend]
    pytest.importorskip(module, reason=f"{module} is not installed")
    bundle = write_golden_bundle(tmp_path / "bundle", precisions=("fp32",), pooling="average")
    loaded = loaded_by(IMPORT + f"load_encoder({str(bundle)!r}, backend={backend!r})")
    assert loaded & BACKENDS == {module}
    by_itself = loaded_by(f"import {module}")
    # Building the first validator searches for plugins of pydantic.
    assert loaded & (COMMANDS_ONLY - {"importlib.metadata"}) <= by_itself
