from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from progeo_edge.bundle import Precision
from progeo_edge.encoders import backends, load_encoder
from progeo_edge.encoders import openvino as openvino_module
from progeo_edge.encoders.backends import active_backend
from progeo_edge.encoders.golden import GoldenError
from progeo_edge.encoders.onnx import OnnxEncoder
from progeo_edge.encoders.openvino import OpenVinoEncoder
from progeo_edge.errors import InputError, ModelError
from progeo_edge.verify import verify_bundle
from tests.encoders.tensorrt_bundle import write_golden, write_golden_bundle
from tests.tiny_encoder import (
    BREAKAGES,
    HEIGHT_PX,
    WIDTH_PX,
    edit_manifest,
    replace_graph,
    tiny_graph,
    write_tiny_bundle,
    write_tiny_foreign,
)

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")

CORE = openvino.Core()
HAS_BFLOAT16 = "BF16" in CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU has no bfloat16")


def golden_bundle(folder: Path, **options: Any) -> Path:
    return write_golden_bundle(folder, pooling="average", **options)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden_bundle(tmp_path_factory.mktemp("openvino") / "bundle")


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> OpenVinoEncoder:
    return OpenVinoEncoder(bundle, threads=1)


@pytest.fixture(scope="module")
def exact(bundle: Path) -> OnnxEncoder:
    return OnnxEncoder(bundle, threads=1)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="progeo_edge")
    return caplog


@pytest.fixture
def compiled_with(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of every compilation that follows."""
    seen: list[dict[str, Any]] = []

    class Spy:
        def __init__(self) -> None:
            self._core = CORE

        def compile_model(self, model: Any, device: str, options: dict[str, Any]) -> Any:
            seen.append(options)
            return self._core.compile_model(model, device, options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._core, name)

    monkeypatch.setattr(openvino, "Core", Spy)
    return seen


def scenes(count: int = 5) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (rng.integers(1, 200), rng.integers(1, 200), 3), dtype=np.uint8) for _ in range(count)]


def spoil_golden(folder: Path, edit: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> None:
    with np.load(folder / "golden.npz", allow_pickle=False) as arrays:
        images, descriptors = arrays["images"], arrays["descriptors"]
    write_golden(folder, images, edit(descriptors))


def test_it_is_the_model_that_onnx_runtime_runs(encoder: OpenVinoEncoder, exact: OnnxEncoder):
    found = encoder.encode(scenes(37))
    assert found.dtype == np.float32 and found.shape == (37, 32)
    np.testing.assert_allclose(found, exact.encode(scenes(37)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert encoder.spec == exact.spec
    assert encoder.encode([]).shape == (0, 32)
    np.testing.assert_allclose(encoder.raw_descriptors(scenes()), exact.raw_descriptors(scenes()), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 4])
def test_graph_of_a_fixed_batch(batch: int, exact: OnnxEncoder, tmp_path: Path):
    folder = write_tiny_bundle(tmp_path / "fixed", batch=batch, pooling="average")
    edit_manifest(folder, lambda values: values.update(golden=None))
    fixed = OpenVinoEncoder(folder)
    np.testing.assert_allclose(fixed.encode(scenes(6)), exact.encode(scenes(6)), atol=1e-5)


def test_foreign_float_rgb_nchw_gives_the_same_descriptors(exact: OnnxEncoder, tmp_path: Path):
    foreign = load_encoder(write_tiny_foreign(tmp_path / "foreign", pooling="average"), backend="openvino")
    assert isinstance(foreign, OpenVinoEncoder) and foreign.precision is None
    np.testing.assert_allclose(foreign.encode(scenes()), exact.encode(scenes()), atol=1e-4)


def test_outputs_and_outputs_to_choose_from(tmp_path: Path):
    options: dict[str, Any] = {"extra_output": True, "pooling": "average"}
    with pytest.raises(ModelError, match=r"has 2 outputs \(descriptor, projected\); name one as 'output:'"):
        OpenVinoEncoder(write_tiny_foreign(tmp_path / "two", **options))
    for name in ("descriptor", "projected"):
        path = write_tiny_foreign(tmp_path / name, description={"output": name}, **options)
        one, other = OpenVinoEncoder(path), OnnxEncoder(path)
        assert one.spec == other.spec
        np.testing.assert_allclose(one.raw_descriptors(scenes()), other.raw_descriptors(scenes()), atol=1e-4)


def test_same_descriptors_from_several_threads(encoder: OpenVinoEncoder):
    images = scenes()
    expected = encoder.encode(images)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: encoder.encode(images), range(40)):
            np.testing.assert_array_equal(result, expected)


def test_a_result_is_not_overwritten_by_the_next():
    """OpenVINO gives its own memory, which another thread's inference fills while this one still looks at it."""
    memory = np.zeros((1, 2), np.float32)

    def infer_request(inputs: dict[int, np.ndarray[Any, Any]], share_inputs: bool) -> None:
        memory[:] = inputs[0]

    request = SimpleNamespace(infer=infer_request, get_tensor=lambda output: SimpleNamespace(data=memory))
    infer = openvino_module._infer(
        SimpleNamespace(create_infer_request=lambda: request, output=lambda name: name), "descriptor"
    )
    first = infer(np.ones((1, 2)))
    infer(np.full((1, 2), 2.0))
    np.testing.assert_array_equal(first, np.ones((1, 2)))


def test_fp32_is_computed_in_fp32_with_the_threads_that_were_asked_for(
    bundle: Path, compiled_with: list[dict[str, Any]]
):
    """Without the hint OpenVINO takes bfloat16 on a CPU that has it; `tiny` descriptors would move by 1e-3."""
    load_encoder(bundle, backend="openvino", threads=3, spin=True).close()
    assert [options["INFERENCE_PRECISION_HINT"] for options in compiled_with] == ["f32"]
    assert compiled_with[0]["INFERENCE_NUM_THREADS"] == 3


@needs_bfloat16
def test_the_fp16_graph_is_computed_in_bfloat16_when_that_keeps_the_limits(
    bundle: Path, exact: OnnxEncoder, said: pytest.LogCaptureFixture
):
    half = OpenVinoEncoder(bundle, precision="fp16")
    assert half.arithmetic == "bf16" and half.precision == "fp16"
    assert half.spec == exact.spec
    difference = np.abs(half.encode(scenes()) - exact.encode(scenes())).max()
    assert 1e-4 < difference < 2e-2
    assert "computing in bf16" in said.text and active_backend(half).endswith("computing in bf16")


@needs_bfloat16
def test_bfloat16_that_breaks_a_limit_is_left_for_fp32(
    exact: OnnxEncoder, tmp_path: Path, said: pytest.LogCaptureFixture
):
    strict = golden_bundle(tmp_path / "strict")
    edit_manifest(strict, lambda values: values["tolerances"].update({"fp16": {"min_cosine": 1 - 1e-7}}))
    half = OpenVinoEncoder(strict, precision="fp16")
    assert half.arithmetic == "f32"
    assert "is computed in FP32, not in bfloat16: it does not give the descriptors" in said.text
    np.testing.assert_allclose(half.encode(scenes()), exact.encode(scenes()), atol=1e-3)


@needs_bfloat16
def test_bfloat16_that_gives_no_descriptor_is_left_for_fp32(
    bundle: Path, exact: OnnxEncoder, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
):
    real = openvino_module._infer

    def nothing_in_bfloat16(compiled: Any, output_name: str) -> Any:
        if "bfloat16" in str(compiled.get_property("INFERENCE_PRECISION_HINT")):
            return lambda batch: np.zeros((len(batch), 32), np.float32)
        return real(compiled, output_name)

    monkeypatch.setattr(openvino_module, "_infer", nothing_in_bfloat16)
    half = OpenVinoEncoder(bundle, precision="fp16")
    assert half.arithmetic == "f32" and "not in bfloat16: model" in said.text
    np.testing.assert_allclose(half.encode(scenes()), exact.encode(scenes()), atol=1e-3)


def test_without_bfloat16_the_fp16_graph_is_computed_in_fp32(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, compiled_with: list[dict[str, Any]]
):
    old = SimpleNamespace(
        get_property=lambda device, name: ["FP32"] if name == "OPTIMIZATION_CAPABILITIES" else "Old CPU",
        read_model=CORE.read_model,
        compile_model=openvino.Core().compile_model,
    )
    monkeypatch.setattr(openvino, "Core", lambda: old)
    half = OpenVinoEncoder(bundle, precision="fp16")
    assert half.arithmetic == "f32" and half.says == "Old CPU computing in f32"
    assert [options["INFERENCE_PRECISION_HINT"] for options in compiled_with] == ["f32"]


def test_other_descriptors_than_were_exported_are_refused(tmp_path: Path):
    wrong = golden_bundle(tmp_path / "wrong", precisions=("fp32",))
    spoil_golden(wrong, lambda rows: rows[::-1].copy())
    with pytest.raises(GoldenError, match=r"min_cosine is .*, the limit is at least 0\.99999"):
        OpenVinoEncoder(wrong)


@pytest.mark.parametrize(("precision", "row"), [("fp32", 0), ("fp32", 1), ("fp16", 2)])
def test_every_golden_image_that_is_run_is_judged(precision: Precision, row: int, tmp_path: Path):
    wrong = golden_bundle(tmp_path / "wrong")
    spoil_golden(wrong, lambda rows: np.where(np.arange(3)[:, None] == row, -rows, rows))
    with pytest.raises(GoldenError):
        OpenVinoEncoder(wrong, precision=precision)


def test_of_an_fp32_graph_two_golden_images_are_run(tmp_path: Path):
    wrong = golden_bundle(tmp_path / "wrong")
    spoil_golden(wrong, lambda rows: np.where(np.arange(3)[:, None] == 2, -rows, rows))
    OpenVinoEncoder(wrong, precision="fp32").close()


def test_without_golden_images_it_runs_and_says_that_it_is_not_checked(tmp_path: Path, said: pytest.LogCaptureFixture):
    bare = golden_bundle(tmp_path / "bare")
    edit_manifest(bare, lambda values: values.update(golden=None))
    assert OpenVinoEncoder(bare, precision="fp16").arithmetic == "f32"
    assert "is not checked" in said.text


@pytest.mark.parametrize("name", BREAKAGES)
def test_broken_bundles_are_refused_as_by_onnx_runtime(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    damage, reason = BREAKAGES[name]
    folder = write_tiny_bundle(tmp_path / "bundle", pooling="average")
    damage(folder)
    with pytest.raises(ModelError, match=reason) as caught:
        OpenVinoEncoder(folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""


def test_damaged_foreign_graph_is_refused(tmp_path: Path):
    path = write_tiny_foreign(tmp_path / "foreign", pooling="average")
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:-1], b"\0" * 4096, b"PK\x03\x04" + whole):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"no readable ONNX file|cannot be loaded|has no input"):
            OpenVinoEncoder(path)


def test_external_tensors_are_checked_before_they_are_read(exact: OnnxEncoder, tmp_path: Path):
    folder = write_tiny_bundle(tmp_path / "bundle", external_data=True, pooling="average")
    edit_manifest(folder, lambda values: values.update(golden=None))
    np.testing.assert_allclose(OpenVinoEncoder(folder).encode(scenes()), exact.encode(scenes()), atol=1e-5)
    data = bytearray((folder / "weights.bin").read_bytes())
    data[1000] ^= 1
    (folder / "weights.bin").write_bytes(data)
    with pytest.raises(ModelError, match=r"weights\.bin was altered or damaged"):
        OpenVinoEncoder(folder)


def test_an_operator_that_openvino_does_not_have(tmp_path: Path):
    folder = golden_bundle(tmp_path / "bundle", precisions=("fp32",))
    model = tiny_graph(pooling="average")
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Divide", "example.invalid"
    model.opset_import.append(onnx.helper.make_opsetid("example.invalid", 1))
    replace_graph(folder, model)
    with pytest.raises(ModelError, match=r"cannot be loaded by OpenVINO: .*Divide.*use ONNX Runtime") as caught:
        OpenVinoEncoder(folder)
    assert "\n" not in str(caught.value)


def test_wrong_choices(bundle: Path):
    with pytest.raises(ModelError, match="holds no int8 graph; it holds fp16, fp32"):
        load_encoder(bundle, backend="openvino", precision="int8")
    wrong: Any = np.zeros((4, 4, 3))
    with pytest.raises(InputError, match="dtype float64"):
        OpenVinoEncoder(bundle).encode([wrong])


def test_closed(bundle: Path):
    encoder = OpenVinoEncoder(bundle)
    encoder.close()
    encoder.close()
    with pytest.raises(ModelError, match="was closed; open it again with load_encoder"):
        encoder.encode(scenes(1))


def test_missing_openvino_names_the_extra(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModelError, match=r"pip install 'progeo-edge\[openvino\]'"):
        load_encoder(bundle, backend="openvino")


# What `auto` takes.


@pytest.fixture
def on_x86(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return monkeypatch


@pytest.mark.parametrize("stated", [True, False])
def test_auto_takes_openvino_for_fp16_on_x86(
    stated: bool, on_x86: pytest.MonkeyPatch, said: pytest.LogCaptureFixture, tmp_path: Path
):
    bundle = golden_bundle(tmp_path / "bundle", precisions=("fp32", "fp16") if stated else ("fp16",))
    encoder = load_encoder(bundle, precision="fp16" if stated else None)
    assert isinstance(encoder, OpenVinoEncoder) and encoder.precision == "fp16"
    assert active_backend(encoder).startswith(f"OpenVINO {openvino.__version__.split('-')[0]}, fp16, ")
    assert "OpenVINO runs on" in said.text


def test_auto_leaves_fp32_to_onnx_runtime(bundle: Path, on_x86: pytest.MonkeyPatch, said: pytest.LogCaptureFixture):
    for precision in (None, "fp32"):
        assert isinstance(load_encoder(bundle, precision=precision), OnnxEncoder)
        assert "OpenVINO is not used: ONNX Runtime is as fast in FP32" in said.text
        said.clear()


@pytest.mark.parametrize("damage", ["wrong golden", "no golden", "other machine", "not installed", "GPU"])
def test_auto_leaves_openvino_for_onnx_runtime_and_says_why(
    damage: str, on_x86: pytest.MonkeyPatch, said: pytest.LogCaptureFixture, tmp_path: Path
):
    folder = golden_bundle(tmp_path / "bundle")
    if damage == "wrong golden":
        spoil_golden(folder, lambda rows: rows[::-1].copy())
    elif damage == "no golden":
        edit_manifest(folder, lambda values: values.update(golden=None))
    elif damage == "other machine":
        on_x86.setattr("platform.machine", lambda: "aarch64")
    elif damage == "not installed":
        on_x86.setitem(sys.modules, "openvino", None)
    else:
        on_x86.setattr(backends, "_onnx_runtime_has_cuda", lambda: True)
    reason = {
        "wrong golden": "it does not give the descriptors",
        "no golden": "has no golden images to check it with",
        "other machine": "on aarch64 ONNX Runtime is taken",
        "not installed": "it is not installed here",
        "GPU": "ONNX Runtime has a GPU here",
    }[damage]
    assert isinstance(load_encoder(folder, precision="fp16"), OnnxEncoder)
    assert f"OpenVINO is not used: {reason}" in said.text.replace(f"{folder} ", "")


def test_auto_runs_a_foreign_model_by_onnx_runtime(on_x86: pytest.MonkeyPatch, tmp_path: Path):
    assert isinstance(load_encoder(write_tiny_foreign(tmp_path / "foreign", pooling="average")), OnnxEncoder)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_sound_bundle_is_proven(precision: Precision, bundle: Path):
    verdict = verify_bundle(bundle, backend="openvino", precision=precision)
    assert verdict.ok, verdict.problems
    assert verdict.backend is not None and verdict.backend.startswith("OpenVINO ")
    assert verdict.precision == precision and verdict.figures


def test_a_bundle_that_openvino_computes_otherwise_is_not_proven(tmp_path: Path):
    folder = write_golden_bundle(tmp_path / "bundle", precisions=("fp32",), pooling="average")
    spoil_golden(folder, lambda rows: -rows)
    verdict = verify_bundle(folder, backend="openvino")
    assert not verdict.ok and "min_cosine" in verdict.problems[0]


def test_images_of_the_graph_are_those_of_the_bundle(encoder: OpenVinoEncoder, exact: OnnxEncoder):
    grey = np.random.default_rng(0).integers(0, 256, (HEIGHT_PX, WIDTH_PX), dtype=np.uint8)
    np.testing.assert_allclose(encoder.encode([grey]), exact.encode([grey]), atol=1e-5)
