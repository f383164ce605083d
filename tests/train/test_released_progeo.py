"""Published ProGEO files: the imported encoder computes what the published one does, and bad files are refused."""

from __future__ import annotations

import logging
import os
import pickle  # noqa: TID251 - the attack that is tested
from pathlib import Path

import numpy as np
import pytest
import torch

from progeo_edge.errors import ModelError
from progeo_train.checkpoint_file import load_encoder_weights, read_record
from progeo_train.models.architectures import find_architecture
from progeo_train.released import import_released
from progeo_train.torch_encoder import TorchEncoder
from tests.train.published_models import (
    described_by_progeo_resnet,
    described_by_progeo_vit,
    progeo_resnet,
    progeo_vit,
)

RN101_DEPTHS = (3, 4, 23, 3)


def save(content, path):
    torch.save(content, path)
    return path


def images(size_px, count=2, seed=5):
    """Blotches of different sizes, colours and contrasts."""
    generator = torch.Generator().manual_seed(seed)
    coarse = [torch.randn(1, 3, 2**k, 2**k, generator=generator) for k in range(1, count + 1)]
    blotches = torch.cat([torch.nn.functional.interpolate(one, (size_px, size_px)) for one in coarse])
    return blotches + 2 * torch.randn(count, 3, 1, 1, generator=generator)


def imported(tensors, backbone, folder):
    out = folder / "imported.safetensors"
    summary = import_released(save(tensors, folder / "released.pth"), backbone, out)
    with torch.inference_mode():
        return load_encoder_weights(out), summary


def refusal(content, backbone, folder):
    out = folder / "imported.safetensors"
    with pytest.raises(ModelError) as caught:
        import_released(save(content, folder / "released.pth"), backbone, out)
    assert not out.exists()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    return message


def spread(descriptors):
    """Smallest distance between two descriptors; near zero, a comparison would prove nothing."""
    return float(torch.pdist(torch.nn.functional.normalize(descriptors)).min())


@pytest.mark.parametrize(("backbone", "depths"), [("RN50", (3, 4, 6, 3)), ("RN101", RN101_DEPTHS)])
def test_a_resnet_computes_what_was_published(backbone, depths, tmp_path):
    tensors = progeo_resnet(depths=depths)
    encoder, summary = imported(tensors, backbone, tmp_path)
    for size_px in (64, 96):
        batch = images(size_px, 3)
        expected = described_by_progeo_resnet(tensors, batch)
        assert spread(expected) > 0.01
        with torch.inference_mode():
            np.testing.assert_allclose(encoder(batch), expected, atol=1e-5)
    assert summary["backbone"] == backbone and summary["image_size_px"] == [512, 512]
    assert summary["normalise"] and summary["descriptor_dim"] == 24
    assert summary["tensors"] + summary["set_aside"] == len(tensors)


@pytest.mark.parametrize(("backbone", "patch_px", "grid"), [("ViT-B-16", 16, 4), ("ViT-B-32", 32, 3)])
def test_a_vit_computes_what_was_published_without_the_last_norm(backbone, patch_px, grid, tmp_path, caplog):
    tensors = progeo_vit(patch_px=patch_px, grid=grid, width=128)
    with caplog.at_level(logging.WARNING):
        encoder, summary = imported(tensors, backbone, tmp_path)
    batch = images(patch_px * grid, 3)
    expected = described_by_progeo_vit(tensors, batch)
    assert spread(expected) > 0.01
    assert (expected.norm(dim=1) - 1).abs().min() > 0.1
    with torch.inference_mode():
        np.testing.assert_allclose(encoder(batch), expected, atol=1e-5, rtol=1e-5)
    assert summary["image_size_px"] == [patch_px * grid] * 2 and not summary["normalise"]
    assert "leaves out the last L2 norm" in caplog.text


def test_the_runtime_sees_unit_rows_of_a_vit(tmp_path):
    import_released(save(progeo_vit(), tmp_path / "v.pth"), "ViT-B-16", tmp_path / "v.safetensors")
    encoder = TorchEncoder(tmp_path / "v.safetensors", device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    np.testing.assert_allclose(np.linalg.norm(encoder.encode([noise]), axis=1), 1, atol=1e-6)


def test_the_published_size_of_rn50(tmp_path):
    tensors = progeo_resnet(width=64, joint_dim=1024)
    encoder, summary = imported(tensors, "CLIP-RN50", tmp_path)
    batch = images(64, 2)
    with torch.inference_mode():
        np.testing.assert_allclose(encoder(batch), described_by_progeo_resnet(tensors, batch), atol=1e-5)
    assert summary["descriptor_dim"] == 1024
    spec = encoder.spec
    assert spec.architecture_config == find_architecture("RN50").config


def test_a_vit_of_512_px_is_told_by_its_positions(tmp_path):
    for patch_px, grid, backbone in ((16, 32, "ViT-B-16"), (32, 16, "ViT-B-32")):
        _, summary = imported(progeo_vit(patch_px=patch_px, grid=grid), backbone, tmp_path)
        assert summary["image_size_px"] == [512, 512]


@pytest.mark.parametrize("name", ["RN50", "CLIP-RN50", "rn50", None])
def test_names_of_a_backbone(name, tmp_path):
    assert imported(progeo_resnet(), name, tmp_path)[1]["backbone"] == "RN50"


def test_a_training_checkpoint_and_one_of_several_gpus(tmp_path):
    plain = progeo_resnet()
    _, expected = imported(plain, "RN50", tmp_path)
    whole = {
        "epoch_num": 3,
        "model_state_dict": {f"module.{name}": tensor for name, tensor in plain.items()},
        "optimizer_state_dict": torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))]).state_dict(),
        "best_val_recall1": np.float64(71.5),
    }
    _, summary = imported(whole, "RN50", tmp_path)
    assert summary == expected


def test_the_record_says_where_it_comes_from(tmp_path):
    _, summary = imported(progeo_resnet(), "RN50", tmp_path)
    record = read_record(tmp_path / "imported.safetensors")
    assert record.kind == "model" and record.model_sha256 == summary["model_sha256"]
    assert record.training["imported_from"]["file"] == "released.pth"
    assert record.training["imported_from"]["layout"] == "ProGEO"
    assert record.name == "RN50 released"


def test_another_backbone_is_named(tmp_path):
    assert "is of backbone RN50, not RN101" in refusal(progeo_resnet(), "RN101", tmp_path)
    assert "is of backbone RN101, not RN50" in refusal(progeo_resnet(depths=RN101_DEPTHS), "RN50", tmp_path)
    assert "is of backbone ViT-B-16, not ViT-B-32" in refusal(progeo_vit(), "ViT-B-32", tmp_path)
    assert "is of backbone RN50, not ResNet50" in refusal(progeo_resnet(), "ResNet50", tmp_path)
    assert "'RN77' cannot be imported; known are RN50" in refusal(progeo_resnet(), "RN77", tmp_path)
    assert "a CLIP ResNet with (1, 1, 1, 1) blocks" in refusal(progeo_resnet(depths=(1, 1, 1, 1)), None, tmp_path)
    assert "a ViT of 3 blocks with patches of 14 px" in refusal(progeo_vit(patch_px=14, blocks=3), None, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "backbone.conv2.weight",
        "backbone.layer1.0.conv1.weight",
        "backbone.layer3.2.bn2.running_var",
        "aggregation.1.p",
        "aggregation.3.weight",
    ],
)
def test_a_missing_tensor_is_named(name, tmp_path):
    tensors = progeo_resnet()
    del tensors[name]
    message = refusal(tensors, "RN50", tmp_path)
    assert f"misses {name}" in message or f"{name} is missing" in message


@pytest.mark.parametrize("name", ["backbone.class_embedding", "backbone.conv1.weight", "backbone.proj"])
def test_a_missing_tensor_of_a_vit_is_named(name, tmp_path):
    tensors = progeo_vit()
    del tensors[name]
    assert name in refusal(tensors, "ViT-B-16", tmp_path)


@pytest.mark.parametrize(
    "name", ["backbone.layer1.0.conv4.weight", "logit_scale", "text_encoder.extra", "backbone.attnpool.q_proj.scale"]
)
def test_an_unknown_tensor_is_named(name, tmp_path):
    assert f"{name} is unknown" in refusal(progeo_resnet() | {name: torch.zeros(2)}, "RN50", tmp_path)


def test_a_vit_of_stage_1_is_refused_by_its_head(tmp_path):
    message = refusal(progeo_vit() | {"aggregation.1.p": torch.ones(1)}, "ViT-B-16", tmp_path)
    assert "aggregation.1.p is unknown" in message


def test_wrong_shapes_are_named(tmp_path):
    tensors = progeo_resnet()
    tensors["backbone.layer2.0.conv2.weight"] = torch.zeros(3, 3)
    message = refusal(tensors, "RN50", tmp_path)
    assert "backbone.layer2.0.conv2.weight has shape (3, 3), expected (16, 16, 3, 3)" in message
    vit = progeo_vit()
    assert "a square grid and one" in refusal(
        vit | {"backbone.positional_embedding": torch.zeros(7, 64)}, None, tmp_path
    )
    assert "width 80" in refusal(vit | {"backbone.conv1.weight": torch.zeros(80, 3, 16, 16)}, None, tmp_path)
    assert "expected 4 axes" in refusal(vit | {"backbone.conv1.weight": torch.zeros(64)}, None, tmp_path)


def test_other_files_are_refused(tmp_path):
    assert "is a whole CLIP model" in refusal({"visual.conv1.weight": torch.zeros(2)}, None, tmp_path)
    assert "no tensors named backbone" in refusal({"encoder.weight": torch.zeros(2)}, None, tmp_path)
    assert "holds a list" in refusal([1, 2], None, tmp_path)
    assert "'a' is a int" in refusal({"a": 3}, None, tmp_path)
    with pytest.raises(ModelError, match="is not there"):
        import_released(tmp_path / "none.pth", None, tmp_path / "out.safetensors")


class Attack:
    """Unpickled without restriction, this makes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (os.system, (f"touch '{self.target}'",))


@pytest.mark.parametrize("form", ["beside the tensors", "as a bare pickle"])
def test_a_pickle_with_code_in_it_is_refused_and_never_runs(form, tmp_path):
    target = tmp_path / "made by the attack"
    path = tmp_path / "released.pth"
    if form == "beside the tensors":
        save({"model_state_dict": progeo_resnet(), "extra": Attack(target)}, path)
    else:
        path.write_bytes(pickle.dumps(Attack(target), protocol=2))
    with pytest.raises(ModelError, match=r"holds objects that could run code.*posix\.system") as caught:
        import_released(path, "RN50", tmp_path / "out.safetensors")
    assert "\n" not in str(caught.value)
    assert not target.exists() and not (tmp_path / "out.safetensors").exists()
    if form == "as a bare pickle":
        pickle.loads(path.read_bytes())
        assert target.exists(), "the attack must be a real one"


def test_a_whole_pickled_model_is_refused(tmp_path):
    assert "torch.nn.modules.linear.Linear" in refusal(torch.nn.Linear(2, 2), "RN50", tmp_path)


def test_damaged_files_are_refused(tmp_path):
    whole = save(progeo_resnet(depths=(3, 4, 6, 3)), tmp_path / "whole.pth").read_bytes()
    rng = np.random.default_rng(0)
    path: Path = tmp_path / "damaged.pth"
    contents = [
        b"",
        b"P",
        b"not a checkpoint at all",
        *(whole[: int(size)] for size in rng.integers(0, len(whole), 20)),
    ]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"damaged"):
            import_released(path, "RN50", tmp_path / "out.safetensors")
