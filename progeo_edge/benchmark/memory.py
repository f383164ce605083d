"""Resident memory of this process, as Linux accounts for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from progeo_edge.benchmark.system_files import read_text

SELF = Path("/proc/self")


def resident_mb(process: Path = SELF) -> float | None:
    """Memory in RAM now, in MB of 1e6 bytes; None where /proc does not tell."""
    text = read_text(process / "statm")
    return None if text is None else int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def own_mb(process: Path = SELF) -> float | None:
    """Memory in RAM now that no file stands behind, in MB; None where /proc does not tell."""
    for line in (read_text(process / "status") or "").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None


def forget_peak(process: Path = SELF) -> bool:
    """Let the peak start anew from now; False where the kernel does not allow it, then it is that since the start."""
    try:
        (process / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_mb(process: Path = SELF) -> float | None:
    """Most memory that was in RAM at once, in MB; None where /proc does not tell."""
    for line in (read_text(process / "status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None


def available_mb(meminfo: Path = Path("/proc/meminfo")) -> float | None:
    """What can still be allocated without swapping, in MB; None where /proc does not tell."""
    for line in (read_text(meminfo) or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None


def growth_kb_per_step(resident: Sequence[float]) -> float | None:
    """Slope of resident memory in KB per step by least squares: single allocations of the allocator average out.

    Args:
        resident: (N,) MB after each step; None comes back for fewer than 10.
    """
    if len(resident) < 10:
        return None
    slope, _ = np.polyfit(np.arange(len(resident)), np.asarray(resident, dtype=np.float64), 1)
    return float(slope) * 1e3
