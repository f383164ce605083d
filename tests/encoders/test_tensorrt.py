from __future__ import annotations

import gc
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from progeo_edge.encoders import Encoder, cuda
from progeo_edge.encoders.engine_session import EngineSession
from progeo_edge.encoders.onnx import OnnxEncoder
from progeo_edge.encoders.tensorrt import TensorRTEncoder
from progeo_edge.errors import InputError, ModelError
from tests.encoders.tensorrt_bundle import run_graph, write_golden, write_golden_bundle
from tests.encoders.trt_fixtures import Machine, frames, make_machine, open_and_close, plans
from tests.tiny_encoder import (
    FOREIGN_PREPROCESS,
    HEIGHT_PX,
    WIDTH_PX,
    edit_manifest,
    replace_graph,
    write_tiny_bundle,
)

VERSIONS = ("8.6.1", "10.3.0", "10.13.3.9", "10.16.1.11", "11.0.0.114", "11.4.0.106")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return make_machine(monkeypatch, tmp_path / "user-cache")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_golden_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("version", VERSIONS)
def test_end_to_end_on_every_version(version: str, machine: Machine, bundle: Path):
    machine.install(version)
    expected = run_graph(bundle / "model.onnx", np.stack(frames(20)))
    with TensorRTEncoder(bundle, precision="fp32") as encoder:
        found = encoder.encode(frames(20))
        as_protocol: Encoder = encoder
        assert as_protocol.spec == OnnxEncoder(bundle, precision="fp32", threads=1).spec
    assert found.dtype == np.float32 and found.shape == (20, 32)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    machine.assert_all_freed()


def test_raw_descriptors_are_neither_checked_nor_scaled(
    machine: Machine, bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    """More images than one batch, one row NaN, none of unit norm: `encode` refuses what this shows."""
    run = EngineSession.run
    with TensorRTEncoder(bundle, precision="fp32") as encoder:
        expected = encoder.encode(frames(20))
        monkeypatch.setattr(EngineSession, "run", lambda session, batch: np.float32(1.5) * run(session, batch))
        found = encoder.raw_descriptors(frames(20))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, 1.5 * expected, atol=1e-6)
        np.testing.assert_allclose(encoder.encode(frames(20)), expected, atol=1e-6)
        monkeypatch.setattr(EngineSession, "run", lambda session, batch: np.float32(np.nan) * run(session, batch))
        assert np.isnan(encoder.raw_descriptors(frames(2))).all()
        with pytest.raises(ModelError, match="norm nan"):
            encoder.encode(frames(2))
    with pytest.raises(ModelError, match="was closed"):
        encoder.raw_descriptors(frames(1))


@pytest.mark.parametrize("zero_copy", [False, True])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_graphs_and_zero_copy_give_the_same_numbers(cuda_graph: bool, zero_copy: bool, machine: Machine, bundle: Path):
    expected = run_graph(bundle / "model.onnx", np.stack(frames(20)))
    with TensorRTEncoder(bundle, "fp32", cuda_graph=cuda_graph, zero_copy=zero_copy) as encoder:
        for _ in range(2):
            np.testing.assert_allclose(encoder.encode(frames(20)), expected, atol=1e-6)
        assert machine.cuda.alive().get("DeviceAllocation", 0) == (0 if zero_copy else 2)
        assert bool(machine.cuda.graph_launches) == cuda_graph
    machine.assert_all_freed()


@pytest.mark.parametrize(
    ("call", "status"), [("cuStreamEndCapture", 900), ("cuGraphInstantiateWithFlags", 2)], ids=["end", "instantiate"]
)
def test_a_graph_that_cannot_be_recorded_costs_only_speed(
    call: str, status: int, machine: Machine, bundle: Path, caplog: pytest.LogCaptureFixture
):
    machine.cuda.fail_at = {call}
    with TensorRTEncoder(bundle, cuda_graph=True) as encoder:
        first = encoder.encode(frames(2))
        np.testing.assert_array_equal(encoder.encode(frames(2)), first)
    assert f"no CUDA graph: {call} failed with CUDA error {status}" in caplog.text
    assert machine.cuda.graph_launches == 0
    machine.assert_all_freed()


def test_a_copy_that_cannot_be_recorded_costs_only_speed(
    machine: Machine, bundle: Path, caplog: pytest.LogCaptureFixture
):
    machine.cuda.fail_at = {"a copy while recording"}
    with TensorRTEncoder(bundle, cuda_graph=True) as encoder:
        for count in (1, 2, 3):
            assert encoder.encode(frames(count)).shape == (count, 32)
    assert "no CUDA graph: CUDA failed: cuMemcpyHtoDAsync failed: operation not permitted" in caplog.text
    assert caplog.text.count("no CUDA graph") == 1, "it is not tried again"
    gc.collect()
    machine.assert_all_freed()


@pytest.mark.parametrize("integrated", [0, 1])
def test_zero_copy_on_a_gpu_with_its_own_memory_warns(
    integrated: int, machine: Machine, bundle: Path, caplog: pytest.LogCaptureFixture
):
    machine.cuda.integrated = integrated
    open_and_close(bundle, zero_copy=True)
    assert ("zero_copy on Fake Orin, which has its own memory" in caplog.text) == (not integrated)


def test_float_planes_as_input(machine: Machine, tmp_path: Path):
    folder = write_tiny_bundle(tmp_path / "float", preprocess=FOREIGN_PREPROCESS, dtype="float32")
    reference = OnnxEncoder(folder, threads=1)
    write_golden(folder, np.stack(frames(3)), reference.encode(frames(3)))
    with TensorRTEncoder(folder) as encoder:
        np.testing.assert_allclose(encoder.encode(frames(9)), reference.encode(frames(9)), atol=1e-6)


def test_images_of_any_size_and_no_image(machine: Machine, bundle: Path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (90, 33, 3), dtype=np.uint8), rng.integers(0, 256, (10, 400), dtype=np.uint8)]
    with TensorRTEncoder(bundle, "fp32") as encoder:
        np.testing.assert_allclose(encoder.encode(images), OnnxEncoder(bundle, threads=1).encode(images), atol=1e-6)
        assert encoder.encode([]).shape == (0, 32)
        with pytest.raises(InputError, match="float64"):
            encoder.encode([np.zeros((4, 4))])  # type: ignore[list-item]


@pytest.mark.parametrize("max_batch", [1, 2, 16])
def test_a_batch_above_the_profile_is_split(max_batch: int, machine: Machine, bundle: Path):
    with TensorRTEncoder(bundle, "fp32", max_batch=max_batch) as encoder:
        found = encoder.encode(frames(17))
    np.testing.assert_allclose(found, run_graph(bundle / "model.onnx", np.stack(frames(17))), atol=1e-6)
    assert machine.trt.builds[0]["profile"]["image"] == (
        (1, HEIGHT_PX, WIDTH_PX, 3),
        (1, HEIGHT_PX, WIDTH_PX, 3),
        (max_batch, HEIGHT_PX, WIDTH_PX, 3),
    )


def test_max_batch_of_the_manifest(machine: Machine, bundle: Path):
    edit_manifest(bundle, lambda values: values.update(max_batch=3))
    open_and_close(bundle)
    assert machine.trt.builds[0]["profile"]["image"][2][0] == 3


def test_the_output_is_a_copy(machine: Machine, bundle: Path):
    with TensorRTEncoder(bundle) as encoder:
        first = encoder.encode(frames(2))
        kept = first.copy()
        raw = encoder._session.run(np.stack(frames(2)))
        raw_kept = raw.copy()
        encoder.encode(frames(2, seed=9))
        np.testing.assert_array_equal(raw, raw_kept)
    np.testing.assert_array_equal(first, kept)


def test_raw_descriptors_are_what_the_engine_gives(machine: Machine, tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path / "raw", extra_output=True)
    model = onnx.load(bundle / "model.onnx")
    del model.graph.output[0]  # the norm is left out
    replace_graph(bundle, model)
    edit_manifest(bundle, lambda values: values.update(output_name="projected"))
    reference = OnnxEncoder(bundle, threads=1)
    write_golden(bundle, np.stack(frames(3)), reference.encode(frames(3)))
    with TensorRTEncoder(bundle, max_batch=4) as encoder:
        raw, unit = encoder.raw_descriptors(frames(9)), encoder.encode(frames(9))
    np.testing.assert_allclose(raw, reference.raw_descriptors(frames(9)), rtol=1e-5, atol=1e-6)
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).min() > 0.01
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)


def test_wrong_shapes_are_refused_before_they_reach_the_gpu(machine: Machine, bundle: Path):
    with TensorRTEncoder(bundle) as encoder:
        session = encoder._session
        for shape in ((1, HEIGHT_PX, WIDTH_PX + 1, 3), (9, HEIGHT_PX, WIDTH_PX, 3), (0, HEIGHT_PX, WIDTH_PX, 3)):
            with pytest.raises(ModelError, match="takes 1 to 8 images of shape"):
                session.run(np.zeros(shape, np.uint8))


def test_a_closed_engine_says_so(machine: Machine, bundle: Path):
    encoder = TensorRTEncoder(bundle)
    session = encoder._session
    encoder.close()
    session.close()
    assert not session.is_open
    with pytest.raises(ModelError, match="the engine was closed"):
        session.run(np.stack(frames(1)))


def test_many_threads_and_two_encoders(machine: Machine, bundle: Path, tmp_path: Path):
    other = write_golden_bundle(tmp_path / "other", seed=5)
    expected = {path: run_graph(path / "model.onnx", np.stack(frames(8))) for path in (bundle, other)}
    with TensorRTEncoder(bundle, "fp32") as a, TensorRTEncoder(other, "fp32") as b, ThreadPoolExecutor(4) as pool:
        jobs = [
            (path, index, pool.submit(encoder.encode, frames(8)[index : index + 2]))
            for _ in range(10)
            for path, encoder in ((bundle, a), (other, b))
            for index in range(6)
        ]
        for path, index, job in jobs:
            np.testing.assert_allclose(job.result(), expected[path][index : index + 2], atol=1e-6)
    machine.assert_all_freed()


def test_opened_in_one_thread_closed_in_another(machine: Machine, bundle: Path):
    opened: list[TensorRTEncoder] = []
    thread = threading.Thread(target=lambda: opened.append(TensorRTEncoder(bundle)))
    thread.start()
    thread.join()
    opened[0].encode(frames(1))
    opened[0].close()
    opened[0].close()
    machine.assert_all_freed()
    with pytest.raises(ModelError, match="was closed; open it again"):
        opened.pop().encode(frames(1))


def test_200_times_without_a_leak(machine: Machine, bundle: Path):
    for _ in range(200):
        open_and_close(bundle)
        machine.assert_all_freed()
    assert len(machine.trt.builds) == 1


def test_a_damaged_graph_that_only_names_the_model_is_refused_before_a_build(machine: Machine, bundle: Path):
    """Without a checkpoint's hash the FP32 graph names the model, also of an FP16 engine."""
    edit_manifest(bundle, lambda values: values.update(checkpoint_sha256=None))
    open_and_close(bundle)
    (bundle / "model.onnx").write_bytes(b"damaged")
    for folder in (bundle / "engines").iterdir():
        folder.unlink()
    with pytest.raises(ModelError, match=r"model\.onnx was altered or damaged"):
        TensorRTEncoder(bundle)
    assert len(machine.trt.builds) == 1
    machine.assert_all_freed()


def test_an_encoder_that_is_forgotten_frees_its_memory(machine: Machine, bundle: Path):
    encoder = TensorRTEncoder(bundle)
    encoder.encode(frames(1))
    del encoder
    gc.collect()
    machine.assert_all_freed()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("Builder", "builder did not start"),
        ("create_network", "no network was made"),
        ("create_builder_config", "no builder configuration"),
        ("create_optimization_profile", "no optimization profile"),
        ("add_optimization_profile", "does not accept batches of 1 to 8"),
        ("build_serialized_network", "could not build .*model.fp16.onnx.*free memory on the device"),
        ("Runtime", "runtime did not start"),
        ("deserialize_cuda_engine", "cannot load the engine"),
        ("create_execution_context", r"made no execution context, which needs 1 MB"),
        ("set_tensor_address", "refused the memory of tensor 'image'"),
        ("set_input_shape", r"refused the shape \(3, 48, 64, 3\)"),
        ("execute_async_v3", "did not run a batch"),
    ],
)
def test_every_call_that_fails_raises_with_tensorrt_s_own_words(call: str, words: str, machine: Machine, bundle: Path):
    machine.trt.fail_at = {call}
    with pytest.raises(ModelError, match=words) as caught:
        TensorRTEncoder(bundle)
    if call not in ("Builder", "Runtime"):
        assert f"TensorRT says: [fake.cpp::{call}] Error Code 3: it failed as the test asked" in str(caught.value)
    del caught
    gc.collect()
    machine.assert_all_freed()
    assert plans(bundle) == []


@pytest.mark.parametrize(
    ("call", "words"), [("parse_from_file", "does not accept.*No importer"), ("set_shape", "order")]
)
def test_calls_that_give_their_reason_otherwise(call: str, words: str, machine: Machine, bundle: Path):
    machine.trt.fail_at = {call}
    with pytest.raises(ModelError, match=words):
        TensorRTEncoder(bundle)


@pytest.mark.parametrize("call", ["cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuMemGetInfo"])
def test_cuda_errors_while_opening_leave_nothing_behind(call: str, machine: Machine, bundle: Path):
    machine.cuda.fail_at = {call}
    with pytest.raises(ModelError, match=f"CUDA failed: {call} failed"):
        TensorRTEncoder(bundle)
    gc.collect()
    machine.assert_all_freed()


def test_a_cuda_error_while_running_and_life_after_it(machine: Machine, bundle: Path):
    with TensorRTEncoder(bundle) as encoder:
        machine.cuda.fail_at = {"cuMemcpyDtoHAsync"}
        with pytest.raises(ModelError, match="CUDA failed: cuMemcpyDtoHAsync"):
            encoder.encode(frames(1))
        machine.cuda.fail_at = set()
        assert encoder.encode(frames(1)).shape == (1, 32)
    machine.assert_all_freed()


def test_too_little_memory(machine: Machine, bundle: Path, caplog: pytest.LogCaptureFixture):
    machine.cuda.memory_bytes = 60_000
    with pytest.raises(ModelError, match=r"too little free memory.*smaller max_batch"):
        TensorRTEncoder(bundle)
    assert "the engine needs 1 MB of GPU memory, 0 MB are free" in caplog.text
    gc.collect()
    machine.assert_all_freed()


def test_nan_is_refused(machine: Machine, bundle: Path):
    with TensorRTEncoder(bundle, "fp32") as encoder:
        machine.trt.miscompile_at_load = float("nan")
        with pytest.raises(ModelError, match="norm nan for image 0"):
            encoder.encode(frames(1))


def test_without_tensorrt_without_pycuda_without_gpu(
    machine: Machine, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with pytest.raises(ModelError, match="GPU 3 cannot be used: cuDeviceGet failed"):
        TensorRTEncoder(bundle, gpu_index=3)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ModelError, match=r"tensorrt cannot be imported.*--system-site-packages"):
        TensorRTEncoder(bundle)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    cuda.open_once.cache_clear()
    with pytest.raises(ModelError, match=r"pycuda cannot be imported.*progeo-edge\[tensorrt\]"):
        TensorRTEncoder(bundle)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch": -1}, "max_batch is -1"),
        ({"optimization_level": 6}, "expected 0 to 5"),
        ({"workspace_bytes": 0}, "workspace_bytes is 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str, machine: Machine, bundle: Path):
    with pytest.raises(ModelError, match=words):
        TensorRTEncoder(bundle, **options)


def test_only_bundles_with_golden_images_are_taken(machine: Machine, bundle: Path, tmp_path: Path):
    with pytest.raises(ModelError, match=r"no bundle; TensorRT needs one.*ONNX Runtime"):
        TensorRTEncoder(bundle / "model.onnx")
    edit_manifest(bundle, lambda values: values.update(golden=None))
    with pytest.raises(ModelError, match="has no golden images, so an engine could not be checked"):
        TensorRTEncoder(bundle)
    only_images = write_tiny_bundle(tmp_path / "old")
    with pytest.raises(ModelError, match=r"golden images .* cannot be read"):
        TensorRTEncoder(only_images)


def test_half_is_preferred_and_named(machine: Machine, bundle: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    with TensorRTEncoder(bundle) as encoder:
        assert encoder.precision == "fp16"
    assert "building the fp16 engine" in caplog.text and "golden images agree: min cosine 1.000000" in caplog.text


def test_an_engine_that_disagrees_is_refused(machine: Machine, bundle: Path):
    machine.trt.miscompile = 0.3
    with pytest.raises(ModelError, match=r"fp16 engine .* was deleted: .*interplace_loss_mean is .*at most 0.02"):
        TensorRTEncoder(bundle)
    with pytest.raises(ModelError, match=r"fp32 engine .* was deleted: .*min_cosine is 0\.\d+, the limit is at least"):
        TensorRTEncoder(bundle, "fp32")
    assert plans(bundle) == []
    gc.collect()
    machine.assert_all_freed()


def test_nan_from_an_engine_is_a_disagreement(machine: Machine, bundle: Path):
    machine.trt.miscompile = float("nan")
    with pytest.raises(ModelError, match="min_cosine is nan"):
        TensorRTEncoder(bundle, "fp32")


def test_a_fallback_is_tried_only_when_allowed(machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    bundle = write_golden_bundle(tmp_path / "b", manifest={"tolerances": {"fp16": {"min_cosine": 1.1}}})
    with pytest.raises(ModelError, match=r"limit is at least 1\.1"):
        TensorRTEncoder(bundle)
    with TensorRTEncoder(bundle, allow_fallback=True) as encoder:
        assert encoder.precision == "fp32"
    assert "trying fp32, as was allowed" in caplog.text


def test_golden_outputs_that_were_altered(machine: Machine, bundle: Path):
    open_and_close(bundle)
    with np.load(bundle / "golden.npz") as golden:
        images, descriptors = golden["images"], golden["descriptors"]
    (bundle / "golden.npz").write_bytes((bundle / "golden.npz").read_bytes() + b" ")
    with pytest.raises(ModelError, match=r"golden\.npz was altered or damaged"):
        TensorRTEncoder(bundle)
    write_golden(bundle, images, np.roll(descriptors, 1, axis=0))
    with pytest.raises(ModelError, match="does not give the descriptors that the bundle was exported with"):
        TensorRTEncoder(bundle)


class _LeavesATrace:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_golden_file_cannot_run_code(machine: Machine, bundle: Path, tmp_path: Path):
    trap = np.array([_LeavesATrace(tmp_path / "trace")], dtype=object)
    write_golden(bundle, trap, np.zeros((1, 32), np.float32))
    with pytest.raises(ModelError, match="cannot be read"):
        TensorRTEncoder(bundle)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("images", "descriptors"),
    [
        (np.zeros((2, HEIGHT_PX, WIDTH_PX, 3), np.float32), np.ones((2, 32), np.float32)),
        (np.zeros((2, HEIGHT_PX, WIDTH_PX + 1, 3), np.uint8), np.ones((2, 32), np.float32)),
        (np.zeros((2, HEIGHT_PX, WIDTH_PX, 3), np.uint8), np.ones((2, 31), np.float32)),
        (np.zeros((2, HEIGHT_PX, WIDTH_PX, 3), np.uint8), np.ones((2, 32), np.float64)),
        (np.zeros((3, HEIGHT_PX, WIDTH_PX, 3), np.uint8), np.ones((2, 32), np.float32)),
    ],
)
def test_golden_arrays_that_do_not_fit(images: Any, descriptors: Any, machine: Machine, bundle: Path):
    write_golden(bundle, images, descriptors)
    with pytest.raises(ModelError, match=r"golden images .* hold"):
        TensorRTEncoder(bundle)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_golden_images_prove_nothing(count: int, machine: Machine, bundle: Path):
    """With one image there is no distance between places, so no limit of half precision could be judged."""
    machine.trt.miscompile = 0.3
    write_golden(bundle, np.stack(frames(2))[:count], np.eye(2, 32, dtype=np.float32)[:count])
    with pytest.raises(ModelError, match=f"golden images .* are {count}, two are needed"):
        TensorRTEncoder(bundle)


def test_a_manifest_that_limits_only_the_norm_still_refuses_a_wrong_engine(machine: Machine, tmp_path: Path):
    limits = {"fp16": {"max_norm_error": 10.0}, "fp32": {"recall_at_1_drop": 0.0}}
    bundle = write_golden_bundle(tmp_path / "b", manifest={"tolerances": limits})
    machine.trt.miscompile = 0.3
    with pytest.raises(ModelError, match=r"interplace_loss_mean is .*at most 0\.02"):
        TensorRTEncoder(bundle, "fp16")
    with pytest.raises(ModelError, match=r"min_cosine is .*at least 0\.9999"):
        TensorRTEncoder(bundle, "fp32")
    machine.trt.miscompile = 0.0
    open_and_close(bundle)
