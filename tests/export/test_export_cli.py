"""progeo-export as a user meets it: help, a bundle, one file to publish, and one line for each mistake."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from progeo_edge.bundle import read_manifest
from progeo_edge.cli.console import EXIT_ERROR
from progeo_edge.encoders import load_encoder
from progeo_export import pipeline, probe_images
from progeo_export.cli import main as command
from progeo_export.half.range_audit import audit_ranges
from progeo_train.checkpoint_file import CheckpointRecord, model_tensors, write_checkpoint
from tests.export.probe_samples import small_probe
from tests.train.tiny_models import tiny_encoder

torch.set_num_threads(1)

REPOSITORY = Path(__file__).parents[2]

HELP = """
import sys
from progeo_export.cli.main import main
sys.argv = ["progeo-export", "--help"]
try:
    main()
except SystemExit as end:
    assert end.code == 0
heavy = {"torch", "onnx", "onnxruntime", "cv2", "progeo_train", "open_clip"} & sys.modules.keys()
print("imported:", sorted(heavy))
"""

WITHOUT_TORCH = """
import sys
for name in ("torch", "onnx", "progeo_train", "open_clip", "tensorrt", "pycuda"):
    sys.modules[name] = None
from progeo_export.cli.main import main
main()
"""


def in_subprocess(code, *arguments):
    paths = os.pathsep.join(str(REPOSITORY / name) for name in (".", "train", "export"))
    environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "200", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(autouse=True)
def quick_probe(monkeypatch):
    monkeypatch.setattr(probe_images, "rendered_places", small_probe)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs progeo-export in this process: exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "400")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["progeo-export", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            command.main()
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return call


@pytest.fixture
def refused(run):
    """Runs progeo-export, which must say one line and end with the code of an error; gives the line."""

    def call(*arguments):
        code, out, err = run(*arguments)
        assert code == EXIT_ERROR and out == ""
        assert err.startswith("error: ") and err.count("\n") == 1, err
        return err

    return call


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "best.safetensors"
    encoder = tiny_encoder("resnet")
    write_checkpoint(path, CheckpointRecord(encoder=encoder.spec), model_tensors(encoder))
    return path


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """A bundle made by the command, and what it printed."""
    bundle = tmp_path_factory.mktemp("exported") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe_images, "rendered_places", small_probe)
        patch.setenv("COLUMNS", "200")
        result = _printed(patch, checkpoint, "--fp16", "--opset", "17", "--max-batch", "2", "-o", bundle)
    return bundle, result


def _printed(patch, *arguments):
    text = io.StringIO()
    patch.setattr(sys, "argv", ["progeo-export", *map(str, arguments)])
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 0
    return text.getvalue()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_help_answers_without_torch():
    done = in_subprocess(HELP)
    assert done.returncode == 0, done.stderr
    assert "imported: []" in done.stdout
    for word in (
        "1. On a machine with torch",
        "SOURCE",
        "--fp16",
        "--calibration",
        "--fuse-resize",
        "progeo-verify",
        "More examples",
    ):
        assert word in done.stdout


def test_export_prints_what_was_measured(exported):
    bundle, text = exported
    manifest = read_manifest(bundle)
    assert manifest.opset == 17 and manifest.max_batch == 2 and set(manifest.graphs) == {"fp32", "fp16"}
    for precision, figures in manifest.parity.items():
        row = next(line for line in text.splitlines() if precision in line and "%" in line)
        assert f"{figures['min_cosine']:.6f}" in row
        assert f"{100 * figures['interplace_loss_mean']:.3f} %" in row
        assert f"{100 * figures['recall_at_1']:.1f} %" in row
    assert all(f"- {note}" in text for note in manifest.notes)
    assert f"progeo-verify {bundle}" in text


def test_options_reach_the_bundle(run, checkpoint, tmp_path):
    """An upper-case X, and a folder of images with their places."""
    folder = tmp_path / "images"
    folder.mkdir()
    lines = ["image,place"]
    count = len(small_probe().images) // 2
    for k, image in enumerate(small_probe().images):
        cv2.imwrite(str(folder / f"{k}.png"), image)
        lines.append(f"{k}.png,{k % count}")
    (folder / "places.csv").write_text("\n".join(lines))
    options = ["--images", folder, "--size", "64X96", "--opset", "17", "--max-batch", "1", "--input", "float"]
    code, _, err = run(checkpoint, *options, "-o", tmp_path / "bundle")
    assert code == 0, err
    manifest = read_manifest(tmp_path / "bundle")
    assert (manifest.preprocess.height_px, manifest.preprocess.width_px) == (64, 96)
    assert manifest.preprocess.dtype == "float32"
    assert manifest.probe_images == "images, 12 labelled places"


def test_existing_bundle_is_refused_and_untouched(refused, checkpoint, exported, monkeypatch):
    bundle, _ = exported
    before = contents(bundle)
    monkeypatch.setattr(probe_images, "rendered_places", lambda: pytest.fail("images were made before the refusal"))
    line = refused(checkpoint, "--opset", "17", "-o", bundle)
    assert "exists already" in line and "--force" in line
    assert contents(bundle) == before


def test_folder_that_is_no_bundle_is_never_replaced(refused, checkpoint, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"precious")
    assert "is no bundle" in refused(checkpoint, "--force", "-o", tmp_path / "photos")
    assert contents(tmp_path / "photos") == {"one.jpg": b"precious"}


def test_force_replaces(run, checkpoint, exported, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(exported[0], bundle)
    code, _, err = run(checkpoint, "--opset", "17", "--max-batch", "1", "--force", "-o", bundle)
    assert code == 0, err
    assert set(read_manifest(bundle).graphs) == {"fp32"}
    assert not any("fp16" in name for name in contents(bundle))


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--int8"], "--int8 needs --calibration"),
        (["--size", "384"], "--size 384 is no size; write height x width"),
        (["--size", "384x"], "is no size"),
        (["--size", "0x512"], "is no size"),
        (["--size", "-64x64"], "is no size"),
        (["--size", "64x64x3"], "is no size"),
        (["--fuse-resize", "full"], "--fuse-resize full is no size"),
        (["--opset", "16"], "--opset 16 is not offered; 18 is the default"),
        (["--input", "int16"], "--input int16 is unknown; choose uint8 or float"),
        (["--input", "float", "--fuse-resize", "120x160"], "fused resize"),
        (["--tar", "b.tar"], "--tar packs the folder of a bundle"),
        (["--fp16", "--calibration", "nowhere"], "nowhere"),
        (["--images", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_option_is_one_line(refused, checkpoint, tmp_path, monkeypatch, options, reason):
    monkeypatch.chdir(tmp_path)
    assert reason in refused(checkpoint, *options, "-o", tmp_path / "bundle")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        ["--int8", "--calibration", "images"],
        ["--size", "64x64"],
        ["--opset", "18"],  # the default, but asked for
        ["--input", "float"],
        ["--fuse-resize", "120x160"],
        ["--images", "images"],
        ["--max-batch", "4"],
        ["-o", "elsewhere"],
        ["--force"],
    ],
    ids=lambda options: options[0],
)
def test_option_that_a_finished_bundle_cannot_take(refused, exported, options):
    line = refused(exported[0], "--fp16", *options)
    named = {"-o": "--out", "--int8": "--calibration"}.get(options[0], options[0])
    assert line.startswith(f"error: {named} cannot change {exported[0]}") and "export the checkpoint again" in line


def test_all_misplaced_options_are_named_at_once(refused, exported):
    assert refused(exported[0], "--opset", "17", "--size", "64x64").startswith("error: --size, --opset cannot change")


def test_one_engine_at_a_time(refused, exported):
    line = refused(exported[0], "--fp16", "--int8")
    assert "--fp16 and --int8" in line and "one at a time" in line


@pytest.mark.parametrize("option", ["--fp16", "--force"])
def test_option_beside_packing(refused, exported, tmp_path, option):
    assert f"{option} does nothing when" in refused(exported[0], "--tar", tmp_path / "b.tar", option)
    assert not any(tmp_path.iterdir())


def test_option_beside_unpacking(run, refused, exported, tmp_path):
    tar = tmp_path / "b.tar"
    assert run(exported[0], "--tar", tar)[0] == 0
    for options in (["--fp16"], ["--tar", tmp_path / "c.tar"], ["--max-batch", "1"]):
        line = refused(tar, "-o", tmp_path / "back", *options)
        assert f"{options[0]} does nothing when" in line and "on the folder" in line
    assert [path.name for path in tmp_path.iterdir()] == ["b.tar"]


def test_calibration_that_nothing_would_use(refused, checkpoint, tmp_path):
    line = refused(checkpoint, "--calibration", tmp_path, "-o", tmp_path / "bundle")
    assert "--int8" in line and "--fp16" in line


def test_who_runs_an_int8_graph_that_is_not_asked_for(refused, checkpoint, tmp_path):
    line = refused(checkpoint, "--int8-for", "cpu", "-o", tmp_path / "bundle")
    assert "--int8-for says who will run the INT8 graph; add --int8, or leave it out" in line


def test_calibration_serves_the_range_audit(run, checkpoint, tmp_path, monkeypatch):
    audited: list[np.ndarray] = []

    def audit(model, inputs):
        shown = list(inputs)
        audited.extend(row for one in shown for row in one["image"])
        return audit_ranges(model, shown)

    monkeypatch.setattr(pipeline, "audit_ranges", audit)
    (tmp_path / "images").mkdir()
    for k, image in enumerate(small_probe().images[:3]):
        cv2.imwrite(str(tmp_path / "images" / f"{k}.png"), image)
    options = ["--fp16", "--opset", "17", "--max-batch", "1", "--calibration", tmp_path / "images"]
    code, _, err = run(checkpoint, *options, "-o", tmp_path / "bundle")
    assert code == 0, err
    assert len(audited) == 3


def test_no_folder_named(refused, checkpoint):
    assert "--out" in refused(checkpoint, "--fp16")


@pytest.mark.parametrize("source", ["nowhere.safetensors", "nowhere.pth", "RN51", "nowhere.tar", "RN50:no_such_tag"])
def test_missing_source(refused, tmp_path, monkeypatch, source):
    """Noticed before images are rendered or read, which takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe_images, "rendered_places", lambda: pytest.fail("images were made before the refusal"))
    assert source.partition(":")[0] in refused(source, "-o", "bundle")
    assert not any(tmp_path.iterdir())


class _Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors", "model.tar"])
@pytest.mark.parametrize("form", ["zip", "old"])
def test_pickle_with_code_is_refused_and_not_run(refused, tmp_path, name, form):
    source, mark = tmp_path / name, tmp_path / "code was run"
    torch.save({"backbone.weight": _Code(mark)}, source, _use_new_zipfile_serialization=form == "zip")
    assert name in refused(source, "-o", tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_pickle_would_run(tmp_path):
    """The test above would notice it."""
    source, mark = tmp_path / "model.pth", tmp_path / "code was run"
    torch.save(_Code(mark), source)
    torch.load(source, weights_only=False)
    assert mark.is_dir()


def test_tar_there_and_back(run, exported, tmp_path):
    bundle, _ = exported
    tar, back = tmp_path / "model.tar", tmp_path / "back"
    (bundle / "cache.engine").write_bytes(b"of one device")
    try:
        code, out, err = run(bundle, "--tar", tar)
        assert code == 0 and "packed" in out, err
    finally:
        (bundle / "cache.engine").unlink()
    code, out, err = run(tar, "-o", back)
    assert code == 0 and "unpacked" in out, err
    assert contents(back) == contents(bundle)
    image = small_probe().images[0]
    descriptors = []
    for folder in (bundle, back):
        encoder = load_encoder(folder, precision="fp32")
        descriptors.append(encoder.encode([image]))
        encoder.close()
    np.testing.assert_array_equal(descriptors[0], descriptors[1])


def test_damaged_tar_is_refused(run, refused, exported, tmp_path):
    tar = tmp_path / "model.tar"
    assert run(exported[0], "--tar", tar)[0] == 0
    content = bytearray(tar.read_bytes())
    content[len(content) // 2] ^= 1
    tar.write_bytes(content)
    assert "model.tar" in refused(tar, "-o", tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["model.tar"]


def test_unpacking_needs_a_folder_and_spares_an_existing_one(run, refused, exported, tmp_path):
    bundle, tar = exported[0], tmp_path / "model.tar"
    assert run(bundle, "--tar", tar)[0] == 0
    before = contents(bundle)
    assert "--out" in refused(tar)
    assert "exists already" in refused(tar, "-o", bundle)
    assert contents(bundle) == before


def test_bundles_need_no_torch(exported, tmp_path):
    """What a device does: pack, unpack, and ask for an engine (here without its libraries: one line)."""
    bundle, tar = exported[0], tmp_path / "model.tar"
    for arguments in ((bundle, "--tar", tar), (tar, "-o", tmp_path / "back")):
        done = in_subprocess(WITHOUT_TORCH, *arguments)
        assert done.returncode == 0, done.stderr
    done = in_subprocess(WITHOUT_TORCH, tmp_path / "back", "--fp16")
    assert done.returncode == EXIT_ERROR
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    for remedy in ("run this on the device", "--system-site-packages", "progeo-edge[tensorrt]", "ONNX Runtime"):
        assert remedy in done.stderr


def test_folder_that_is_no_bundle(refused, tmp_path):
    assert "manifest.json" in refused(tmp_path, "--fp16")
