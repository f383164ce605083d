from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from progeo_edge.bundle import Manifest, Precision, Preprocess, read_manifest
from progeo_edge.encoders import load_encoder
from progeo_edge.graph_file import check_file
from progeo_export import bundle_writer
from progeo_export.bundle_writer import BundleRecord, refuse_existing, tool_versions, write_bundle
from progeo_export.errors import ExportError
from progeo_export.gates import LIMITS
from progeo_export.probe_images import golden_inputs
from tests.export.probe_samples import small_probe
from tests.tiny_encoder import DIMENSION, TINY_PREPROCESS, tiny_graph

FIGURES: dict[Precision, dict[str, float]] = {
    "fp32": {"min_cosine": 0.9999999},
    "fp16": {"interplace_loss_mean": 0.001, "recall_at_1_drop": 0.0},
}
RECORD = BundleRecord(
    name="tiny",
    architecture="tiny-conv",
    preprocess=TINY_PREPROCESS,
    opset=18,
    checkpoint_sha256="0" * 64,
    max_batch=8,
    islands=("head/norm",),
    probe_images="rendered street, 8 places",
    notes=("node 'x' was kept in FP32: it reaches 70000",),
)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    paths: dict[Precision, Path] = {"fp32": folder / "a.onnx", "fp16": folder / "b.onnx"}
    for precision, path in paths.items():
        onnx.save(tiny_graph(half=precision == "fp16"), path)
    return paths


@pytest.fixture(scope="module")
def golden(graphs: dict[Precision, Path]) -> tuple[np.ndarray, np.ndarray]:
    ort = pytest.importorskip("onnxruntime")
    images = golden_inputs(small_probe(), TINY_PREPROCESS)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graphs["fp32"], options, providers=["CPUExecutionProvider"])
    return images, np.asarray(session.run(None, {"image": images})[0])


def write(
    folder: Path, graphs: dict[Precision, Path], golden: tuple[np.ndarray, np.ndarray], **options: Any
) -> Manifest:
    return write_bundle(folder, graphs, RECORD, FIGURES, *golden, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_is_read_back(
    tmp_path: Path, graphs: dict[Precision, Path], golden: tuple[np.ndarray, np.ndarray]
) -> None:
    folder = tmp_path / "deep" / "bundle"
    manifest = write(folder, graphs, golden)
    assert read_manifest(folder) == manifest
    assert manifest.dimension == DIMENSION
    assert manifest.graphs == {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}
    assert set(manifest.files) == {"model.onnx", "model.fp16.onnx", "golden.npz"}
    for name, sha256 in manifest.files.items():
        check_file(folder, name, sha256)
    assert manifest.parity == FIGURES
    assert manifest.tolerances["fp16"] == {limit.figure: limit.bound for limit in LIMITS["fp16"]}
    assert (manifest.islands, manifest.notes, manifest.max_batch) == (RECORD.islands, RECORD.notes, 8)
    assert (manifest.probe_images, manifest.opset) == ("rendered street, 8 places", 18)
    assert set(content(folder)) == {*manifest.files, "manifest.json"}
    assert list(folder.parent.iterdir()) == [folder]
    assert folder.stat().st_mode & 0o777 == 0o755, "other users, such as a robot's service, read it too"


def test_the_manifest_says_what_the_model_is(
    tmp_path: Path, graphs: dict[Precision, Path], golden: tuple[np.ndarray, np.ndarray]
) -> None:
    write(tmp_path / "bundle", graphs, golden)
    stated = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert (stated["schema_version"], stated["name"], stated["architecture"]) == (1, "tiny", "tiny-conv")
    assert stated["preprocess"] == TINY_PREPROCESS.model_dump(mode="json")
    assert stated["preprocess_hash"] == TINY_PREPROCESS.hash
    assert (stated["input_name"], stated["output_name"], stated["output_dtype"]) == ("image", "descriptor", "float32")
    assert stated["checkpoint_sha256"] == "0" * 64 and stated["golden"] == "golden.npz"
    assert stated["tool_versions"] == tool_versions()
    assert all(len(sha256) == 64 for sha256 in stated["files"].values())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_runtime_opens_it_and_finds_the_golden_descriptors(
    precision: Precision, tmp_path: Path, graphs: dict[Precision, Path], golden: tuple[np.ndarray, np.ndarray]
) -> None:
    write(tmp_path / "bundle", {precision: graphs[precision]}, golden)
    encoder = load_encoder(tmp_path / "bundle")
    descriptors = encoder.encode(list(golden[0]))
    encoder.close()
    np.testing.assert_allclose(descriptors, golden[1], atol=1e-5 if precision == "fp32" else 3e-3)


def test_golden_file_holds_plain_arrays_of_pictures(
    tmp_path: Path, graphs: dict[Precision, Path], golden: tuple[np.ndarray, np.ndarray]
) -> None:
    write(tmp_path / "bundle", graphs, golden)
    with np.load(tmp_path / "bundle" / "golden.npz", allow_pickle=False) as file:
        assert set(file.files) == {"images", "descriptors"}
        images, descriptors = file["images"], file["descriptors"]
    assert (images.dtype, images.shape) == (np.uint8, (8, 48, 64, 3))
    assert (descriptors.dtype, descriptors.shape) == (np.float32, (8, DIMENSION))
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-5)
    assert images.std(axis=(1, 2, 3)).min() > 20


def test_an_existing_bundle_needs_force(
    tmp_path: Path, graphs: dict[Precision, Path], golden: tuple[np.ndarray, np.ndarray]
) -> None:
    folder = tmp_path / "bundle"
    write(folder, graphs, golden)
    before = content(folder)
    with pytest.raises(ExportError, match=r"exists already.*--force"):
        write(folder, {"fp32": graphs["fp32"]}, golden)
    assert content(folder) == before
    write(folder, {"fp32": graphs["fp32"]}, golden, force=True)
    assert set(content(folder)) == {"model.onnx", "golden.npz", "manifest.json"}
    assert list(tmp_path.iterdir()) == [folder]


def test_only_a_bundle_is_ever_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"mine")
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    for name in ("photos", "file", "link"):
        with pytest.raises(ExportError, match="no bundle, so it is not replaced"):
            refuse_existing(tmp_path / name, force=True)
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty", force=False)


def test_an_empty_folder_is_taken(
    tmp_path: Path, graphs: dict[Precision, Path], golden: tuple[np.ndarray, np.ndarray]
) -> None:
    (tmp_path / "bundle").mkdir()
    write(tmp_path / "bundle", graphs, golden)
    read_manifest(tmp_path / "bundle")


@pytest.mark.parametrize("stage", ["copyfile", "file_sha256", "write_manifest", "_sync_tree", "rename"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_leaves_nothing_or_the_old_bundle(
    stage: str,
    exists: bool,
    tmp_path: Path,
    graphs: dict[Precision, Path],
    golden: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "bundle"
    if exists:
        write(folder, {"fp32": graphs["fp32"]}, golden)
    before = content(folder)

    def fail(*args: Any) -> None:
        raise OSError("no space left on device")

    def fail_into_place(path: Path, target: Path, rename: Any = Path.rename) -> Path:
        if target == folder and path.name != "old":
            fail()
        return rename(path, target)  # type: ignore[no-any-return]

    if stage == "copyfile":
        monkeypatch.setattr(shutil, stage, fail)
    elif stage == "rename":
        monkeypatch.setattr(Path, stage, fail_into_place)
    else:
        monkeypatch.setattr(bundle_writer, stage, fail)
    with pytest.raises(OSError, match="no space"):
        write(folder, graphs, golden, force=True)
    monkeypatch.undo()
    assert content(folder) == before
    assert list(tmp_path.iterdir()) == ([folder] if exists else [])


def test_a_killed_export_leaves_no_bundle_and_the_next_one_cleans_up(
    tmp_path: Path, graphs: dict[Precision, Path], golden: tuple[np.ndarray, np.ndarray]
) -> None:
    folder = tmp_path / "bundle"
    code = f"""
        import os, signal
        from pathlib import Path
        from progeo_export.bundle_writer import replacing_folder
        with replacing_folder(Path({str(folder)!r})) as draft:
            (draft / "model.onnx").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not folder.exists()
    assert [path.name.startswith(".bundle.") for path in tmp_path.iterdir()] == [True]
    (tmp_path / f".bundle.{os.getpid()}-other").mkdir()
    (tmp_path / ".bundle.notes").mkdir()
    write(folder, graphs, golden)
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", f".bundle.{os.getpid()}-other", ".bundle.notes"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, rows: (images[:, :-1], rows), "golden images are"),
        (lambda images, rows: (images.astype(np.float32), rows), "golden images are"),
        (lambda images, rows: (images[:7], rows), "golden images are"),
        (lambda images, rows: (images, rows.astype(np.float64)), "golden descriptors are"),
        (lambda images, rows: (images, np.where(rows > 0.1, np.float32(np.nan), rows)), "expected finite"),
    ],
)
def test_golden_arrays_must_fit(
    change: Any, message: str, tmp_path: Path, graphs: dict[Precision, Path], golden: tuple[np.ndarray, np.ndarray]
) -> None:
    with pytest.raises(ExportError, match=message):
        write(tmp_path / "bundle", graphs, change(*golden))
    assert not list(tmp_path.iterdir())


def test_the_same_export_gives_the_same_bytes(
    tmp_path: Path, graphs: dict[Precision, Path], golden: tuple[np.ndarray, np.ndarray]
) -> None:
    write(tmp_path / "a", graphs, golden)
    write(tmp_path / "b", graphs, golden)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_tool_versions_name_what_is_installed() -> None:
    assert {"progeo-edge", "python", "numpy", "onnx"} <= set(tool_versions())


def test_a_float_graph_has_golden_images_in_uint8_too(
    tmp_path: Path, graphs: dict[Precision, Path], golden: tuple[np.ndarray, np.ndarray]
) -> None:
    floats = Preprocess(width_px=64, height_px=48, color="rgb", layout="nchw", dtype="float32", mean=None, std=None)
    record = BundleRecord(name="tiny", architecture="tiny", preprocess=floats, opset=18)
    write_bundle(tmp_path / "bundle", {"fp32": graphs["fp32"]}, record, {}, *golden)
    assert read_manifest(tmp_path / "bundle").preprocess.dtype == "float32"
