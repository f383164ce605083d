from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from progeo_edge.parity import cosines
from progeo_edge.preprocess import to_model_input
from progeo_edge.types import Image
from progeo_export import int8
from progeo_export.errors import ExportError
from progeo_export.int8 import MIN_IMAGES, check_quantised, quantise
from progeo_export.quantise_worker import Request
from tests.export.conv_graph import BLOCK, HEAD, PREPROCESS, SIZE_PX, STEM, write_conv_graph

ort = pytest.importorskip("onnxruntime")


def pictures(count: int, seed: int = 0) -> list[Image]:
    """Smooth random scenes with edges: neighbours are alike, as in photographs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX] / SIZE_PX
    result = []
    for _ in range(count):
        waves = rng.normal(0, 40, (3, 3)) @ np.stack([np.sin(6 * x + rng.uniform(0, 6)), y, x]).reshape(3, -1)
        scene = 128 + waves.T.reshape(SIZE_PX, SIZE_PX, 3)
        top, left = rng.integers(0, SIZE_PX // 2, 2)
        scene[top : top + 12, left : left + 12] += rng.normal(0, 60, 3)
        result.append(np.clip(scene, 0, 255).astype(np.uint8))
    return result


def noise(count: int) -> list[Image]:
    return list(np.random.default_rng(0).integers(0, 256, (count, SIZE_PX, SIZE_PX, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conv_graph(tmp_path_factory.mktemp("graphs") / "model.onnx")


@pytest.fixture(scope="module")
def quantised(fp32: Path) -> tuple[Path, int8.Int8Report]:
    out = fp32.with_name("model.int8.onnx")
    return out, quantise(fp32, pictures(120), PREPROCESS, out, threads=1)


def run(path: Path, images: list[Image]) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": to_model_input(images, PREPROCESS)})[0])


def test_the_block_is_quantised_and_nothing_else(quantised: tuple[Path, int8.Int8Report]) -> None:
    path, report = quantised
    assert report.quantised == BLOCK
    assert set(report.kept) == {*STEM, *HEAD}
    model = onnx.load(path)
    producers = {output: node.op_type for node in model.graph.node for output in node.output}
    nodes = {node.name: node for node in model.graph.node}
    for name in BLOCK:
        assert [producers.get(value) for value in nodes[name].input] == ["DequantizeLinear"] * 2
    for name in (*STEM, *HEAD):
        assert "DequantizeLinear" not in [producers.get(value) for value in nodes[name].input]
    assert list(nodes["/trunk/layer1/add"].input) == ["c2", "pooled"], "the residual is added as it was"


def test_opset_names_and_batch_stay(quantised: tuple[Path, int8.Int8Report]) -> None:
    """The quantiser raises the opset of some graphs by itself; the manifest states one for all."""
    before, after = onnx.load(quantised[0].with_name("model.onnx")), onnx.load(quantised[0])
    versions = [{entry.domain: entry.version for entry in model.opset_import} for model in (before, after)]
    assert versions[1].pop("") == versions[0][""] and set(versions[1]) <= {"ai.onnx.ml", "com.microsoft"}
    domains = {node.domain for node in after.graph.node}
    assert domains <= {"", "ai.onnx"}, "TensorRT knows no operator of another domain"
    assert after.graph.input == before.graph.input and after.graph.output == before.graph.output


def test_zero_points_are_zero_and_weights_have_a_scale_per_channel(quantised: tuple[Path, int8.Int8Report]) -> None:
    model = onnx.load(quantised[0])
    values = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) >= 4
    for node in pairs:
        assert values[node.input[2]].dtype == np.int8
        assert not values[node.input[2]].any()
    weights = [node for node in pairs if node.input[0] in values]
    assert [values[node.input[1]].shape for node in weights] == [(12,), (12,)]
    first = next(node for node in weights if node.input[0].startswith("first"))
    original = {
        item.name: numpy_helper.to_array(item)
        for item in onnx.load(quantised[0].with_name("model.onnx")).graph.initializer
    }
    np.testing.assert_allclose(values[first.input[1]], np.abs(original["first"]).max(axis=(1, 2, 3)) / 127, rtol=0.02)


def test_onnx_runtime_runs_it_and_it_agrees_roughly_but_not_exactly(quantised: tuple[Path, int8.Int8Report]) -> None:
    path, _ = quantised
    images = pictures(8, seed=3)
    before, after = run(path.with_name("model.onnx"), images), run(path, images)
    assert after.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-5)
    cosine = cosines(before, after)
    assert cosine.min() > 0.99
    assert cosine.max() < 1 - 1e-7


def test_few_images_are_allowed_with_a_warning(quantised: tuple[Path, int8.Int8Report]) -> None:
    assert quantised[1].num_images == 120
    assert "calibrated on 120 images; at least 500" in quantised[1].notes[0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pictures(MIN_IMAGES - 1), "99 different calibration images of 99 .* at least 100"),
        (pictures(20) * 10, "20 different calibration images of 200"),
        (noise(150), "150 of 150 calibration images are blank or noise.*real images"),
        (pictures(150) + noise(20), "20 of 170"),
        ([np.full((SIZE_PX, SIZE_PX, 3), 90, np.uint8)] * 150, "blank"),
        ([], "0 different calibration images"),
    ],
    ids=["too few", "repeated", "random", "partly random", "blank", "none"],
)
def test_poor_calibration_images_are_refused(fp32: Path, tmp_path: Path, images: list[Image], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        quantise(fp32, images, PREPROCESS, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_few_blank_images_are_left_out_and_said(fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "_run_worker", lambda request, file: seen.append(request))
    monkeypatch.setattr(int8, "check_quantised", lambda *args: None)
    monkeypatch.setattr(onnx, "load", lambda path, load=onnx.load: load(fp32))
    seen: list[Request] = []
    report = quantise(fp32, pictures(600) + noise(5), PREPROCESS, tmp_path / "out.onnx")
    assert seen[0].num_inputs == report.num_images == 600
    assert report.notes == ("5 of 605 calibration images are blank or noise and were left out",)


def test_a_transformer_is_refused_without_force(tmp_path: Path) -> None:
    path = write_conv_graph(tmp_path / "vit.onnx", attention=True)
    with pytest.raises(ExportError, match=r"Softmax.*transformer.*--fp16, or --int8 --force"):
        quantise(path, pictures(120), PREPROCESS, tmp_path / "out.onnx")
    report = quantise(path, pictures(120), PREPROCESS, tmp_path / "out.onnx", calibrator="minmax", force=True)
    assert report.quantised == BLOCK


def test_a_graph_without_a_marked_head_is_refused(tmp_path: Path) -> None:
    path = write_conv_graph(tmp_path / "model.onnx", head_scope="/end")
    with pytest.raises(ExportError, match="no node of the graph has 'head' in its name"):
        quantise(path, pictures(120), PREPROCESS, tmp_path / "out.onnx")


def test_nodes_can_be_excluded_until_none_is_left(fp32: Path, tmp_path: Path) -> None:
    report = quantise(fp32, pictures(100), PREPROCESS, tmp_path / "a.onnx", calibrator="minmax", exclude=BLOCK[:1])
    assert report.quantised == BLOCK[1:]
    with pytest.raises(ExportError, match="nothing to quantise"):
        quantise(fp32, pictures(100), PREPROCESS, tmp_path / "b.onnx", exclude=BLOCK)


def test_a_crash_of_the_quantiser_is_an_error_with_its_exit_code(
    fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = tmp_path / "crash.sh"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crash))
    with pytest.raises(ExportError, match=r"exit code -11.*without --int8"):
        quantise(fp32, pictures(100), PREPROCESS, tmp_path / "out.onnx")


def _change(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    for item in model.graph.initializer:
        if item.name == name:
            item.CopyFrom(numpy_helper.from_array(value, name))


def test_a_wrong_result_of_the_quantiser_is_noticed(quantised: tuple[Path, int8.Int8Report]) -> None:
    path, report = quantised
    check_quantised(onnx.load(path), report.quantised)
    shifted = onnx.load(path)
    zero = next(node.input[2] for node in shifted.graph.node if node.op_type == "QuantizeLinear")
    _change(shifted, zero, np.array(3, np.int8))
    with pytest.raises(ExportError, match=r"zero point .* is not 0"):
        check_quantised(shifted, report.quantised)
    with pytest.raises(ExportError, match=r"'/trunk/conv1' was to be quantised"):
        check_quantised(onnx.load(path), [*report.quantised, *STEM])
    with pytest.raises(ExportError, match="was to stay in FP32"):
        check_quantised(onnx.load(path), BLOCK[:1])
    one_scale = onnx.load(path)
    for node in one_scale.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0].startswith("first"):
            scale, zero = node.input[1], node.input[2]
            del node.attribute[:]
    _change(one_scale, scale, np.array(0.01, np.float32))
    _change(one_scale, zero, np.array(0, np.int8))
    with pytest.raises(ExportError, match="one scale for all channels"):
        check_quantised(one_scale, report.quantised)


def test_a_broken_graph_is_named_by_the_checker(quantised: tuple[Path, int8.Int8Report]) -> None:
    path, report = quantised
    model = onnx.load(path)
    model.graph.node[3].input[0] = "nowhere"
    with pytest.raises(ExportError, match="no valid ONNX"):
        check_quantised(model, report.quantised)
