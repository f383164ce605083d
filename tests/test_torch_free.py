"""The runtime works where torch, open_clip, onnx and ROS are not installed."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import progeo_edge

ROOT = Path(__file__).parent.parent

BLOCKED = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in "torch open_clip onnx rclpy onnxruntime rosbags gtsam rerun".split():
            raise ImportError(f"{name} must not be imported by the runtime")

sys.meta_path.insert(0, Refuse())
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCKED + code], cwd=ROOT, capture_output=True, text=True)


def test_every_module_imports_without_torch_and_without_any_extra():
    names = [info.name for info in pkgutil.walk_packages(progeo_edge.__path__, "progeo_edge.")]
    assert len(names) > 80
    done = run_python(f"for name in {names!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_the_block_blocks():
    done = run_python("import onnx")
    assert done.returncode == 1
    assert "onnx must not be imported" in done.stderr
