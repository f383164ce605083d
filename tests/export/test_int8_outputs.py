"""INT8 for CPUs: ONNX Runtime takes its integer kernels, and next to nothing of the descriptors is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from progeo_edge.parity import cosines
from progeo_edge.preprocess import to_model_input
from progeo_edge.types import Image
from progeo_export.int8 import quantise
from progeo_export.int8_outputs import close_outputs, find_open_outputs, measure_peaks
from tests.export.conv_graph import BLOCK, HEAD, PREPROCESS, SIZE_PX, STEM, conv_graph, write_conv_graph

ort = pytest.importorskip("onnxruntime")


def pictures(count: int, seed: int = 0) -> list[Image]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3)).repeat(SIZE_PX // 4, axis=1).repeat(SIZE_PX // 4, axis=2)
    return list(np.clip(coarse + rng.normal(0, 8, coarse.shape), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    found = {"fp32": write_conv_graph(folder / "fp32.onnx")}
    for target in ("tensorrt", "cpu"):
        found[target] = folder / f"{target}.onnx"
        quantise(found["fp32"], pictures(120), PREPROCESS, found[target], target=target, threads=1)
    return found


def run(path: Path, optimised: Path | None = None) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": to_model_input(pictures(20, seed=1), PREPROCESS)})[0])


def test_onnx_runtime_takes_integer_kernels_for_the_cpu_graph_alone(graphs: dict[str, Path], tmp_path: Path) -> None:
    kernels = {}
    for target in ("tensorrt", "cpu"):
        run(graphs[target], tmp_path / "optimised.onnx")
        kernels[target] = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert kernels["cpu"]["QLinearConv"] == len(BLOCK)
    assert kernels["tensorrt"]["QLinearConv"] == 0, "then one graph would do for both"


def test_it_describes_as_the_other_does(graphs: dict[str, Path]) -> None:
    exact, plain, closed = run(graphs["fp32"]), run(graphs["tensorrt"]), run(graphs["cpu"])
    assert np.any(plain != closed)
    lost = 1 - cosines(exact, plain).min()
    assert 1 - cosines(exact, closed).min() < 1.5 * lost + 1e-5


def test_a_pair_before_a_relu_that_is_quantised_changes_nothing(graphs: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(graphs["tensorrt"])
    outputs = find_open_outputs(model, frozenset(BLOCK))
    assert [(one.tensor, one.measured, one.scale is None) for one in outputs] == [
        ("c1", "c1_relu", False),
        ("c2", "c2", True),
    ]
    close_outputs(model, outputs[:1], {})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "first.onnx")
    # In integer kernels the same sums are rounded from another arithmetic: now and then by one code.
    np.testing.assert_allclose(run(tmp_path / "first.onnx"), run(graphs["tensorrt"]), atol=2e-3)


def test_zero_points_are_zero_and_names_are_unique(graphs: dict[str, Path]) -> None:
    model = onnx.load(graphs["cpu"])
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) == 2 * 2 * len(BLOCK) + len(BLOCK), "two pairs per convolution, and its weights"
    assert all(not constants[node.input[2]].any() and constants[node.input[2]].dtype == np.int8 for node in pairs)
    names = [node.name for node in model.graph.node]
    assert len(names) == len(set(names))


def test_ranges_are_the_largest_magnitudes(graphs: dict[str, Path]) -> None:
    inputs = to_model_input(pictures(70), PREPROCESS)
    found = measure_peaks(graphs["fp32"], ["c2", "c1_relu"], inputs, "image")
    model = onnx.load(graphs["fp32"])
    del model.graph.output[:]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("c2", "c1_relu")
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    # Of 70 images every second one is looked at.
    expected = session.run(None, {"image": inputs[::2]})
    assert found == pytest.approx({"c2": np.abs(expected[0]).max(), "c1_relu": expected[1].max()}, rel=1e-5)
    scales = {item.name: numpy_helper.to_array(item) for item in onnx.load(graphs["cpu"]).graph.initializer}
    peak = measure_peaks(graphs["fp32"], ["c2"], to_model_input(pictures(120), PREPROCESS), "image")["c2"]
    assert scales["int8_output/1/scale"] == pytest.approx(peak / 127, rel=1e-5)


def test_of_the_stem_the_first_convolution_alone_stays_fp32_for_cpus(tmp_path: Path) -> None:
    model = conv_graph()
    nodes = list(model.graph.node)
    first = next(place for place, node in enumerate(nodes) if node.name == STEM[0])
    weights = np.random.default_rng(0).normal(0, 0.1, (12, 12, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "deeper"))
    nodes[first + 1].input[0] = "deeper_out"
    nodes.insert(first + 1, onnx.helper.make_node("Conv", ["s", "deeper"], ["deeper_out"], name="/trunk/conv2"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "fp32.onnx")
    kept = {
        target: quantise(
            tmp_path / "fp32.onnx", pictures(100), PREPROCESS, tmp_path / "int8.onnx", target=target, threads=1
        ).kept
        for target in ("tensorrt", "cpu")
    }
    assert kept == {"tensorrt": (*STEM, "/trunk/conv2", *HEAD), "cpu": (*STEM, *HEAD)}


def test_nothing_to_measure_runs_nothing(tmp_path: Path) -> None:
    assert measure_peaks(tmp_path / "missing.onnx", [], np.zeros((1, 1)), "image") == {}
