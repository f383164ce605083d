from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from progeo_edge.benchmark.machine import absent, describe_machine, run_tool
from tests.benchmark.sysfs import no_tool, write_files

JETSON = {
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd fphp asimdhp asimddp\nCPU part\t: 0xd42\n\nprocessor\t: 1\n",
    "proc/meminfo": "MemTotal:       15656384 kB\nMemFree: 1 kB\n",
    "proc/loadavg": "0.42 0.30 0.10 1/500 1234\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.4 LTS"\n',
    "etc/nv_tegra_release": "# R36 (release), REVISION: 3.0, GCID: 1\nmore\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=15W >\n< PM_CONFIG DEFAULT=2 >\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "729600",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1190400",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1984000",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_min_freq": "1984000",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1984000",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_max_freq": "1984000",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "51250",
    "sys/class/thermal/thermal_zone1/type": "cv0-thermal",
    "sys/class/thermal/thermal_zone1/temp": "-256000",
    "sys/class/thermal/cooling_device0/type": "pwm-fan",
    "sys/class/thermal/cooling_device0/cur_state": "2",
    "sys/class/thermal/cooling_device1/type": "cpu-throttle",
    "sys/class/thermal/cooling_device1/cur_state": "0",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "3",
    "sys/class/hwmon/hwmon2/oc3_event_cnt": "4",
}

NVPMODEL = "NVPM WARN: fan mode is not set!\nNV Power Mode: 15W\n2\n"


def jetson_tool(command: Sequence[str]) -> str | None:
    return NVPMODEL if list(command) == ["nvpmodel", "-q"] else None


def test_a_jetson(tmp_path: Path):
    machine = describe_machine(write_files(tmp_path, JETSON), jetson_tool)
    assert machine["cpu"]["model"] == "Cortex-A78AE"
    assert machine["cpu"]["instruction_sets"] == ["asimd", "asimdhp", "asimddp", "fphp"]
    assert machine["memory_mb"] == 15289
    assert machine["board"] == "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    assert (machine["os"], machine["l4t"]) == ("Ubuntu 22.04.4 LTS", "# R36 (release), REVISION: 3.0, GCID: 1")
    assert machine["clocks"] == {
        "governors": ["performance", "schedutil"],
        "min_mhz": [729, 1984],
        "current_mhz": [1190, 1984],
        "max_mhz": [1984, 1984],
        "locked": False,
    }
    assert machine["power_mode"] == {"nvpmodel": "15W (2)", "nvpmodel_default": "15W (2)", "jetson_clocks": None}
    assert machine["temperature_c"] == {"cpu-thermal": 51.25}
    assert machine["throttling"]["over_current_events"] == 7
    assert machine["throttling"]["active_cooling"] == {"pwm-fan": 2}
    assert machine["load_average"] == [0.42, 0.30, 0.10]
    assert {"power_mode.jetson_clocks", "gpus", "throttling.core_events"} <= set(machine["absent"])
    assert "power_mode.nvpmodel" not in machine["absent"]
    json.dumps(machine, allow_nan=False)


def test_locked_clocks_are_seen_without_root(tmp_path: Path):
    files = {name: text for name, text in JETSON.items() if "cpu0/cpufreq" not in name}
    assert describe_machine(write_files(tmp_path, files), no_tool)["clocks"]["locked"] is True


def test_a_pc_with_a_gpu(tmp_path: Path):
    def tool(command: Sequence[str]) -> str | None:
        if command[0] != "nvidia-smi":
            return None
        return "NVIDIA T4, 550.54, 15360 MiB" if "name" in command[1] else "1590 MHz, 1590 MHz, 45, 0x0000, 70.00 W"

    files = {
        "proc/cpuinfo": "model name\t: Some CPU @ 3 GHz\nflags\t\t: fpu avx2 fma avx512f avx512_vnni\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "2",
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "5",
        "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "9",
        "sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count": "9",
    }
    machine = describe_machine(write_files(tmp_path, files), tool)
    assert machine["cpu"]["model"] == "Some CPU @ 3 GHz"
    assert machine["cpu"]["instruction_sets"] == ["avx2", "fma", "avx512f", "avx512_vnni"]
    assert machine["gpus"] == [{"name": "NVIDIA T4", "driver": "550.54", "memory": "15360 MiB"}]
    assert machine["gpu_state"]["temperature.gpu"] == "45"
    assert (machine["throttling"]["core_events"], machine["throttling"]["package_events"]) == (7, 9)


def test_nothing_is_invented_where_nothing_can_be_read(tmp_path: Path):
    machine = describe_machine(tmp_path, no_tool)
    for name in ("memory_mb", "board", "gpus", "os", "l4t", "temperature_c", "load_average", "gpu_state"):
        assert machine[name] is None and name in machine["absent"]
    assert all(value is None for value in (*machine["clocks"].values(), *machine["throttling"].values()))
    assert machine["cpu"]["model"] is None and machine["cpu"]["instruction_sets"] is None


@pytest.mark.parametrize("content", ["", "no number", "12 13"])
def test_a_file_that_says_something_else_is_absent(tmp_path: Path, content: str):
    files = {
        "sys/class/thermal/thermal_zone0/temp": content,
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": content,
    }
    machine = describe_machine(write_files(tmp_path, files), lambda command: "something else")
    assert machine["temperature_c"] is None and machine["clocks"]["max_mhz"] is None
    assert machine["power_mode"]["nvpmodel"] is None and machine["gpu_state"] is None


def test_this_machine():
    machine = describe_machine()
    assert machine["versions"]["numpy"] and machine["versions"]["opencv"]
    assert machine["python"] == ".".join(map(str, sys.version_info[:3]))
    json.dumps(machine, allow_nan=False)


def test_versions_are_read_without_an_import():
    code = (
        "import sys; from progeo_edge.benchmark.machine import describe_machine; describe_machine(); "
        "print([n for n in ('torch', 'faiss', 'onnxruntime', 'openvino', 'hnswlib', 'cv2') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_absent_names_are_dotted_and_sorted():
    assert absent({"b": None, "a": {"y": None, "x": 0, "z": {"q": None}}, "c": []}) == ["a.y", "a.z.q", "b"]


def test_a_tool_that_is_absent_or_fails_gives_none():
    assert run_tool(["no-such-command-here"]) is None
    assert run_tool([sys.executable, "-c", "import sys; print('x'); sys.exit(1)"]) is None
    assert run_tool([sys.executable, "-c", "print(' x ')"]) == "x"
