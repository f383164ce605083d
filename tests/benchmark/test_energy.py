from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from progeo_edge.benchmark.energy import CounterMeter, Energy, SampledMeter, find_meters
from tests.benchmark.sysfs import no_tool, write_files

INA = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
RAPL = "sys/class/powercap"


@pytest.fixture(autouse=True)
def no_pynvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def only_meter(root: Path) -> CounterMeter | SampledMeter:
    meters, _ = find_meters(root, no_tool)
    (meter,) = meters
    return meter


def stop(meter: CounterMeter | SampledMeter) -> Energy:
    energy = meter.stop()
    assert energy is not None
    return energy


def rails(**labels: tuple[int, int]) -> dict[str, str]:
    files = {}
    for channel, (label, (millivolts, milliamperes)) in enumerate(labels.items(), start=1):
        files[f"{INA}/in{channel}_label"] = label
        files[f"{INA}/in{channel}_input"] = str(millivolts)
        files[f"{INA}/curr{channel}_input"] = str(milliamperes)
    return files


def test_the_rail_that_feeds_all_is_the_whole_energy(tmp_path: Path):
    write_files(tmp_path, rails(VDD_IN=(5000, 2000), VDD_CPU_GPU_CV=(5000, 800), VDD_SOC=(5000, 400)))
    meter = only_meter(tmp_path)
    assert meter.name == "INA3221 VDD_IN"
    meter.start()
    energy = stop(meter)
    assert energy.joules == pytest.approx(10.0 * energy.seconds)


def test_without_such_a_rail_all_are_added_but_not_the_sum_channel(tmp_path: Path):
    write_files(tmp_path, rails(VDD_GPU_SOC=(20000, 300), VDD_CPU_CV=(20000, 200)))
    write_files(tmp_path, {f"{INA}/in7_label": "sum of shunt voltages", f"{INA}/curr7_input": "1"})
    meter = only_meter(tmp_path)
    assert meter.name == "INA3221 VDD_GPU_SOC + VDD_CPU_CV"
    meter.start()
    energy = stop(meter)
    assert energy.joules == pytest.approx(10.0 * energy.seconds)


def test_a_rail_that_stops_answering_gives_no_energy(tmp_path: Path):
    write_files(tmp_path, rails(VDD_IN=(5000, 2000)))
    meter = only_meter(tmp_path)
    (tmp_path / INA / "curr1_input").unlink()
    meter.start()
    assert meter.stop() is None


def test_rapl_counts_packages_only_and_wraps(tmp_path: Path):
    files = {
        "intel-rapl:0/name": "package-0",
        "intel-rapl:0/energy_uj": "9000000",
        "intel-rapl:0/max_energy_range_uj": "10000000",
        "intel-rapl:1/name": "psys",
        "intel-rapl:1/energy_uj": "5",
        "intel-rapl:0:0/name": "core",
        "intel-rapl:0:0/energy_uj": "5",
    }
    write_files(tmp_path, {f"{RAPL}/{name}": text for name, text in files.items()})
    meter = only_meter(tmp_path)
    assert meter.name == "RAPL package-0"
    meter.start()
    write_files(tmp_path, {f"{RAPL}/intel-rapl:0/energy_uj": "2000000"})
    assert stop(meter).joules == pytest.approx(3.0)


def test_rapl_that_only_root_may_read_says_so(tmp_path: Path):
    write_files(tmp_path, {f"{RAPL}/intel-rapl:0/name": "package-0"})
    meters, missing = find_meters(tmp_path, no_tool)
    assert meters == [] and "root only" in missing["rapl"]


def test_a_machine_without_meters_gives_a_reason_for_each(tmp_path: Path):
    meters, missing = find_meters(tmp_path, no_tool)
    assert meters == [] and set(missing) == {"ina3221", "rapl", "nvml"}


def test_nvidia_smi_is_sampled(tmp_path: Path):
    def smi(command: Sequence[str]) -> str:
        return "70.5"

    meters, missing = find_meters(tmp_path, smi)
    assert [meter.name for meter in meters] == ["nvidia-smi power.draw of GPU 0"] and "nvml" not in missing
    meters[0].start()
    energy = stop(meters[0])
    assert energy.joules == pytest.approx(70.5 * energy.seconds)


def test_nvidia_smi_that_does_not_know_the_power_is_no_meter(tmp_path: Path):
    assert "nvml" in find_meters(tmp_path, lambda command: "[N/A]")[1]


def test_nvml_counts_millijoules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    counts = iter([0, 1000, 4500])
    fake = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=lambda gpu: next(counts),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    meters, _ = find_meters(tmp_path, no_tool)
    meters[0].start()
    assert meters[0].name == "NVML GPU 0" and stop(meters[0]).joules == pytest.approx(3.5)


def test_nvml_of_an_old_gpu_is_no_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(gpu: object) -> int:
        raise RuntimeError("not supported")

    fake = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=refuse,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert find_meters(tmp_path, no_tool)[0] == []
