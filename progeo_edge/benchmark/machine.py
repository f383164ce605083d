"""What a benchmark ran on: processor, memory, versions, clocks, power mode, temperature, load."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from progeo_edge.benchmark.machine_state import describe_state
from progeo_edge.benchmark.system_files import read_text

Tool = Callable[[Sequence[str]], "str | None"]
"""Runs a command and gives its output; None where it is absent, fails or hangs."""

TOOL_TIMEOUT_S = 5.0

_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "numpy": ("numpy",),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "onnxruntime": ("onnxruntime", "onnxruntime-openvino", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt",),
    "hnswlib": ("hnswlib",),
    "faiss": ("faiss-cpu", "faiss-gpu", "faiss"),
    "numkong": ("numkong",),
    "usearch": ("usearch",),
    "torch": ("torch",),
    "open_clip": ("open_clip_torch",),
}

_MODULES = {"opencv": "cv2", "tensorrt": "tensorrt"}
"""What JetPack installs without a wheel's metadata; read only where it is imported already."""

# Those that decide which kernels a library takes; the x86 and the Arm names of /proc/cpuinfo.
_INSTRUCTION_SETS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "avx512_vpopcntdq", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "fphp", "i8mm", "bf16", "sve", "sve2"),
)

_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd42": "Cortex-A78AE",
    "0x004": "Carmel",
}
"""Arm kernels state no model name, only the part; those of Jetsons and Raspberry Pis."""


def run_tool(command: Sequence[str]) -> str | None:
    """Output of a command, stripped; None where it is absent, fails, or takes longer than `TOOL_TIMEOUT_S`."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def describe_machine(root: Path = Path("/"), tool: Tool = run_tool) -> dict[str, Any]:
    """The machine as plain JSON. What cannot be read is None and named in "absent"; nothing is guessed.

    Args:
        root: Where /proc, /sys and /etc are looked for; tests give a folder of their own.
        tool: Runs nvidia-smi, nvpmodel and jetson_clocks.

    Returns:
        cpu (model, cores, usable_cores, instruction_sets), memory_mb, board, gpus, os, kernel, architecture, python,
        versions, l4t, absent (sorted dotted names), and what `describe_state` gives.
    """
    machine: dict[str, Any] = {
        "cpu": _cpu(root),
        "memory_mb": _memory_mb(root),
        "board": _board(root),
        "gpus": _gpus(tool),
        "os": _os_name(root),
        "l4t": _first_line(read_text(root / "etc/nv_tegra_release")),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        **describe_state(root, tool),
    }
    return {**machine, "absent": absent(machine)}


def absent(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of everything that is None, sorted."""
    names = []
    for name, value in values.items():
        if value is None:
            names.append(prefix + name)
        elif isinstance(value, Mapping):
            names += absent(value, f"{prefix}{name}.")
    return sorted(names)


def _cpu(root: Path) -> dict[str, Any]:
    fields = _cpuinfo(root)
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return {
        "model": fields.get("model name") or _ARM_PARTS.get(fields.get("CPU part", "")) or fields.get("CPU part"),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in flags] if flags else None,
    }


def _cpuinfo(root: Path) -> dict[str, str]:
    """Fields of the first processor; on a big.LITTLE one that is a small core."""
    fields: dict[str, str] = {}
    for line in (read_text(root / "proc/cpuinfo") or "").splitlines():
        name, separator, value = line.partition(":")
        if separator:
            fields.setdefault(name.strip(), value.strip())
    return fields


def _memory_mb(root: Path) -> int | None:
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return None


def _board(root: Path) -> str | None:
    """Name of the board: of the device tree on Arm, of the firmware on a PC."""
    text = read_text(root / "proc/device-tree/model") or read_text(root / "sys/class/dmi/id/product_name")
    return text.strip("\0 \n") if text else None


def _gpus(tool: Tool) -> list[dict[str, str]] | None:
    names = ("name", "driver_version", "memory.total")
    output = tool(["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"])
    if output is None:
        return None
    rows = [[value.strip() for value in line.split(",")] for line in output.splitlines()]
    return [dict(zip(("name", "driver", "memory"), row, strict=False)) for row in rows if len(row) == len(names)]


def _os_name(root: Path) -> str | None:
    for line in (read_text(root / "etc/os-release") or "").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip().strip('"')
    return None


def _version(name: str) -> str | None:
    for distribution in _PACKAGES[name]:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    module = sys.modules.get(_MODULES.get(name, ""))
    version = getattr(module, "__version__", None)
    return version if isinstance(version, str) else None


def _first_line(text: str | None) -> str | None:
    return text.splitlines()[0].strip() if text else None
