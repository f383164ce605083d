"""The comparison of a file with its encoder notices what it must, and a crash of ONNX Runtime is one line."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from progeo_edge.preprocess import to_model_input
from progeo_export import ort_runner
from progeo_export.errors import ExportError
from progeo_export.fp32_parity import fp32_parity
from progeo_export.graph_module import DescriptorGraph
from progeo_export.onnx_export import export_graph
from progeo_export.ort_runner import run_graph
from tests.export.test_graph_module import pictures
from tests.train.tiny_models import tiny_encoder

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    module = DescriptorGraph(tiny_encoder("resnet"))
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    return module, path, export_graph(module, module.example(), path, 17)


def altered(exported, tmp_path, change):
    model = onnx.ModelProto.FromString(exported[2].SerializeToString())
    change(model)
    path = tmp_path / "altered.onnx"
    onnx.save_model(model, path)
    return path


def test_faithful_graph(exported):
    module, path, _ = exported
    figures = fp32_parity(path, module, [*pictures(4), pictures(1, (80, 50))[0]], (1, 2, 7), threads=1)
    assert figures["min_cosine"] > 1 - 1e-9
    assert figures["max_abs_difference"] < 1e-5
    assert figures["max_norm_error"] < 1e-5


@pytest.mark.parametrize("wrong", [None, 0, 4])
def test_every_image_is_compared_at_every_batch_size(exported, monkeypatch, wrong):
    module, path, _ = exported
    images = pictures(5)
    inputs = to_model_input(images, module.preprocess)
    sizes = []

    def run(path, batches, **options):
        outputs = run_graph(path, batches, **options)
        for given, output in zip(batches, outputs, strict=True):
            sizes.append(len(given["image"]))
            for row, image in enumerate(given["image"]):
                if wrong is not None and np.array_equal(image, inputs[wrong]):
                    output["descriptor"][row] = np.roll(output["descriptor"][row], 1)
        return outputs

    monkeypatch.setattr("progeo_export.fp32_parity.run_graph", run)
    figures = fp32_parity(path, module, images, (1, 2, 7), threads=1)
    assert sizes == [1] * 5 + [2] * 3 + [7]
    assert (figures["min_cosine"] > 1 - 1e-5) == (wrong is None)


@pytest.mark.parametrize("scope", ["/prologue/normalise/Mul", "/prologue/normalise/Add"])
def test_wrong_statistics_show(exported, tmp_path, scope):
    def change(model):
        name = next(node.input[1] for node in model.graph.node if node.name == scope)
        weight = next(weight for weight in model.graph.initializer if weight.name == name)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[:, ::-1].copy() * 1.1, name))

    figures = fp32_parity(altered(exported, tmp_path, change), exported[0], pictures(), (2,), threads=1)
    assert figures["min_cosine"] < 1 - 1e-5


def test_wrong_channel_order_shows(exported, tmp_path):
    def change(model):
        name = next(node.input[1] for node in model.graph.node if node.name == "/prologue/Gather")
        weight = next(weight for weight in model.graph.initializer if weight.name == name)
        weight.CopyFrom(numpy_helper.from_array(np.array([0, 1, 2]), name))

    figures = fp32_parity(altered(exported, tmp_path, change), exported[0], pictures(), (2,), threads=1)
    assert figures["min_cosine"] < 1 - 1e-5


def test_missing_norm_shows(exported, tmp_path):
    def change(model):
        model.graph.node[-1].op_type = "Mul"

    figures = fp32_parity(altered(exported, tmp_path, change), exported[0], pictures(), (2,), threads=1)
    assert figures["max_norm_error"] > 1e-3


def test_nan_is_not_hidden(exported, tmp_path):
    def change(model):
        model.graph.node[-1].CopyFrom(helper.make_node("Log", ["minus"], ["descriptor"]))
        model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Neg", [norm(model)], ["minus"]))

    def norm(model):
        return next(node.output[0] for node in model.graph.node if node.op_type == "Gemm")

    figures = fp32_parity(altered(exported, tmp_path, change), exported[0], pictures(), (2,), threads=1)
    assert np.isnan(figures["min_cosine"])


def square(path):
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "x"], ["y"])],
        "square",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_runner_gives_outputs_by_name_for_every_batch(tmp_path):
    values = [np.arange(n, dtype=np.float32) for n in (1, 3)]
    outputs = run_graph(square(tmp_path / "square.onnx"), [{"x": value} for value in values], threads=1)
    assert [list(output) for output in outputs] == [["y"], ["y"]]
    for value, output in zip(values, outputs, strict=True):
        np.testing.assert_array_equal(output["y"], value**2)


def test_runner_reports_a_file_that_is_no_graph(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"ONNX Runtime on .* failed") as caught:
        run_graph(path, [], threads=1)
    assert "\n" not in str(caught.value) and "exit code 1" in str(caught.value)


def test_runner_optimises_no_further_than_extended(tmp_path, monkeypatch):
    """At the level above, ONNX Runtime has crashed on half transformers."""
    seen = []
    real = onnxruntime.InferenceSession

    def spy(path, options, **named):
        seen.append(options.graph_optimization_level)
        return real(path, options, **named)

    def in_this_process(module, folder, request, **_):
        assert module == "progeo_export.ort_runner"
        monkeypatch.setattr(sys, "argv", [module, folder, request])
        ort_runner.main()

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    monkeypatch.setattr(ort_runner, "run_module", in_this_process)
    run_graph(square(tmp_path / "square.onnx"), [{"x": np.ones(2, np.float32)}], threads=1)
    assert seen == [onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED]


def test_runner_reports_a_crash(tmp_path, monkeypatch):
    crash = tmp_path / "crash.sh"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crash))
    with pytest.raises(ExportError, match=r"exit code -11 \(SIGSEGV: it crashed\)"):
        run_graph(tmp_path / "model.onnx", [], threads=1)


def test_runner_ends_a_process_that_hangs(tmp_path, monkeypatch):
    hang = tmp_path / "hang.sh"
    hang.write_text("#!/bin/sh\nexec sleep 30\n")
    hang.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hang))
    with pytest.raises(ExportError, match=r"longer than 0\.2 s"):
        run_graph(tmp_path / "model.onnx", [], timeout_s=0.2)


def test_runner_loads_neither_torch_nor_onnx():
    """It also runs on devices, where neither is installed."""
    code = "import sys, progeo_export.ort_runner; sys.exit(bool({'torch', 'onnx', 'progeo_train'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
