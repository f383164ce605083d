"""What may change while a benchmark runs: clocks, power mode, temperature, throttling, load."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from progeo_edge.benchmark.system_files import read_int, read_text

_Tool = Callable[[Sequence[str]], "str | None"]


def describe_state(root: Path, tool: _Tool) -> dict[str, Any]:
    """Clocks, power mode, temperatures and load as plain JSON; None where this machine does not say.

    Args:
        root: Where /proc, /sys and /etc are looked for.
        tool: Runs nvidia-smi, nvpmodel and jetson_clocks; gives None where one is absent or refuses.

    Returns:
        clocks (governors; min_mhz, current_mhz, max_mhz as [lowest, highest] over the cores; locked: whether every
        core's limits coincide, as jetson_clocks sets them), power_mode (nvpmodel, its default, jetson_clocks),
        temperature_c by zone, throttling (counts of events since boot, active cooling), gpu_state, load_average.
    """
    return {
        "clocks": _clocks(root),
        "power_mode": _power_mode(root, tool),
        "temperature_c": _temperatures_c(root),
        "throttling": _throttling(root),
        "gpu_state": _gpu_state(tool),
        "load_average": _load_average(root),
    }


def _clocks(root: Path) -> dict[str, Any]:
    folders = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq"))
    limits = [(read_int(f / "scaling_min_freq"), read_int(f / "scaling_max_freq")) for f in folders]
    known = [(low, high) for low, high in limits if low is not None and high is not None]
    governors = sorted({text for f in folders if (text := read_text(f / "scaling_governor"))})
    return {
        "governors": governors or None,
        "min_mhz": _range_mhz(folders, "scaling_min_freq"),
        "current_mhz": _range_mhz(folders, "scaling_cur_freq"),
        "max_mhz": _range_mhz(folders, "scaling_max_freq"),
        "locked": all(low == high for low, high in known) if known else None,
    }


def _range_mhz(folders: Sequence[Path], name: str) -> list[int] | None:
    values = [value // 1000 for folder in folders if (value := read_int(folder / name)) is not None]
    return [min(values), max(values)] if values else None


def _power_mode(root: Path, tool: _Tool) -> dict[str, Any]:
    return {
        "nvpmodel": _nvpmodel(tool(["nvpmodel", "-q"])),
        "nvpmodel_default": _nvpmodel_default(read_text(root / "etc/nvpmodel.conf")),
        "jetson_clocks": _lines(tool(["jetson_clocks", "--show"])),
    }


def _nvpmodel(output: str | None) -> str | None:
    """The active mode from "NV Power Mode: MAXN" and the line with its number below."""
    if output is None:
        return None
    name = re.search(r"NV Power Mode:\s*(.+)", output)
    number = re.search(r"^\s*(\d+)\s*$", output, re.MULTILINE)
    if name is None:
        return None
    return name[1].strip() + (f" ({number[1]})" if number else "")


def _nvpmodel_default(conf: str | None) -> str | None:
    if conf is None:
        return None
    default = re.search(r"<\s*PM_CONFIG\s+DEFAULT=(\d+)\s*>", conf)
    if default is None:
        return None
    name = re.search(rf"<\s*POWER_MODEL\s+ID={default[1]}\s+NAME=(\S+)\s*>", conf)
    return f"{name[1]} ({default[1]})" if name else default[1]


def _lines(output: str | None) -> list[str] | None:
    return None if output is None else [line.strip() for line in output.splitlines()]


def _temperatures_c(root: Path) -> dict[str, float] | None:
    """By name of the zone; several zones of one name are numbered."""
    found: dict[str, float] = {}
    for folder in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        milli = read_int(folder / "temp")
        name = read_text(folder / "type") or folder.name
        # A Jetson's zones of parts that are switched off give an error or a value far below freezing.
        if milli is not None and milli > -100_000:
            found[name if name not in found else f"{name} {folder.name}"] = milli / 1000
    return found or None


def _throttling(root: Path) -> dict[str, Any]:
    core = _sum_of_files(root, "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    # Every core repeats the count of its package.
    package = [
        count
        for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/package_throttle_count")
        if (count := read_int(path)) is not None
    ]
    cooling = {
        read_text(folder / "type") or folder.name: state
        for folder in sorted(root.glob("sys/class/thermal/cooling_device*"))
        if (state := read_int(folder / "cur_state")) is not None
    }
    return {
        "core_events": core,
        "package_events": max(package) if package else None,
        # Over-current and over-temperature events of the Jetson's SOC_THERM.
        "over_current_events": _sum_of_files(root, "sys/class/hwmon/hwmon*/oc*_event_cnt"),
        "active_cooling": {name: state for name, state in cooling.items() if state > 0} if cooling else None,
    }


def _sum_of_files(root: Path, pattern: str) -> int | None:
    counts = [count for path in sorted(root.glob(pattern)) if (count := read_int(path)) is not None]
    return sum(counts) if counts else None


def _gpu_state(tool: _Tool) -> dict[str, str] | None:
    """Clock, its limit, temperature and reasons for throttling of the first GPU that nvidia-smi lists."""
    names = ("clocks.sm", "clocks.max.sm", "temperature.gpu", "clocks_throttle_reasons.active", "power.limit")
    output = tool(["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"])
    if output is None:
        return None
    values = [value.strip() for value in output.splitlines()[0].split(",")]
    return dict(zip(names, values, strict=True)) if len(values) == len(names) else None


def _load_average(root: Path) -> list[float] | None:
    """Over 1, 5 and 15 minutes: runnable processes; near 0 before a quiet measurement."""
    text = read_text(root / "proc/loadavg")
    return None if text is None else [float(value) for value in text.split()[:3]]
