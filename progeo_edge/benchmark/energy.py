"""Energy from what the machine measures itself: INA3221 on a Jetson, RAPL on x86, NVML of an NVIDIA GPU."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from progeo_edge.benchmark.machine import Tool, run_tool
from progeo_edge.benchmark.system_files import read_int, read_text

SAMPLING_S = 0.05
"""The INA3221 of a Jetson averages over some milliseconds; 20 readings per second cost less than one frame."""
TOOL_SAMPLING_S = 0.5
"""nvidia-smi is a process of its own, which must not become the load that is measured."""
_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")
"""Rails that feed the whole module; where there is one, the others are parts of it."""


@dataclass(frozen=True)
class Energy:
    """What one meter saw.

    Attributes:
        joules: Over the time measured, of everything that the meter covers, idle share included.
        seconds: That time.
    """

    joules: float
    seconds: float


class CounterMeter:
    """A meter that counts energy itself.

    Args:
        name: What it covers.
        read_joules: The count; only differences mean something.
        wraps_at_joules: Where the count starts again at 0; None for never.
    """

    def __init__(self, name: str, read_joules: Callable[[], float], wraps_at_joules: float | None = None) -> None:
        self.name = name
        self._read, self._wraps_at = read_joules, wraps_at_joules

    def start(self) -> None:
        """Begin."""
        self._started_s, self._first = time.perf_counter(), self._read()

    def stop(self) -> Energy:
        """What was used since `start`; a counter may have wrapped once."""
        joules = self._read() - self._first
        if joules < 0 and self._wraps_at is not None:
            joules += self._wraps_at
        return Energy(joules, time.perf_counter() - self._started_s)


class SampledMeter:
    """A meter of power, read from a thread.

    Args:
        name: What it covers.
        read_watts: Power now; None while it cannot be read.
        interval_s: Between two readings.
    """

    def __init__(self, name: str, read_watts: Callable[[], float | None], interval_s: float = SAMPLING_S) -> None:
        self.name = name
        self._read, self._interval_s = read_watts, interval_s

    def start(self) -> None:
        """Begin, in a thread."""
        self._samples: list[float] = []
        self._ended = threading.Event()
        self._started_s = time.perf_counter()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> Energy | None:
        """Mean power times the time since `start`; None without a single reading."""
        self._ended.set()
        self._thread.join()
        seconds = time.perf_counter() - self._started_s
        if not self._samples:
            return None
        return Energy(sum(self._samples) / len(self._samples) * seconds, seconds)

    def _sample(self) -> None:
        while True:
            watts = self._read()
            if watts is not None:
                self._samples.append(watts)
            if self._ended.wait(self._interval_s):
                return


Meter = CounterMeter | SampledMeter


def find_meters(root: Path = Path("/"), tool: Tool = run_tool) -> tuple[list[Meter], dict[str, str]]:
    """All meters of this machine, and for each kind that is not there the reason.

    Args:
        root: Where /sys is looked for.
        tool: Runs nvidia-smi.
    """
    found: list[Meter] = []
    missing: dict[str, str] = {}
    for kind, meters in (("ina3221", _ina3221(root)), ("rapl", _rapl(root)), ("nvml", _nvml(tool))):
        if isinstance(meters, str):
            missing[kind] = meters
        else:
            found += meters
    return found, missing


def _ina3221(root: Path) -> list[Meter] | str:
    rails: dict[str, Path] = {}
    for folder in sorted(root.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*")):
        for label_file in sorted(folder.glob("in[0-9]_label")):
            label, channel = read_text(label_file), label_file.name[2]
            if label and "sum" not in label.lower() and read_int(folder / f"curr{channel}_input") is not None:
                rails[label] = folder / channel
    if not rails:
        return "no INA3221 with labelled rails in /sys/bus/i2c/drivers/ina3221"
    total = [label for label in _TOTAL_RAILS if label in rails][:1]
    counted = {label: rails[label] for label in total or rails}
    return [SampledMeter(f"INA3221 {' + '.join(counted)}", lambda: _rails_watts(counted))]


def _rails_watts(rails: Mapping[str, Path]) -> float | None:
    watts = 0.0
    for path in rails.values():
        millivolts = read_int(path.parent / f"in{path.name}_input")
        milliamperes = read_int(path.parent / f"curr{path.name}_input")
        if millivolts is None or milliamperes is None:
            return None
        watts += millivolts * milliamperes * 1e-6
    return watts


def _rapl(root: Path) -> list[Meter] | str:
    """One meter per processor package; its cores and its memory controller are parts of it or apart from it."""
    folders = sorted(root.glob("sys/class/powercap/intel-rapl:[0-9]*"))
    packages = [folder for folder in folders if (read_text(folder / "name") or "").startswith("package")]
    if not packages:
        return "no package in /sys/class/powercap: no RAPL, or a virtual machine"
    readable = [folder for folder in packages if read_int(folder / "energy_uj") is not None]
    if not readable:
        return "energy_uj in /sys/class/powercap may be read by root only; run as root, or allow reading it"
    return [_rapl_meter(folder) for folder in readable]


def _rapl_meter(folder: Path) -> CounterMeter:
    wraps_at = read_int(folder / "max_energy_range_uj")
    return CounterMeter(
        f"RAPL {read_text(folder / 'name')}",
        lambda: (read_int(folder / "energy_uj") or 0) * 1e-6,
        None if wraps_at is None else wraps_at * 1e-6,
    )


def _nvml(tool: Tool) -> list[Meter] | str:
    counter = _nvml_counter()
    if counter is not None:
        return [counter]
    if _smi_watts(tool) is None:
        return "neither pynvml nor nvidia-smi tells the power of a GPU"
    return [SampledMeter("nvidia-smi power.draw of GPU 0", lambda: _smi_watts(tool), TOOL_SAMPLING_S)]


def _nvml_counter() -> CounterMeter | None:
    """Energy of GPU 0 since the driver was loaded, in the driver's millijoules; from Volta on."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        gpu = nvml.nvmlDeviceGetHandleByIndex(0)
        nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
    except nvml.NVMLError:
        return None
    return CounterMeter("NVML GPU 0", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) * 1e-3)


def _smi_watts(tool: Tool) -> float | None:
    output = tool(["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits"])
    try:
        return None if output is None else float(output.splitlines()[0])
    except ValueError:
        return None
