"""Every kind of source opens as an encoder, and what is none is refused in one line."""

from __future__ import annotations

import hashlib
import logging

import numpy as np
import pytest
import torch

from progeo_edge.errors import ConfigError, ModelError
from progeo_export.checkpoint_input import open_model
from progeo_export.fp32_parity import reference_descriptors
from progeo_train.checkpoint_file import CheckpointRecord, model_tensors, write_checkpoint
from progeo_train.released import import_released
from progeo_train.torch_encoder import TorchEncoder
from tests.export.test_graph_module import pictures
from tests.train.published_models import cosplace_resnet, progeo_vit
from tests.train.tiny_models import tiny_config, tiny_encoder

torch.set_num_threads(1)


def write(encoder, path, **record):
    write_checkpoint(path, CheckpointRecord(encoder=encoder.spec, **record), model_tensors(encoder))
    return path


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_own_checkpoint(tmp_path, kind):
    encoder = tiny_encoder(kind)
    path = write(encoder, tmp_path / "best.safetensors", name="my model")
    opened = open_model(str(path))
    assert opened.name == "my model" and opened.warning is None
    assert opened.architecture == ("tiny_resnet-GeM" if kind == "resnet" else "tiny_vit")
    assert opened.checkpoint_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert opened.spec == encoder.spec and not opened.encoder.training
    expected = TorchEncoder(path, device="cpu").encode(pictures())
    np.testing.assert_allclose(reference_descriptors(opened.encoder, pictures()), expected, atol=1e-6)


def test_unnamed_checkpoint_is_named_by_its_file(tmp_path):
    assert open_model(str(write(tiny_encoder(), tmp_path / "last.safetensors"))).name == "tiny_resnet last"


def test_resnet_takes_another_size(tmp_path):
    path = write(tiny_encoder("resnet"), tmp_path / "best.safetensors")
    opened = open_model(str(path), (96, 128))
    assert opened.spec.image_size_px == (96, 128)
    assert reference_descriptors(opened.encoder, pictures()).shape == (5, opened.spec.descriptor_dim)


def test_vit_positions_are_interpolated(tmp_path):
    encoder = tiny_encoder("vit")
    path = write(encoder, tmp_path / "best.safetensors")
    positions = open_model(str(path), (96, 32)).encoder.state_dict()["trunk.positional_embedding"]
    own = encoder.state_dict()["trunk.positional_embedding"]
    assert positions.shape == (1 + 6 * 2, own.shape[1])
    torch.testing.assert_close(positions[0], own[0])
    # Interpolation keeps the mean of the grid nearly.
    assert torch.abs(positions[1:].mean(dim=0) - own[1:].mean(dim=0)).max() < 0.3 * own[1:].std()


def test_vit_refuses_a_size_that_no_patches_fill(tmp_path):
    path = write(tiny_encoder("vit"), tmp_path / "best.safetensors")
    with pytest.raises((ModelError, ConfigError), match="multiples of 16"):
        open_model(str(path), (70, 64))


@pytest.mark.parametrize("family", ["ProGEO", "CosPlace"])
def test_published_file(tmp_path, family):
    path = tmp_path / "published.pth"
    torch.save(progeo_vit() if family == "ProGEO" else cosplace_resnet(), path)
    opened = open_model(str(path))
    imported = tmp_path / "imported.safetensors"
    import_released(path, None, imported)
    own = open_model(str(imported))
    assert opened.spec == own.spec
    assert all(
        torch.equal(value, own.encoder.state_dict()[name]) for name, value in opened.encoder.state_dict().items()
    )
    assert opened.checkpoint_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert opened.name.endswith("published")


def test_random_weights_are_the_same_each_time_and_say_so(caplog):
    backbone = tiny_config("resnet").backbone
    before = torch.random.get_rng_state()
    with caplog.at_level(logging.WARNING):
        first, second = open_model(backbone), open_model(backbone)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.warning is not None and "RANDOM weights" in first.warning and first.warning in caplog.text
    assert first.checkpoint_sha256 == second.checkpoint_sha256
    assert first.spec.image_size_px == (64, 64)
    assert not first.encoder.training


def test_random_resnet_tells_images_apart():
    """A fresh CLIP ResNet does not: the last batch norm of every block is zero."""
    descriptors = reference_descriptors(open_model(tiny_config("resnet").backbone).encoder, pictures())
    cosines = (descriptors @ descriptors.T)[np.triu_indices(5, 1)]
    assert cosines.mean() < 0.99
    for name, value in open_model(tiny_config("resnet").backbone).encoder.named_parameters():
        if name.endswith("bn3.weight"):
            assert value.abs().min() > 0.1


def test_random_blocks_of_mobileclip_take_part():
    """Fresh ones do not: their layer scales are 1e-5."""
    scales = [
        values
        for name, values in open_model("MobileCLIP2-S0", (64, 64)).encoder.named_parameters()
        if "layer_scale" in name
    ]
    assert len(scales) > 20 and min(values.abs().mean() for values in scales) > 0.3


def test_stock_weights_warn_and_bring_their_own_statistics(tmp_path, monkeypatch, caplog):
    from progeo_export import checkpoint_input

    weights = tmp_path / "clip.pt"
    backbone = tiny_config("vit").backbone
    torch.save(_clip_weights(backbone), weights)
    with caplog.at_level(logging.WARNING):
        opened = open_model(f"{backbone}:{weights}")
    assert "NOT trained for places" in caplog.text
    assert opened.spec.mean == (0.485, 0.456, 0.406)
    monkeypatch.setattr(
        checkpoint_input, "tag_config", lambda *_: {"mean": (0.1, 0.2, 0.3), "std": [0.4, 0.5, 0.6], "quick_gelu": True}
    )
    with_tag = open_model(f"{backbone}:{weights}")
    assert with_tag.spec.mean == (0.1, 0.2, 0.3) and with_tag.spec.std == (0.4, 0.5, 0.6)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_stock_resnets_say_that_they_project_at_random(tmp_path, caplog, kind):
    """The attention pool, which CLIP trained, is no part of the encoder; a ViT needs no other head."""
    backbone = tiny_config(kind).backbone
    torch.save(_clip_weights(backbone), tmp_path / "clip.pt")
    with caplog.at_level(logging.WARNING):
        opened = open_model(f"{backbone}:{tmp_path / 'clip.pt'}")
    assert opened.warning is not None and opened.warning in caplog.text
    assert ("RANDOM projection" in opened.warning) == (kind == "resnet")


def _clip_weights(backbone):
    from progeo_train.models.architectures import build_clip_modules, find_architecture

    torch.manual_seed(1)
    return build_clip_modules(find_architecture(backbone).config, quick_gelu=False).state_dict()


@pytest.mark.parametrize(
    "source, message",
    [
        ("no/such/file.safetensors", "is not there"),
        ("no/such/file.pth", "file.pth"),
        ("RN5O", "neither a file nor an architecture"),
    ],
)
def test_unknown_sources(source, message):
    with pytest.raises(ModelError, match=message) as caught:
        open_model(source)
    assert "\n" not in str(caught.value)


def test_an_unknown_tag():
    with pytest.raises(ConfigError, match="no-such-tag"):
        open_model("RN50:no-such-tag")


def test_a_file_of_another_kind(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="is no checkpoint"):
        open_model(str(path))


def test_a_pickle_in_disguise(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="pickle"):
        open_model(str(path))
