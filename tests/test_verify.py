from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest

from progeo_edge.bundle import MANIFEST_NAME, Precision, Preprocess
from progeo_edge.encoders.engine_session import EngineSession
from progeo_edge.encoders.onnx import OnnxEncoder
from progeo_edge.encoders.tensorrt import TensorRTEncoder
from progeo_edge.errors import ModelError
from progeo_edge.graph_file import file_sha256
from progeo_edge.verify import FIGURES, Verdict, count_rank_changes, verify_bundle
from tests.encoders.tensorrt_bundle import run_graph, write_golden, write_golden_bundle
from tests.encoders.trt_fixtures import Machine, make_machine, open_and_close, plans
from tests.tiny_encoder import (
    FOREIGN_PREPROCESS,
    HEIGHT_PX,
    WIDTH_PX,
    edit_manifest,
    replace_graph,
    tiny_graph,
    write_tiny_bundle,
    write_tiny_foreign,
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_golden_bundle(tmp_path / "bundle")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return make_machine(monkeypatch, tmp_path / "user-cache")


def values(verdict: Verdict) -> dict[str, float]:
    return {figure.name: figure.value for figure in verdict.figures}


def failed(verdict: Verdict) -> set[str]:
    return {figure.name for figure in verdict.figures if not figure.ok}


def golden_of(bundle: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with np.load(bundle / "golden.npz", allow_pickle=False) as arrays:
        return arrays["images"], arrays["descriptors"]


def set_limits(bundle: Path, precision: str, **limits: float) -> None:
    edit_manifest(bundle, lambda manifest: manifest["tolerances"].update({precision: limits}))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_sound_bundle_is_proven(precision: Precision, bundle: Path):
    verdict = verify_bundle(bundle, backend="onnx", precision=precision)
    assert verdict.ok and verdict.problems == ()
    assert verdict.precision == precision and verdict.backend is not None
    assert verdict.backend.endswith(f"CPUExecutionProvider, {precision}")
    assert (verdict.model, verdict.num_files, verdict.num_images) == ("tiny", 3, 3)
    assert list(values(verdict)) == list(FIGURES)
    assert values(verdict)["nan_count"] == values(verdict)["rank_changes"] == 0


def test_figures_equal_an_independent_computation(bundle: Path):
    images, stored = golden_of(bundle)
    found = run_graph(bundle / "model.fp16.onnx", images).astype(np.float64)
    exact = stored.astype(np.float64)
    cosines = [float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(exact, found, strict=True)]
    between = [float(exact[i] @ exact[j]) for i in range(3) for j in range(3) if i != j]
    measured = values(verify_bundle(bundle, backend="onnx", precision="fp16"))
    assert measured["min_cosine"] == pytest.approx(min(cosines), abs=1e-9)
    assert measured["max_abs_difference"] == pytest.approx(np.abs(exact - found).max(), abs=1e-7)
    loss = [(1 - cosine) / (1 - float(np.mean(between))) for cosine in cosines]
    assert measured["interplace_loss_max"] == pytest.approx(max(loss), abs=1e-9)
    assert measured["interplace_loss_mean"] == pytest.approx(np.mean(loss), abs=1e-9)


def test_altered_golden_outputs(bundle: Path):
    images, stored = golden_of(bundle)
    write_golden(bundle, images, np.roll(stored, 1, axis=0))
    verdict = verify_bundle(bundle, backend="onnx")
    assert not verdict.ok and "min_cosine" in failed(verdict)
    assert verdict.problems[0].startswith("min_cosine (smallest cosine between a descriptor and the stored one) is ")
    assert verdict.problems[0].endswith("the limit is at least 0.99999")


@pytest.mark.parametrize("name", ["golden.npz", "model.onnx", "model.fp16.onnx"])
@pytest.mark.parametrize("how", ["altered", "missing"])
def test_a_file_that_is_not_the_exported_one_is_named_and_nothing_is_run(
    name: str, how: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    path = bundle / name
    if how == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    verdict = verify_bundle(bundle)
    assert len(verdict.problems) == 1 and name in verdict.problems[0]
    assert ("was altered or damaged" if how == "altered" else "is missing") in verdict.problems[0]
    assert not verdict.ok and verdict.figures == () and verdict.backend is None


def test_another_graph_with_its_hash_stated(bundle: Path):
    replace_graph(bundle, tiny_graph(seed=1))
    verdict = verify_bundle(bundle, backend="onnx")
    assert "min_cosine" in failed(verdict) and "the limit is at least 0.99999" in verdict.problems[0]


def test_the_limits_of_the_manifest_count(bundle: Path):
    set_limits(bundle, "fp16", min_cosine=0.9, max_abs_difference=1e-9)
    verdict = verify_bundle(bundle, backend="onnx", precision="fp16")
    assert failed(verdict) == {"max_abs_difference"}
    assert verdict.problems[0].endswith("the limit is at most 1e-09")
    set_limits(bundle, "fp16", min_cosine=0.9, max_abs_difference=1e-2)
    assert verify_bundle(bundle, backend="onnx", precision="fp16").ok


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_manifest_that_states_no_accuracy_still_has_limits(precision: Precision, bundle: Path):
    edit_manifest(bundle, lambda manifest: manifest.update(tolerances={precision: {"recall_at_1_drop": 0.0}}))
    verdict = verify_bundle(bundle, backend="onnx", precision=precision)
    limited = {figure.name for figure in verdict.figures if figure.bound is not None}
    assert verdict.ok and limited - {"rank_changes", "max_norm_error", "nan_count"}
    images, stored = golden_of(bundle)
    write_golden(bundle, images, np.roll(stored, 1, axis=0))
    assert failed(verify_bundle(bundle, backend="onnx", precision=precision)) & {"min_cosine", "interplace_loss_mean"}


def test_the_encoder_is_closed_also_after_a_failure(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    closed: list[OnnxEncoder] = []
    monkeypatch.setattr(OnnxEncoder, "close", lambda encoder: closed.append(encoder))
    verify_bundle(bundle, backend="onnx")
    assert len(closed) == 1

    def fail(encoder: OnnxEncoder, images: Any) -> Any:
        raise ModelError("the device fell off the bus")

    monkeypatch.setattr(OnnxEncoder, "raw_descriptors", fail)
    with pytest.raises(ModelError, match="fell off the bus"):
        verify_bundle(bundle, backend="onnx")
    assert len(closed) == 2


@pytest.mark.parametrize("gain", [float("nan"), 1e30])
def test_a_graph_that_gives_nan(gain: float, bundle: Path):
    replace_graph(bundle, tiny_graph(gain=gain))
    verdict = verify_bundle(bundle, backend="onnx")
    assert len(verdict.problems) == 1 and "gave a descriptor of norm" in verdict.problems[0]


def test_nan_for_one_golden_image_is_counted(bundle: Path):
    """The image of noise with which a model is opened is fine; one of the golden images is not."""
    images, stored = golden_of(bundle)
    images[1] = 128
    write_golden(bundle, images, stored)
    model = tiny_graph()
    model.graph.node[-1].output[0] = "unit"
    nodes = onnx.helper
    # What is left of a flat image after centring is short.
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.4), "least"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(np.nan), "nan"))
    model.graph.node.append(nodes.make_node("Less", ["norm", "least"], ["flat_image"]))
    model.graph.node.append(nodes.make_node("Where", ["flat_image", "nan", "unit"], ["descriptor"]))
    replace_graph(bundle, model)
    verdict = verify_bundle(bundle, backend="onnx")
    assert values(verdict)["nan_count"] == 32
    assert failed(verdict) >= {"nan_count", "min_cosine", "rank_changes", "max_norm_error"}
    assert verdict.as_json()["figures"]["min_cosine"] == {"value": None, "at_least": 0.99999, "ok": False}


def test_rows_that_are_not_of_unit_norm(bundle: Path):
    model = tiny_graph()
    model.graph.node[-1].output[0] = "unit"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.5), "factor"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["unit", "factor"], ["descriptor"]))
    replace_graph(bundle, model)
    verdict = verify_bundle(bundle, backend="onnx")
    assert failed(verdict) == {"max_norm_error"}
    assert values(verdict)["max_norm_error"] == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rows_of_an_engine_that_are_not_of_unit_norm(precision: Precision, machine: Machine, bundle: Path):
    """The runtime scales rows, so only the engine's own output shows it."""
    graph = bundle / ("model.onnx" if precision == "fp32" else "model.fp16.onnx")
    model = onnx.load(graph)
    model.graph.node[-1].output[0] = "unit"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.5), "factor"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["unit", "factor"], ["descriptor"]))
    onnx.save(model, graph)
    edit_manifest(bundle, lambda manifest: manifest["files"].update({graph.name: file_sha256(graph)}))
    verdict = verify_bundle(bundle, backend="tensorrt", precision=precision)
    assert verdict.backend is not None and verdict.backend.startswith("TensorRT")
    assert failed(verdict) == {"max_norm_error"}
    assert values(verdict)["max_norm_error"] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    "edit", [{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, {"mean": None, "std": None}, {"color": "bgr"}]
)
@pytest.mark.parametrize("backend", ["onnx", "tensorrt"])
def test_wrong_statistics_with_their_hash_stated(
    edit: dict[str, Any], backend: Literal["onnx", "tensorrt"], machine: Machine, tmp_path: Path
):
    """An edited preprocessing is refused by its hash; one whose hash was made to fit is seen by the golden images."""
    bundle = write_tiny_bundle(tmp_path / "float", preprocess=FOREIGN_PREPROCESS, dtype="float32")
    images = np.random.default_rng(1).integers(0, 256, (3, HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)
    write_golden(bundle, images, OnnxEncoder(bundle, threads=1).encode(list(images)))
    assert verify_bundle(bundle, backend=backend).ok
    edit_manifest(bundle, lambda manifest: manifest["preprocess"].update(edit))
    with pytest.raises(ModelError, match=r"preprocess_hash is .* export the bundle again instead of editing it"):
        verify_bundle(bundle, backend=backend)
    stated = json.loads((bundle / MANIFEST_NAME).read_text())["preprocess"]
    other = Preprocess.model_validate_json(json.dumps(stated))
    edit_manifest(bundle, lambda manifest: manifest.update(preprocess_hash=other.hash))
    verdict = verify_bundle(bundle, backend=backend)
    assert not verdict.ok and "min_cosine" in verdict.problems[0]


def test_rank_changes_by_hand():
    stored = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)
    assert count_rank_changes(stored, stored, 0.0) == 0
    swapped = stored[[0, 2, 1, 3]]
    assert count_rank_changes(stored, swapped, 0.0) == 4
    # Each image sees one pair of the others in another order, and the cosines of that pair are 0.8 and 0.6.
    assert count_rank_changes(stored, swapped, 0.19) == 4
    assert count_rank_changes(stored, swapped, 0.21) == 0
    broken = stored.copy()
    broken[3] = np.nan
    assert count_rank_changes(stored, broken, 0.5) == 4


@pytest.mark.parametrize(
    ("precision", "distance", "changes"),
    [("fp32", 3e-3, 3), ("fp32", 1.5e-3, 1), ("fp32", 9e-4, 0), ("fp16", 3e-2, 3), ("fp16", 9e-3, 0)],
)
def test_how_near_neighbours_may_be_to_change_places(
    precision: Precision, distance: float, changes: int, bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two neighbours change places; one image sees them at twice `distance`, as a share of the mean distance."""
    images, _ = golden_of(bundle)
    mean = 0.5
    cosines = np.full((3, 3), 1 - mean) + np.eye(3) * mean
    cosines[0, 1] = cosines[1, 0] = 1 - mean + distance * mean
    cosines[0, 2] = cosines[2, 0] = 1 - mean - distance * mean
    stored = np.zeros((3, 32), np.float32)
    stored[:, :3] = np.linalg.cholesky(cosines)
    write_golden(bundle, images, stored)
    monkeypatch.setattr(OnnxEncoder, "raw_descriptors", lambda encoder, images: stored[[0, 2, 1]])
    verdict = verify_bundle(bundle, backend="onnx", precision=precision)
    assert values(verdict)["rank_changes"] == changes


def test_tensorrt_builds_and_is_named(machine: Machine, bundle: Path):
    verdict = verify_bundle(bundle, backend="tensorrt")
    assert verdict.ok and verdict.backend == f"TensorRT 10.3.0, {machine.cuda.name}, fp16"
    assert len(plans(bundle)) == 1
    assert verify_bundle(bundle).backend == verdict.backend
    assert len(machine.trt.builds) == 1
    machine.assert_all_freed()


def test_an_engine_that_disagrees(machine: Machine, bundle: Path):
    machine.trt.miscompile = 0.5
    verdict = verify_bundle(bundle, backend="tensorrt")
    assert not verdict.ok and len(verdict.problems) == 1
    assert "engine" in verdict.problems[0] and "does not give the descriptors" in verdict.problems[0]
    assert plans(bundle) == []


def test_auto_without_an_engine_proves_onnx_runtime(machine: Machine, bundle: Path):
    backend = verify_bundle(bundle).backend
    assert backend is not None and backend.startswith("ONNX Runtime")
    assert machine.trt.builds == []


def test_an_engine_that_gives_nan_only_when_it_is_run_again(
    machine: Machine, bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    open_and_close(bundle)

    def broken(encoder: TensorRTEncoder, images: Any) -> Any:
        return np.full((len(images), 32), np.nan, np.float32)

    monkeypatch.setattr(TensorRTEncoder, "raw_descriptors", broken)
    verdict = verify_bundle(bundle)
    assert values(verdict)["nan_count"] == 32 * len(golden_of(bundle)[0])
    assert failed(verdict) >= {"nan_count", "max_norm_error"}


def test_norms_of_an_engine_are_measured_before_they_are_scaled(
    machine: Machine, bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    run = EngineSession.run
    monkeypatch.setattr(EngineSession, "run", lambda session, batch: 1.5 * run(session, batch))
    verdict = verify_bundle(bundle, backend="tensorrt")
    assert failed(verdict) == {"max_norm_error"}
    assert values(verdict)["max_norm_error"] == pytest.approx(0.5, abs=1e-5)


def write_plain(folder: Path) -> Path:
    folder.mkdir()
    return folder


def without_golden(folder: Path) -> Path:
    write_tiny_bundle(folder)
    edit_manifest(folder, lambda manifest: manifest.update(golden=None))
    return folder


def one_image(folder: Path) -> Path:
    write_golden_bundle(folder)
    images, stored = golden_of(folder)
    write_golden(folder, images[:1], stored[:1])
    return folder


def pickled(folder: Path) -> Path:
    write_golden_bundle(folder)
    np.savez(folder / "golden.npz", images=np.array([{"a": 1}], dtype=object), descriptors=golden_of(folder)[1])
    edit_manifest(folder, lambda manifest: manifest["files"].update({"golden.npz": file_sha256(folder / "golden.npz")}))
    return folder


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (write_tiny_foreign, "is no bundle folder, so it has no golden images"),
        (lambda folder: Path("vlad"), "is no bundle folder"),
        (write_plain, r"has no manifest\.json, so it is no bundle"),
        (without_golden, "has no golden images to compare with"),
        (write_tiny_bundle, r"golden images .* cannot be read: .*descriptors"),
        (one_image, "are 1, two are needed"),
        (pickled, r"cannot be read: Object arrays cannot be loaded when allow_pickle=False"),
    ],
)
def test_what_cannot_be_verified(make: Any, reason: str, tmp_path: Path):
    with pytest.raises(ModelError, match=reason):
        verify_bundle(make(tmp_path / "model"))


def test_choices_that_are_not_there(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ModelError, match="backend 'onxx' is unknown; did you mean 'onnx'"):
        verify_bundle(bundle, backend="onxx")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="holds no int8 graph"):
        verify_bundle(bundle, backend="onnx", precision="int8")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ModelError, match=r"(tensorrt|pycuda) cannot be imported"):
        verify_bundle(bundle, backend="tensorrt")
