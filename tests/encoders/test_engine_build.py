from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from progeo_edge.bundle import Precision, read_manifest
from progeo_edge.encoders import build_progress
from progeo_edge.encoders.build_progress import BuildProgress
from progeo_edge.encoders.engine_build import choose_recipe
from progeo_edge.encoders.known_bad import parse_version, reasons_against
from progeo_edge.encoders.tensorrt import TensorRTEncoder
from progeo_edge.errors import ModelError
from tests.encoders.tensorrt_bundle import run_graph, write_golden_bundle
from tests.encoders.trt_fixtures import Machine, frames, make_machine, open_and_close
from tests.tiny_encoder import replace_graph, tiny_graph

HEAD = ("node/projected", "node/norm", "node/safe_norm", "node/descriptor")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return make_machine(monkeypatch, tmp_path / "user-cache")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_golden_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("version", "precision", "typed", "flags"),
    [
        ("8.6.1", "fp32", False, []),
        ("8.6.1", "fp16", False, ["FP16", "OBEY_PRECISION_CONSTRAINTS"]),
        ("10.3.0", "fp32", True, []),
        ("10.3.0", "fp16", True, []),
        ("11.4.0.106", "fp16", True, []),
    ],
)
def test_precision_is_typed_where_it_can_be(
    version: str, precision: Precision, typed: bool, flags: list[str], machine: Machine, bundle: Path
):
    machine.install(version)
    open_and_close(bundle, precision=precision)
    build = machine.trt.builds[0]
    assert (build["typed"], build["flags"]) == (typed, flags), "and TF32 is off"


def test_int8_takes_a_flag_on_8_and_none_from_10_on(machine: Machine, tmp_path: Path):
    folder = write_golden_bundle(tmp_path / "int8", precisions=("fp32", "int8"))
    open_and_close(folder, precision="int8")
    machine.install("8.6.1")
    open_and_close(folder, precision="int8")
    assert [build["flags"] for build in machine.trt.builds] == [["INT8"]]


@pytest.mark.parametrize("version", ["10.3.0", "11.0.0.114"])
def test_half_without_a_typed_graph_is_an_error_not_a_silent_fp32(version: str, machine: Machine, tmp_path: Path):
    machine.install(version)
    folder = write_golden_bundle(tmp_path / "plain", precisions=("fp32",))
    with pytest.raises(ModelError, match=rf"fp16 was asked for.*only the graphs fp32: TensorRT {version} .*--fp16"):
        TensorRTEncoder(folder, "fp16")
    assert not machine.trt.builds
    open_and_close(folder)
    assert machine.trt.builds[0]["typed"], "nothing was asked for, so FP32 is no surprise"


def test_half_without_a_flag_and_without_typing_is_an_error(bundle: Path):
    """No version known today; one that lost the flag must not build FP32 in silence."""
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = "9.9"
    trt.NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0)
    trt.BuilderFlag = SimpleNamespace(TF32=0)
    with pytest.raises(ModelError, match=r"TensorRT 9\.9 has neither strongly typed networks nor a flag for half"):
        choose_recipe(trt, read_manifest(bundle), "fp16", bundle)
    assert choose_recipe(trt, read_manifest(bundle), "fp32", bundle).flags == ()


def test_half_on_8_needs_the_fp32_graph(machine: Machine, tmp_path: Path):
    machine.install("8.6.1")
    folder = write_golden_bundle(tmp_path / "half", precisions=("fp16",))
    with pytest.raises(ModelError, match="makes half engines from the FP32 graph"):
        TensorRTEncoder(folder, "fp16")


def test_islands_are_held_in_fp32_on_8(machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    machine.install("8.6.1")
    folder = write_golden_bundle(tmp_path / "islands", name_nodes=True, manifest={"islands": [*HEAD, "node/shape"]})
    open_and_close(folder)
    assert machine.trt.builds[0]["held"] == list(HEAD), "and not the shape, which has no precision"
    assert "should stay in FP32" not in caplog.text


def test_layers_that_a_node_was_split_into_are_held_too(machine: Machine, tmp_path: Path):
    machine.install("8.6.1")
    folder = write_golden_bundle(tmp_path / "islands", manifest={"islands": ["head/norm"]})
    model = tiny_graph()
    for node, name in zip(model.graph.node[-3:], ("head/norm", "head/norm_12", "head/normal_1"), strict=True):
        node.name = name
    replace_graph(folder, model)
    open_and_close(folder)
    assert machine.trt.builds[0]["held"] == ["head/norm", "head/norm_12"]


def test_islands_that_are_not_there(machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    machine.install("8.6.1")
    none = write_golden_bundle(tmp_path / "none", name_nodes=True, manifest={"islands": ["head/a", "head/b"]})
    with pytest.raises(ModelError, match="none of the 2 nodes that must stay in FP32 is in TensorRT's network"):
        TensorRTEncoder(none)
    some = write_golden_bundle(tmp_path / "some", name_nodes=True, manifest={"islands": ["head/a", HEAD[0]]})
    open_and_close(some)
    assert "1 of the 2 nodes are not in the network" in caplog.text
    open_and_close(write_golden_bundle(tmp_path / "unnamed"))
    assert "of the nodes that should stay in FP32, none is named; the golden images decide" in caplog.text


def test_workspace_and_effort(machine: Machine, bundle: Path):
    open_and_close(bundle)
    open_and_close(bundle, workspace_bytes=1 << 20, optimization_level=5)
    first, second = machine.trt.builds
    assert first["workspace"] == machine.cuda.memory_bytes // 2 and first["level"] == 3
    assert second["workspace"] == 1 << 20 and second["level"] == 5
    machine.cuda.memory_bytes = 64 << 30
    open_and_close(bundle, max_batch=2)
    machine.cuda.memory_bytes = 10 << 20
    open_and_close(bundle, max_batch=3)
    assert [build["workspace"] for build in machine.trt.builds[2:]] == [4 << 30, 64 << 20]


def test_a_graph_of_a_fixed_batch_or_other_names_is_refused(machine: Machine, tmp_path: Path):
    fixed = write_golden_bundle(tmp_path / "fixed", precisions=("fp32",), batch=3)
    with pytest.raises(ModelError, match="has the fixed batch 3; export it with a dynamic batch"):
        TensorRTEncoder(fixed)
    other = write_golden_bundle(tmp_path / "other", precisions=("fp32",), manifest={"output_name": "vector"})
    with pytest.raises(ModelError, match="the manifest says input 'image' and output 'vector'"):
        TensorRTEncoder(other)


def test_an_engine_of_another_dimension_is_refused(machine: Machine, tmp_path: Path):
    """Its rows would be written behind the buffer."""
    folder = write_golden_bundle(tmp_path / "longer", precisions=("fp32",))
    replace_graph(folder, tiny_graph(dimension=33))
    with pytest.raises(ModelError, match="the engine gives 33 values per image, the manifest says 32"):
        TensorRTEncoder(folder)
    machine.assert_all_freed()


def test_two_outputs(machine: Machine, tmp_path: Path):
    folder = write_golden_bundle(tmp_path / "two", precisions=("fp32",), extra_output=True)
    with pytest.raises(ModelError, match=r"the engine has the tensors .*projected"):
        TensorRTEncoder(folder)


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "11.4.0.106"])
def test_progress_reaches_the_caller(version: str, machine: Machine, bundle: Path):
    machine.install(version)
    reports: list[BuildProgress] = []
    open_and_close(bundle, progress=reports.append)
    assert reports[0].phase == "building" and all(report.elapsed_s >= 0 for report in reports)
    steps = [(report.phase, report.step, report.steps) for report in reports[1:]]
    timing = [("Timing graph nodes", step, 3) for step in range(4)]
    expected = [("Building Engine", step, 2) for step in range(3)] + timing
    assert steps == ([] if version.startswith("8") else expected)


def test_a_callback_that_raises_cancels_the_build(machine: Machine, bundle: Path):
    def stop(report: BuildProgress) -> None:
        if report.step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TensorRTEncoder(bundle, progress=stop)
    machine.assert_all_freed()
    open_and_close(bundle)


def test_a_long_build_shows_that_it_lives(
    machine: Machine, bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(build_progress, "_HEARTBEAT_S", 0.02)
    reports: list[BuildProgress] = []

    def slow(report: BuildProgress) -> None:
        reports.append(report)
        if (report.phase, report.step) == ("Timing graph nodes", 1) and len(reports) < 8:
            time.sleep(0.15)

    open_and_close(bundle, progress=slow)
    assert "still building the TensorRT engine after" in caplog.text


@pytest.mark.parametrize(
    ("version", "capability", "precision", "words"),
    [
        ("10.2.0", (8, 9), "fp16", "wrong results"),
        ("10.13.3.9", (8, 7), "fp16", r"compute capability 8\.7 \(Orin\)"),
        ("10.3.0", (8, 7), "fp32", "open_clip"),
        ("10.7.0.post1", (8, 7), "fp32", "open_clip"),
    ],
)
def test_known_bad_versions_warn(
    version: str, capability: tuple[int, int], precision: Precision, words: str, machine: Machine, bundle: Path,
    caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    machine.cuda.capability = capability
    machine.install(version)
    open_and_close(bundle, precision=precision)
    assert any(f"TensorRT {version}: " in line for line in caplog.messages)
    assert any(re.search(words, line) is not None for line in caplog.messages)


@pytest.mark.parametrize(
    ("version", "capability", "precision"),
    [
        ("8.6.1", (8, 7), "fp32"),
        ("10.0.1", (8, 7), "fp32"),
        ("10.3.0", (8, 7), "fp16"),
        ("10.8.0", (8, 7), "fp32"),
        ("10.13.2", (8, 7), "fp16"),
        ("10.13.3.9", (11, 0), "fp16"),
        ("11.4.0.106", (8, 7), "fp32"),
    ],
)
def test_other_versions_do_not_warn(version: str, capability: tuple[int, int], precision: Precision):
    assert reasons_against(version, capability, precision) == []


def test_versions_are_read_from_text():
    assert parse_version("10.7.0.post1") == (10, 7, 0) and parse_version("8.6.1") == (8, 6, 1)
    assert parse_version("unknown") == ()


def test_external_tensors_are_checked_and_part_of_the_key(machine: Machine, tmp_path: Path):
    folder = write_golden_bundle(tmp_path / "external", precisions=("fp32",), external_data=True)
    with TensorRTEncoder(folder) as encoder:
        found = encoder.encode(frames(2))
    np.testing.assert_allclose(found, run_graph(folder / "model.onnx", np.stack(frames(2))), atol=1e-6)
    weights = folder / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(ModelError, match=r"weights\.bin was altered"):
        TensorRTEncoder(folder)
