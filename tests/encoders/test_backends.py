from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from progeo_edge.encoders import Encoder, load_encoder
from progeo_edge.encoders.backends import active_backend
from progeo_edge.encoders.onnx import OnnxEncoder
from progeo_edge.encoders.tensorrt import TensorRTEncoder
from progeo_edge.errors import ModelError
from tests.encoders import fake_cuda
from tests.encoders.tensorrt_bundle import write_golden_bundle
from tests.encoders.trt_fixtures import Machine, frames, make_machine, open_and_close, plans
from tests.tiny_encoder import write_tiny_bundle, write_tiny_foreign


@pytest.fixture(autouse=True)
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` does with it is in test_openvino.py."""
    monkeypatch.setitem(sys.modules, "openvino", None)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return make_machine(monkeypatch, tmp_path / "user-cache")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_golden_bundle(tmp_path / "bundle")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="progeo_edge")
    return caplog


def without_tensorrt(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "tensorrt", None)


def kind_of(encoder: Encoder) -> type:
    encoder.close()
    return type(encoder)


def test_without_tensorrt_onnx_runtime_runs_fp32_and_the_log_says_why(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
):
    without_tensorrt(monkeypatch)
    encoder = load_encoder(bundle)
    assert isinstance(encoder, OnnxEncoder) and encoder.precision == "fp32"
    assert active_backend(encoder).startswith("ONNX Runtime ")
    assert active_backend(encoder).endswith(", CPUExecutionProvider, fp32")
    lines = [record.getMessage() for record in said.records]
    assert lines[0].startswith("TensorRT is not used: it is not installed here")
    assert lines[1].startswith("OpenVINO is not used: ")
    assert lines[2].startswith("ONNX Runtime runs on CPUExecutionProvider (CUDAExecutionProvider is not in")
    assert len(lines) == 3 and not any("\n" in line for line in lines)
    assert not (bundle / "engines").exists()


def test_auto_never_builds_and_says_how_to(machine: Machine, bundle: Path, said: pytest.LogCaptureFixture):
    assert kind_of(load_encoder(bundle)) is OnnxEncoder
    assert machine.trt.builds == [] and plans(bundle) == []
    assert f"there is none; build it with: progeo-export {bundle} --fp16" in said.records[0].getMessage()


def test_auto_takes_the_engine_that_was_built(machine: Machine, bundle: Path, said: pytest.LogCaptureFixture):
    open_and_close(bundle)
    said.clear()
    encoder = load_encoder(bundle)
    assert isinstance(encoder, TensorRTEncoder) and encoder.precision == "fp16"
    assert active_backend(encoder) == f"TensorRT 10.3.0, {machine.cuda.name}, fp16"
    assert f"TensorRT 10.3.0, {machine.cuda.name}, fp16 runs {bundle}" in said.text
    assert len(machine.trt.builds) == 1
    encoder.close()


def test_auto_takes_the_exact_engine_where_only_that_was_built(
    machine: Machine, bundle: Path, said: pytest.LogCaptureFixture
):
    open_and_close(bundle, precision="fp32")
    encoder = load_encoder(bundle)
    assert isinstance(encoder, TensorRTEncoder) and encoder.precision == "fp32"
    assert "a better engine is not used: no usable fp16 engine" in said.text
    encoder.close()
    assert kind_of(load_encoder(bundle, precision="fp16")) is OnnxEncoder


def test_auto_leaves_an_engine_of_another_version_and_a_damaged_one(
    machine: Machine, bundle: Path, said: pytest.LogCaptureFixture
):
    open_and_close(bundle)
    machine.install("10.13.3.9")
    assert kind_of(load_encoder(bundle)) is OnnxEncoder
    assert "for TensorRT 10.13.3.9 on Fake Orin: there is only one by TensorRT 10.3.0 on Fake Orin; build" in said.text
    machine.install("10.3.0")
    plan = plans(bundle)[0]
    plan.write_bytes(plan.read_bytes()[:-1])
    assert kind_of(load_encoder(bundle)) is OnnxEncoder
    assert "truncated or altered" in said.text


def test_a_named_tensorrt_builds_or_fails(machine: Machine, bundle: Path, monkeypatch: pytest.MonkeyPatch):
    assert kind_of(load_encoder(bundle, backend="tensorrt")) is TensorRTEncoder
    assert len(plans(bundle)) == 1
    without_tensorrt(monkeypatch)
    with pytest.raises(ModelError, match="tensorrt cannot be imported"):
        load_encoder(bundle, backend="tensorrt")


def test_tensorrt_without_a_gpu(machine: Machine, bundle: Path, said: pytest.LogCaptureFixture):
    fake_cuda.install(machine.patch, machine.cuda)
    machine.patch.setitem(sys.modules, "pycuda.driver", None)
    assert kind_of(load_encoder(bundle)) is OnnxEncoder
    assert "TensorRT is not used: pycuda cannot be imported" in said.text


def test_a_named_onnx_runtime_leaves_tensorrt_alone(machine: Machine, bundle: Path, said: pytest.LogCaptureFixture):
    open_and_close(bundle)
    said.clear()
    encoder = load_encoder(bundle, backend="onnx", precision="fp16")
    assert isinstance(encoder, OnnxEncoder) and encoder.precision == "fp16"
    assert "TensorRT is not used" not in said.text
    assert "on the CPU half precision is computed in FP32: no faster, and no proof of a half engine" in said.text
    said.clear()
    load_encoder(bundle, backend="onnx", precision="fp32")
    assert "half precision" not in said.text


def test_every_exact_backend_is_one_model(machine: Machine, bundle: Path):
    choices: list[dict[str, Any]] = [
        {"backend": backend, "precision": precision}
        for backend in ("onnx", "tensorrt")
        for precision in ("fp32", "fp16")
    ]
    encoders = [load_encoder(bundle, **choice) for choice in choices]
    assert len({encoder.spec for encoder in encoders}) == 1
    rows = [encoder.encode(frames(4)) for encoder in encoders]
    assert min(np.sum(rows[0] * other, axis=1).min() for other in rows) > 0.9999
    for encoder in encoders:
        encoder.close()


def test_a_bundle_with_int8_alone(machine: Machine, tmp_path: Path, said: pytest.LogCaptureFixture):
    encoder = load_encoder(write_tiny_bundle(tmp_path / "int8", precisions=("int8",)))
    assert isinstance(encoder, OnnxEncoder) and encoder.precision == "int8"


def test_a_foreign_model_runs_by_onnx_runtime_alone(machine: Machine, tmp_path: Path, said: pytest.LogCaptureFixture):
    foreign = write_tiny_foreign(tmp_path / "foreign")
    encoder = load_encoder(foreign)
    assert isinstance(encoder, OnnxEncoder)
    assert active_backend(encoder).endswith("CPUExecutionProvider")
    assert "is no bundle, and engines are checked" in said.text
    with pytest.raises(ModelError, match="is no bundle; TensorRT needs one"):
        load_encoder(foreign, backend="tensorrt")


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        (
            {"backend": "tensort"},
            "backend 'tensort' is unknown; did you mean 'tensorrt'. it is one of auto, tensorrt, openvino, onnx",
        ),
        ({"backend": None}, "backend None is unknown; it is one of"),
        ({"precision": "fp8"}, "precision 'fp8' is unknown; it is one of fp32, fp16, int8"),
        ({"precision": "int8"}, "holds no int8 graph; it holds fp16, fp32"),
    ],
)
@pytest.mark.parametrize("installed", [True, False])
def test_wrong_choices(choice: Any, reason: str, installed: bool, machine: Machine, bundle: Path):
    if not installed:
        without_tensorrt(machine.patch)
    with pytest.raises(ModelError, match=reason):
        load_encoder(bundle, **choice)


@pytest.mark.parametrize(("model", "reason"), [("vlad", "is built in"), ("a.safetensors", "is a checkpoint")])
def test_choices_belong_to_bundles(model: str, reason: str):
    for choice in ({"backend": "onnx"}, {"precision": "fp32"}):
        with pytest.raises(ModelError, match=f"{reason}.*can only be chosen for a bundle"):
            load_encoder(model, **choice)  # type: ignore[arg-type]


def test_a_broken_bundle_is_refused_by_auto_too(machine: Machine, bundle: Path, tmp_path: Path):
    (bundle / "model.onnx").write_bytes(b"")
    (bundle / "model.fp16.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="was altered or damaged"):
        load_encoder(bundle)
    (bundle / "manifest.json").unlink()
    with pytest.raises(ModelError, match=r"has no manifest\.json"):
        load_encoder(bundle)
    with pytest.raises(ModelError, match="is not there"):
        load_encoder(tmp_path / "nothing")
