from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from progeo_edge.bundle import Precision, Preprocess
from progeo_edge.encoders import load_encoder
from progeo_edge.encoders.descriptor_rows import unit_rows
from progeo_edge.encoders.onnx import OnnxEncoder, _report_providers
from progeo_edge.encoders.onnx_scan import scan_graph
from progeo_edge.errors import InputError, ModelError
from progeo_edge.graph_file import file_sha256
from tests.tiny_encoder import (
    FOREIGN_PREPROCESS,
    TINY_PREPROCESS,
    edit_manifest,
    replace_graph,
    tiny_graph,
    write_tiny_bundle,
    write_tiny_foreign,
)

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle", precisions=("fp32", "fp16"))


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> OnnxEncoder:
    return OnnxEncoder(bundle, threads=1)


def scenes(count: int = 5) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (rng.integers(1, 200), rng.integers(1, 200), 3), dtype=np.uint8) for _ in range(count)]


def external_bundle(folder: Path) -> Path:
    return write_tiny_bundle(folder, external_data=True)


def point_external_data_to(folder: Path, location: str) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    replace_graph(folder, model)


def test_descriptors_are_unit_float32_rows(encoder: OnnxEncoder):
    descriptors = encoder.encode(scenes())
    assert descriptors.shape == (5, 32) and descriptors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-6)
    assert encoder.spec.name == "tiny" and encoder.spec.dimension == 32
    assert encoder.encode([]).shape == (0, 32)


def test_like_images_are_nearer_than_unlike_ones(encoder: OnnxEncoder):
    first, second, *_ = scenes()
    noisy = np.clip(first + np.random.default_rng(0).normal(0, 5, first.shape), 0, 255).astype(np.uint8)
    a, b, c = encoder.encode([first, noisy, second])
    assert a @ b > 0.95 > 0.5 > abs(a @ c)


def test_many_images_equal_one_at_a_time(encoder: OnnxEncoder):
    images = scenes(37)
    one_by_one = np.concatenate([encoder.encode([image]) for image in images])
    np.testing.assert_allclose(encoder.encode(images), one_by_one, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 4])
def test_graph_of_a_fixed_batch(batch: int, encoder: OnnxEncoder, tmp_path: Path):
    fixed = OnnxEncoder(write_tiny_bundle(tmp_path / "fixed", batch=batch))
    images = scenes(6)
    np.testing.assert_allclose(fixed.encode(images), encoder.encode(images), atol=1e-6)


def test_foreign_float_rgb_nchw_gives_the_same_descriptors(encoder: OnnxEncoder, tmp_path: Path):
    foreign = load_encoder(write_tiny_foreign(tmp_path / "foreign"))
    np.testing.assert_allclose(foreign.encode(scenes()), encoder.encode(scenes()), atol=1e-5)


@pytest.mark.parametrize("edit", [{"color": "bgr"}, {"mean": None, "std": None}, {"resize": "linear"}])
def test_wrong_preprocessing_moves_descriptors_and_fingerprint(edit: dict[str, Any], tmp_path: Path):
    wrong = Preprocess.model_validate({**FOREIGN_PREPROCESS.model_dump(), **edit}).model_dump(mode="json")
    right = load_encoder(write_tiny_foreign(tmp_path / "right"))
    other = load_encoder(write_tiny_foreign(tmp_path / "wrong", description={"preprocess": wrong}))
    assert right.spec.fingerprint != other.spec.fingerprint
    assert np.abs(right.encode(scenes()) - other.encode(scenes())).max() > 1e-3


def test_fingerprint_is_of_the_content_not_of_the_place(bundle: Path, encoder: OnnxEncoder, tmp_path: Path):
    same = write_tiny_bundle(tmp_path / "same")
    edit_manifest(same, lambda values: values.update(name="renamed", parity={}))
    other_weights = write_tiny_bundle(tmp_path / "other", seed=1)
    assert load_encoder(same).spec.fingerprint == encoder.spec.fingerprint
    assert load_encoder(other_weights).spec.fingerprint != encoder.spec.fingerprint


@pytest.mark.parametrize("checkpoint", [True, False])
def test_exact_precisions_of_a_bundle_are_one_model(checkpoint: bool, tmp_path: Path):
    names: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    bundle = write_tiny_bundle(tmp_path / "bundle", precisions=names, external_data=True)
    other = write_tiny_bundle(tmp_path / "other", precisions=("fp32", "fp16"), external_data=True, seed=1)
    if not checkpoint:
        for folder in (bundle, other):
            edit_manifest(folder, lambda values: values.update(checkpoint_sha256=None))
    seen = {name: OnnxEncoder(bundle, precision=name).spec.fingerprint for name in names}
    assert seen["fp32"] == seen["fp16"] != seen["int8"]
    assert OnnxEncoder(other, precision="fp16").spec.fingerprint == load_encoder(other).spec.fingerprint
    assert load_encoder(other).spec.fingerprint not in seen.values()


def test_external_tensors_and_preprocessing_are_in_the_shared_fingerprint(tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path / "bundle", precisions=("fp32", "fp16"), external_data=True)
    edit_manifest(bundle, lambda values: values.update(checkpoint_sha256=None))
    before = OnnxEncoder(bundle, precision="fp16").spec.fingerprint
    data = bytearray((bundle / "weights.bin").read_bytes())
    data[-2] ^= 1
    (bundle / "weights.bin").write_bytes(data)
    with pytest.raises(ModelError, match=r"weights\.bin was altered"):
        OnnxEncoder(bundle, precision="fp16")
    edit_manifest(bundle, lambda values: values["files"].update({"weights.bin": file_sha256(bundle / "weights.bin")}))
    assert OnnxEncoder(bundle, precision="fp16").spec.fingerprint != before
    linear = Preprocess(**{**TINY_PREPROCESS.model_dump(), "resize": "linear"})
    resized = write_tiny_bundle(tmp_path / "resized", preprocess=linear)
    assert load_encoder(resized).spec.fingerprint != load_encoder(write_tiny_bundle(tmp_path / "a")).spec.fingerprint


def test_a_bundle_with_the_half_graph_alone(tmp_path: Path):
    half = write_tiny_bundle(tmp_path / "half", precisions=("fp16",))
    both = write_tiny_bundle(tmp_path / "both", precisions=("fp32", "fp16"))
    assert load_encoder(half).spec.fingerprint == load_encoder(both).spec.fingerprint
    edit_manifest(half, lambda values: values.update(checkpoint_sha256=None))
    assert load_encoder(half).spec.fingerprint != load_encoder(both).spec.fingerprint


def test_half_graph_agrees_and_is_loaded_at_extended(
    bundle: Path, encoder: OnnxEncoder, monkeypatch: pytest.MonkeyPatch
):
    seen: list[Any] = []
    real = onnxruntime.InferenceSession

    def spy(path: str, options: Any, **arguments: Any) -> Any:
        seen.append(options)
        return real(path, options, **arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    half = OnnxEncoder(bundle, precision="fp16", threads=2)
    load_encoder(bundle, backend="onnx", threads=3, spin=True)
    levels = onnxruntime.GraphOptimizationLevel
    assert [item.graph_optimization_level for item in seen] == [levels.ORT_ENABLE_EXTENDED, levels.ORT_ENABLE_ALL]
    assert [item.intra_op_num_threads for item in seen] == [2, 3]
    spinning = [item.get_session_config_entry("session.intra_op.allow_spinning") for item in seen]
    assert spinning == ["0", "1"]
    assert np.sum(half.encode(scenes()) * encoder.encode(scenes()), axis=1).min() > 0.9999


@pytest.mark.parametrize("threads", [0, 1])
def test_same_descriptors_from_several_threads(threads: int, bundle: Path):
    encoder = OnnxEncoder(bundle, threads=threads)
    images = scenes()
    expected = encoder.encode(images)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: encoder.encode(images), range(40)):
            np.testing.assert_allclose(result, expected, atol=1e-6)


def test_outputs_and_outputs_to_choose_from(tmp_path: Path):
    path = write_tiny_foreign(tmp_path / "two", extra_output=True)
    with pytest.raises(ModelError, match=r"has 2 outputs \(descriptor, projected\); name one as 'output:'"):
        load_encoder(path)
    named = load_encoder(
        write_tiny_foreign(tmp_path / "named", extra_output=True, description={"output": "descriptor"})
    )
    raw = load_encoder(write_tiny_foreign(tmp_path / "raw", extra_output=True, description={"output": "projected"}))
    np.testing.assert_allclose(raw.encode(scenes()), named.encode(scenes()), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(raw.encode(scenes()), axis=1), 1, atol=1e-6)
    assert raw.spec.fingerprint != named.spec.fingerprint


@pytest.mark.parametrize("gain", [0.0, 1e30, float("nan")])
def test_zero_overflow_and_nan_are_refused(gain: float, tmp_path: Path):
    with pytest.raises(ModelError, match="gave a descriptor of norm"):
        OnnxEncoder(write_tiny_bundle(tmp_path / "bundle", gain=gain))


def test_the_bad_image_of_a_batch_is_named():
    output = np.eye(3, dtype=np.float32) * 2
    np.testing.assert_array_equal(unit_rows(output, Path("m.onnx")), np.eye(3, dtype=np.float32))
    output[1, 0] = np.nan
    with pytest.raises(ModelError, match="norm nan for image 1 of the batch"):
        unit_rows(output, Path("m.onnx"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"layout": "nhwc"}, r"has shape \['batch', 3, .*says nhwc \('batch', 48, 64, 3\)"),
        ({"dtype": "uint8", "mean": None, "std": None}, r"takes float32, but its description says uint8"),
    ],
)
def test_graph_of_another_input_is_refused(fields: dict[str, Any], reason: str, tmp_path: Path):
    wrong = {**FOREIGN_PREPROCESS.model_dump(mode="json"), **fields}
    with pytest.raises(ModelError, match=reason):
        load_encoder(write_tiny_foreign(tmp_path / "foreign", description={"preprocess": wrong}))


def graph_with(edit: Any, **options: Any) -> onnx.ModelProto:
    model = tiny_graph(**options)
    edit(model.graph)
    return model


def declare_output_type(graph: onnx.GraphProto) -> None:
    graph.node.add(op_type="Cast", input=["descriptor"], output=["whole"]).attribute.extend(
        [onnx.helper.make_attribute("to", onnx.TensorProto.INT64)]
    )
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("whole", onnx.TensorProto.INT64, ["batch", 32]))


def output_a_feature_map(graph: onnx.GraphProto) -> None:
    shape: list[str | int | None] = ["batch", 8, 6, 8]
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("pooled", onnx.TensorProto.FLOAT, shape))


def output_of_unknown_shape(graph: onnx.GraphProto) -> None:
    graph.output[0].type.tensor_type.ClearField("shape")


def second_input(graph: onnx.GraphProto) -> None:
    graph.input.add().CopyFrom(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, ["batch"]))


@pytest.mark.parametrize(
    ("edit", "output", "reason"),
    [
        (declare_output_type, "whole", r"is int64; expected floats"),
        (output_a_feature_map, "pooled", r"has shape \['batch', 8, 6, 8\]; expected descriptors"),
        (second_input, "descriptor", "also needs the inputs mask"),
    ],
)
def test_graph_of_another_shape_or_type_is_refused(edit: Any, output: str, reason: str, tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    replace_graph(bundle, graph_with(edit))
    edit_manifest(bundle, lambda values: values.update(output_name=output))
    with pytest.raises(ModelError, match=reason):
        OnnxEncoder(bundle)


def test_an_output_without_a_declared_shape_is_probed(encoder: OnnxEncoder, tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    replace_graph(bundle, graph_with(output_of_unknown_shape))
    np.testing.assert_allclose(OnnxEncoder(bundle).encode(scenes()), encoder.encode(scenes()), atol=1e-6)
    edit_manifest(bundle, lambda values: values.update(dimension=31))
    with pytest.raises(ModelError, match="31"):
        OnnxEncoder(bundle)


def test_a_size_that_the_graph_cannot_take(tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path / "bundle", preprocess=TINY_PREPROCESS)

    def fix_height(graph: onnx.GraphProto) -> None:
        graph.input[0].type.tensor_type.shape.dim[1].dim_value = 96

    replace_graph(bundle, graph_with(fix_height))
    with pytest.raises(ModelError, match=r"has shape \['batch', 96, 'width', 3\], but"):
        OnnxEncoder(bundle)


def test_external_data_inside_the_bundle(encoder: OnnxEncoder, tmp_path: Path):
    bundle = external_bundle(tmp_path / "bundle")
    assert scan_graph(bundle / "model.onnx").external_files == {"weights.bin"}
    np.testing.assert_allclose(OnnxEncoder(bundle).encode(scenes()), encoder.encode(scenes()), atol=1e-6)
    data = bytearray((bundle / "weights.bin").read_bytes())
    data[1000] ^= 1
    (bundle / "weights.bin").write_bytes(data)
    with pytest.raises(ModelError, match=r"weights\.bin was altered or damaged"):
        OnnxEncoder(bundle)


def test_external_data_outside_or_unlisted_is_refused(tmp_path: Path):
    bundle = external_bundle(tmp_path / "bundle")
    (tmp_path / "secret.bin").write_bytes((bundle / "weights.bin").read_bytes())
    for location in ("../secret.bin", str(tmp_path / "secret.bin")):
        point_external_data_to(bundle, location)
        with pytest.raises(ModelError, match="leaves the folder"):
            OnnxEncoder(bundle)
    (bundle / "unlisted.bin").write_bytes((bundle / "weights.bin").read_bytes())
    point_external_data_to(bundle, "unlisted.bin")
    with pytest.raises(ModelError, match=r"'unlisted\.bin', which the manifest does not list"):
        OnnxEncoder(bundle)


def test_external_data_of_a_foreign_model_is_in_its_fingerprint(tmp_path: Path):
    path = write_tiny_foreign(tmp_path / "foreign")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=256)
    before = load_encoder(path).spec.fingerprint
    data = bytearray((tmp_path / "foreign" / "w.bin").read_bytes())
    data[-2] ^= 1
    (tmp_path / "foreign" / "w.bin").write_bytes(data)
    assert load_encoder(path).spec.fingerprint != before


def test_damaged_foreign_graph_is_refused(tmp_path: Path):
    path = write_tiny_foreign(tmp_path / "foreign")
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:-1], b"\0" * 4096, b"PK\x03\x04" + whole):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"no readable ONNX file|cannot be loaded"):
            load_encoder(path)


def test_scan_tells_halves_and_refuses_endless_nesting(bundle: Path, tmp_path: Path):
    assert scan_graph(bundle / "model.fp16.onnx").has_half
    assert not scan_graph(bundle / "model.onnx").has_half
    message = b""
    for _ in range(100):
        attribute = b"\x32" + varint(len(message)) + message
        node = b"\x2a" + varint(len(attribute)) + attribute
        message = b"\x0a" + varint(len(node)) + node
    (tmp_path / "deep.onnx").write_bytes(b"\x3a" + varint(len(message)) + message)
    with pytest.raises(ModelError, match="nested deeper"):
        scan_graph(tmp_path / "deep.onnx")


def varint(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def test_missing_onnxruntime_names_the_extra(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"pip install 'progeo-edge\[onnx\]'"):
        load_encoder(bundle)


def test_provider_that_is_not_there_is_refused(bundle: Path):
    with pytest.raises(ModelError, match=r"NoSuchExecutionProvider is not in this onnxruntime; it has .*CPU"):
        OnnxEncoder(bundle, providers=["NoSuchExecutionProvider"])
    with pytest.raises(ModelError, match="is not in this onnxruntime"):
        OnnxEncoder(bundle, providers=[])
    assert OnnxEncoder(bundle, providers=[CPU]).providers == (CPU,)


@pytest.mark.parametrize(
    ("wanted", "active", "available", "said"),
    [
        ([CUDA, CPU], [CUDA, CPU], [CUDA, CPU], "runs on CUDAExecutionProvider"),
        ([CUDA, CPU], [CPU], [CUDA, CPU], "runs on CPUExecutionProvider (CUDAExecutionProvider failed to start"),
        ([CPU], [CPU], [CPU], "runs on CPUExecutionProvider (CUDAExecutionProvider is not in this onnxruntime"),
        ([CPU], [CPU], [TENSORRT, CPU], "TensorrtExecutionProvider builds its engine at every start"),
    ],
)
def test_the_log_says_what_runs_and_why(
    wanted: list[str], active: list[str], available: list[str], said: str, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO, logger="progeo_edge"):
        _report_providers(wanted, active, available, None)
    assert said in caplog.text
    assert len(caplog.records) == 1


def test_a_named_provider_that_fails_is_an_error():
    with pytest.raises(ModelError, match="CUDAExecutionProvider did not start"):
        _report_providers([CUDA, CPU], [CPU], [CUDA, CPU], [CUDA])


@pytest.mark.parametrize("asked", [None, [CUDA]])
def test_a_provider_that_raises_is_logged_and_left(
    asked: list[str] | None, bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    real = onnxruntime.InferenceSession

    def without_device(path: str, options: Any, providers: list[str], **arguments: Any) -> Any:
        if CUDA in providers:
            raise RuntimeError("no CUDA-capable device is detected\nand more")
        return real(path, options, providers=providers, **arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", without_device)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    if asked is None:
        assert OnnxEncoder(bundle).providers == (CPU,)
    else:
        with pytest.raises(ModelError, match="CUDAExecutionProvider did not start"):
            OnnxEncoder(bundle, providers=asked)
    assert "CUDAExecutionProvider did not start: no CUDA-capable device is detected" in caplog.text


def test_a_device_that_fails_later_is_not_left_for_the_cpu_in_silence(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    """ONNX Runtime's own fallback would do so in the middle of a run, and print to stdout."""
    asked: list[Any] = []
    real = onnxruntime.InferenceSession

    def spy(*positional: Any, **named: Any) -> Any:
        asked.append(named["enable_fallback"])
        return real(*positional, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    OnnxEncoder(bundle)
    assert asked == [0]


def test_damage_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = write_tiny_foreign(tmp_path / "foreign")
    path.write_bytes(b"\x08\x08")
    with pytest.raises(ModelError):
        load_encoder(path)
    assert capfd.readouterr().out == ""


def test_bad_images_lose_nothing(encoder: OnnxEncoder):
    good = scenes(1)[0]
    before = encoder.encode([good])
    with pytest.raises(InputError, match="uint16"):
        encoder.encode([good, np.zeros((4, 4), np.uint16)])
    np.testing.assert_array_equal(encoder.encode([good]), before)


def test_closed_encoder_says_so(bundle: Path):
    encoder = OnnxEncoder(bundle)
    encoder.close()
    encoder.close()
    assert encoder.providers == ()
    with pytest.raises(ModelError, match="was closed"):
        encoder.encode(scenes(1))
