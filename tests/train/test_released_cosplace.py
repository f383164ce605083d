"""Published CosPlace and EigenPlaces files: the imported encoder computes what they do, and others are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from progeo_edge.errors import ModelError
from progeo_train.checkpoint_file import load_encoder_weights
from progeo_train.released import import_released
from progeo_train.released.layouts import recognise
from tests.train.published_models import cosplace_resnet, described_by_cosplace

DEPTHS = {
    "ResNet18": ((2, 2, 2, 2), 2),
    "ResNet50": ((3, 4, 6, 3), 3),
    "ResNet101": ((3, 4, 23, 3), 3),
    "ResNet152": ((3, 8, 36, 3), 3),
}


@pytest.fixture(scope="module")
def resnet18():
    return cosplace_resnet()


def images(size_px, count):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, size_px, size_px, generator=generator) + torch.arange(float(count)).view(-1, 1, 1, 1)


def names_only(backbone):
    """A file of the right names and shapes without the bytes."""
    depths, convolutions = DEPTHS[backbone]
    tensors = cosplace_resnet(depths=depths, convolutions=convolutions, descriptor_dim=16)
    return {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in tensors.items()}


def import_tensors(tensors, backbone, folder):
    torch.save(tensors, folder / "released.pth")
    return import_released(folder / "released.pth", backbone, folder / "imported.safetensors")


def assert_same_descriptors(tensors, folder, size_px):
    encoder = load_encoder_weights(folder / "imported.safetensors")
    batch = images(size_px, 2)
    expected = described_by_cosplace(tensors, batch)
    assert torch.pdist(expected).min() > 0.02
    with torch.inference_mode():
        np.testing.assert_allclose(encoder(batch), expected, atol=1e-5)


def test_resnet18_computes_what_was_published(resnet18, tmp_path):
    summary = import_tensors(resnet18, "ResNet18", tmp_path)
    assert_same_descriptors(resnet18, tmp_path, 64)
    assert_same_descriptors(resnet18, tmp_path, 48)
    assert summary["family"] == "CosPlace" and summary["backbone"] == "ResNet18"
    assert summary["descriptor_dim"] == 32 and summary["image_size_px"] == [512, 512]
    assert summary["set_aside"] == 0 and summary["tensors"] == len(resnet18)


def test_resnet50_computes_what_was_published(tmp_path):
    tensors = cosplace_resnet(depths=(3, 4, 6, 3), convolutions=3, descriptor_dim=64)
    assert import_tensors(tensors, None, tmp_path)["backbone"] == "ResNet50"
    assert_same_descriptors(tensors, tmp_path, 64)


@pytest.mark.parametrize("backbone", DEPTHS)
def test_depths_are_recognised(backbone, tmp_path):
    assert recognise(names_only(backbone), tmp_path).backbone == backbone


def test_another_depth_is_named(tmp_path):
    with pytest.raises(ModelError, match="is of backbone ResNet101, not ResNet50; give --backbone ResNet101"):
        import_tensors(names_only("ResNet101"), "ResNet50", tmp_path)
    with pytest.raises(ModelError, match="is of backbone ResNet50, not RN50"):
        import_tensors(names_only("ResNet50"), "RN50", tmp_path)
    odd = cosplace_resnet(depths=(1, 1, 1, 1))
    with pytest.raises(ModelError, match=r"a ResNet with \(1, 1, 1, 1\) blocks of 2 convolutions; known are"):
        import_tensors(odd, None, tmp_path)


def test_missing_unknown_and_misshapen_tensors_are_named(resnet18, tmp_path):
    changed = dict(resnet18)
    del changed["backbone.6.0.downsample.1.running_mean"]
    with pytest.raises(ModelError, match=r"backbone\.6\.0\.downsample\.1\.running_mean is missing"):
        import_tensors(changed, "ResNet18", tmp_path)
    with pytest.raises(ModelError, match=r"backbone\.8\.weight is unknown"):
        import_tensors(resnet18 | {"backbone.8.weight": torch.zeros(2)}, "ResNet18", tmp_path)
    with pytest.raises(ModelError, match=r"aggregation\.3\.bias has shape \(3,\), expected \(32,\)"):
        import_tensors(resnet18 | {"aggregation.3.bias": torch.zeros(3)}, "ResNet18", tmp_path)
    assert not (tmp_path / "imported.safetensors").exists()


def test_other_published_backbones_are_refused(tmp_path):
    vgg16 = {"backbone.0.weight": torch.zeros(64, 3, 3, 3), "backbone.2.weight": torch.zeros(64, 64, 3, 3)}
    with pytest.raises(ModelError, match=r"cannot be imported \(such as VGG16"):
        import_tensors(vgg16, None, tmp_path)
