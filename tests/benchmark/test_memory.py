from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from progeo_edge.benchmark.memory import available_mb, forget_peak, growth_kb_per_step, peak_mb, resident_mb


def test_what_the_kernel_says(tmp_path: Path):
    (tmp_path / "statm").write_text("9000 500 300 1 0 400 0\n")
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  250000 kB\nVmRSS:\t 9 kB\n")
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable:    1000000 kB\n")
    assert resident_mb(tmp_path) == pytest.approx(500 * os.sysconf("SC_PAGE_SIZE") / 1e6)
    assert peak_mb(tmp_path) == 256.0
    assert available_mb(tmp_path / "meminfo") == 1024.0


def test_what_it_does_not_say_is_none(tmp_path: Path):
    assert resident_mb(tmp_path) is None and peak_mb(tmp_path) is None and available_mb(tmp_path / "x") is None
    assert forget_peak(tmp_path / "x") is False


def test_growth_is_the_slope_and_one_leap_does_not_decide():
    steady = 100 + 0.05 * np.arange(50)
    assert growth_kb_per_step(steady.tolist()) == pytest.approx(50.0)
    noisy = steady + np.where(np.arange(50) == 25, 1.0, 0.0)
    assert growth_kb_per_step(noisy.tolist()) == pytest.approx(50.0, abs=1.0)
    assert growth_kb_per_step([1.0] * 9) is None


def test_memory_of_a_process_grows_with_what_it_holds():
    """In one of its own: here other tests' memory may be given back meanwhile."""
    code = (
        "import numpy as np; from progeo_edge.benchmark.memory import forget_peak, peak_mb, resident_mb; "
        "before = resident_mb(); held = np.ones(40_000_000, np.uint8); after = resident_mb(); del held; "
        "highest = peak_mb(); print(after - before, highest - after, forget_peak() and highest - peak_mb())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    growth_mb, above_mb, forgotten_mb = done.stdout.split()
    assert 39 < float(growth_mb) < 45 and -1 < float(above_mb) < 45
    assert forgotten_mb == "False" or float(forgotten_mb) > 39
