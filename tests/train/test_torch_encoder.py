from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from progeo_edge.cli.eval import app
from progeo_edge.encoders import load_encoder
from progeo_edge.errors import InputError, ModelError
from progeo_train.checkpoint_file import CheckpointRecord, model_tensors, write_checkpoint
from progeo_train.config import IMAGENET_MEAN, IMAGENET_STD
from progeo_train.torch_encoder import TorchEncoder
from tests.train.tiny_models import tiny_encoder

ROOT = Path(__file__).parents[2]


def write(path, encoder, name=None):
    write_checkpoint(path, CheckpointRecord(name=name, encoder=encoder.spec), model_tensors(encoder))
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("checkpoint") / "best.safetensors", tiny_encoder())


@pytest.fixture(scope="module")
def encoder(path):
    return TorchEncoder(path, device="cpu")


def scenes(count=5, size=(64, 64)):
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]


def test_descriptors_are_those_of_the_model_on_normalised_rgb(encoder):
    images = scenes()
    rgb = np.stack([image[:, :, ::-1].transpose(2, 0, 1) for image in images]).astype(np.float64) / 255
    shape = (1, 3, 1, 1)
    batch = (rgb - np.reshape(IMAGENET_MEAN, shape)) / np.reshape(IMAGENET_STD, shape)
    with torch.inference_mode():
        expected = tiny_encoder()(torch.tensor(batch, dtype=torch.float32)).numpy()
    found = encoder.encode(images)
    assert found.dtype == np.float32 and found.shape == (5, 32)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_any_size_grey_and_none(encoder):
    grey = np.random.default_rng(0).integers(0, 256, (50, 90), dtype=np.uint8)
    rows = encoder.encode([grey, np.repeat(grey[:, :, None], 3, axis=2)])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
    assert encoder.encode([]).shape == (0, 32)
    with pytest.raises(InputError):
        encoder.encode([np.zeros((4, 4), np.float32)])


def test_batches_and_threads_change_nothing(path, encoder):
    images = scenes(7)
    expected = encoder.encode(images)
    np.testing.assert_allclose(TorchEncoder(path, device="cpu", batch_size=2).encode(images), expected, atol=1e-5)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: encoder.encode(images), range(8)):
            np.testing.assert_array_equal(found, expected)


def test_rows_are_unit_also_where_the_model_does_not_normalise(tmp_path):
    model = tiny_encoder("vit", normalise=False)
    encoder = TorchEncoder(write(tmp_path / "vit.safetensors", model), device="cpu")
    with torch.inference_mode():
        assert abs(float(model(torch.zeros(1, 3, 64, 64)).norm()) - 1) > 0.1
    np.testing.assert_allclose(np.linalg.norm(encoder.encode(scenes()), axis=1), 1, atol=1e-6)


def test_identity(path, encoder, tmp_path):
    spec = encoder.spec
    assert spec.name == "tiny_resnet best" and spec.dimension == 32 and len(spec.fingerprint) == 64
    copy = TorchEncoder(write(tmp_path / "last.safetensors", tiny_encoder(), name="street model"), device="cpu")
    assert copy.spec.fingerprint == spec.fingerprint and copy.spec.name == "street model"
    other = TorchEncoder(write(tmp_path / "other.safetensors", tiny_encoder(seed=1)), device="cpu")
    resized = TorchEncoder(write(tmp_path / "small.safetensors", tiny_encoder(image_size_px=(32, 32))), device="cpu")
    assert len({spec.fingerprint, other.spec.fingerprint, resized.spec.fingerprint}) == 3


def test_a_diverged_model_is_refused(tmp_path):
    model = tiny_encoder()
    torch.nn.init.constant_(model.get_parameter("head.linear.bias"), float("nan"))
    encoder = TorchEncoder(write(tmp_path / "nan.safetensors", model), device="cpu")
    with pytest.raises(ModelError, match="norm nan for image 0"):
        encoder.encode(scenes(1))


def test_closed_and_unusable_devices(path):
    encoder = TorchEncoder(path, device="cpu")
    encoder.close()
    with pytest.raises(ModelError, match="was closed"):
        encoder.encode(scenes(1))
    with pytest.raises(ModelError, match="device 'nonsense' cannot be used"):
        TorchEncoder(path, device="nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="device 'cuda' cannot be used"):
            TorchEncoder(path, device="cuda")


def test_the_runtime_opens_a_checkpoint(path, encoder):
    opened = load_encoder(path)
    assert opened.spec == encoder.spec
    np.testing.assert_allclose(opened.encode(scenes(2)), encoder.encode(scenes(2)), atol=1e-4)
    with pytest.raises(ModelError, match="is not there"):
        load_encoder(path.with_name("none.safetensors"))


def test_without_torch_the_runtime_says_what_to_install(path):
    code = f"""
import sys
sys.modules["torch"] = None
from progeo_edge.encoders import load_encoder
from progeo_edge.errors import ModelError
try:
    load_encoder({str(path)!r})
except ModelError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "needs the training extra: pip install 'progeo-edge[train]', or export the checkpoint" in done.stdout
    assert "torch" in done.stdout


def test_a_runtime_without_the_training_package_says_the_same(path, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ())
    with pytest.raises(ModelError, match=r"needs the training extra.*no installed package offers"):
        load_encoder(path)


def test_opening_a_bundle_imports_no_torch():
    opening = "import sys; from progeo_edge.encoders import load_encoder; load_encoder('vlad'); "
    code = opening + "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_progeo_eval_judges_a_checkpoint(path, tmp_path):
    rows = []
    for place, image in enumerate(scenes(4)):
        for view in range(2):
            shifted = np.roll(image, view, axis=1)
            cv2.imwrite(str(tmp_path / f"{place}_{view}.png"), shifted)
            rows.append(f"{place}_{view}.png,{place}")
    (tmp_path / "places.csv").write_text("image,place\n" + "\n".join(rows) + "\n")
    arguments = ["retrieval", "--images", str(tmp_path), "--places", str(tmp_path / "places.csv")]
    result = CliRunner().invoke(app, [*arguments, "--encoder", str(path), "--json", "-"])
    assert result.exit_code == 0, result.output
    assert '"name": "tiny_resnet best"' in result.output
    assert "checkpoint" in CliRunner().invoke(app, ["retrieval", "--help"]).output
