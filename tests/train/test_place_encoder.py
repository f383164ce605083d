from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from progeo_edge.errors import ConfigError
from progeo_train.config import ModelConfig
from progeo_train.models.clip_model import build_clip
from progeo_train.models.heads import MapHead
from progeo_train.models.place_encoder import (
    EncoderSpec,
    PlaceEncoder,
    build_encoder,
    build_encoder_from_spec,
    check_joint_dimension,
    encoder_spec,
    freeze,
)
from tests.train.tiny_models import JOINT_DIM, SIZE_PX, liven, tiny_config, tiny_encoder


def _images(count: int = 3, size: tuple[int, int] = (SIZE_PX, SIZE_PX)) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def _frozen(encoder: PlaceEncoder) -> set[str]:
    return {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}


def test_resnet_descriptor_is_the_published_formula() -> None:
    clip = build_clip(tiny_config("resnet"), (SIZE_PX, SIZE_PX))
    visual = liven(clip.visual).double()
    encoder = build_encoder(clip, tiny_config("resnet")).double().eval()
    maps: list[Tensor] = []
    handle = visual.get_submodule("layer4").register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    visual(_images().double())
    handle.remove()
    values = maps[0].numpy()
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    pooled = np.cbrt(np.mean(np.maximum(unit, 1e-6) ** 3, axis=(2, 3)))
    assert isinstance(encoder.head, MapHead)
    weight, bias = (value.detach().numpy() for value in encoder.head.linear.parameters())
    projected = pooled @ weight.T + bias
    expected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    descriptors = encoder(_images().double()).detach().numpy()
    np.testing.assert_allclose(descriptors, expected, rtol=1e-9)
    assert np.linalg.norm(descriptors[0] - descriptors[1]) > 0.05  # the images are told apart at all


def test_resnet_leaves_the_attention_pool_out() -> None:
    assert not any("attnpool" in name for name in tiny_encoder("resnet").state_dict())


@pytest.mark.parametrize("normalise", [True, False])
def test_vit_descriptor_is_clips_feature(normalise: bool) -> None:
    config = tiny_config("vit", normalise=normalise)
    clip = build_clip(config, (SIZE_PX, SIZE_PX))
    features = clip.visual(_images())
    expected = features / features.norm(dim=1, keepdim=True) if normalise else features
    descriptors = build_encoder(clip, config).eval()(_images())
    torch.testing.assert_close(descriptors, expected)
    assert not torch.allclose(features.norm(dim=1), torch.ones(3), atol=0.05)


def test_encoder_has_its_own_copy_of_the_weights() -> None:
    clip = build_clip(tiny_config("vit"), (SIZE_PX, SIZE_PX))
    before = clip.weights_fingerprint()
    encoder = build_encoder(clip, tiny_config("vit"))
    assert encoder.training and not _frozen(encoder)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1.0)
    assert clip.weights_fingerprint() == before


@pytest.mark.parametrize(
    "config",
    [
        tiny_config("resnet", image_size_px=(64, 96), descriptor_dim=48, gem_eps=1e-4, mean=(0.1, 0.2, 0.3)),
        tiny_config("vit", image_size_px=(32, 80), quick_gelu=True, normalise=False),
        ModelConfig(backbone="torchvision/resnet18", image_size_px=(64, 64), descriptor_dim=16),
        ModelConfig(backbone="MobileCLIP2-S0", image_size_px=(64, 64), std=(1, 1, 1)),
    ],
    ids=["resnet", "vit", "torchvision", "timm"],
)
def test_spec_and_weights_rebuild_the_encoder(config: ModelConfig) -> None:
    encoder = build_encoder_from_spec(encoder_spec(config)).eval()
    text = encoder.spec.model_dump_json()
    assert EncoderSpec.model_validate(json.loads(text)) == EncoderSpec.model_validate_json(text) == encoder.spec
    again = build_encoder_from_spec(EncoderSpec.model_validate_json(text)).eval()
    again.load_state_dict(encoder.state_dict())
    images = _images(2, config.image_size_px)
    descriptors = encoder(images)
    assert descriptors.shape == (2, encoder.spec.descriptor_dim)
    torch.testing.assert_close(again(images), descriptors, rtol=0, atol=0)


def test_quick_gelu_changes_the_tower() -> None:
    plain, quick = (tiny_encoder("vit", quick_gelu=flag) for flag in (False, True))
    quick.load_state_dict(plain.state_dict())
    assert not torch.allclose(plain(_images()), quick(_images()), atol=1e-6)


def test_spec_is_strict() -> None:
    values = tiny_encoder("vit").spec.model_dump(mode="json")
    for change in ({"colour": "rgb"}, {"descriptor_dim": "32"}, {"kind": "clip"}, {"mean": [0.5]}):
        with pytest.raises(ValidationError):
            EncoderSpec.model_validate({**values, **change})


def test_spec_states_the_preprocessing() -> None:
    preprocess = encoder_spec(tiny_config("vit", image_size_px=(32, 80), mean=(0.1, 0.2, 0.3))).preprocess()
    assert (preprocess.height_px, preprocess.width_px) == (32, 80)
    assert (preprocess.color, preprocess.layout, preprocess.dtype) == ("rgb", "nchw", "float32")
    assert (preprocess.resize, preprocess.aspect) == ("area_or_cubic", "squash")
    assert preprocess.mean == (0.1, 0.2, 0.3)


def test_descriptors_are_single_precision_under_autocast() -> None:
    for kind in ("resnet", "vit"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            descriptors = tiny_encoder(kind)(_images())
        assert descriptors.dtype == torch.float32
        torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(3), rtol=1e-5, atol=0)


def test_resnet_freezes_stem_and_first_layers() -> None:
    encoder = tiny_encoder("resnet")
    freeze(encoder, tiny_config("resnet", frozen_resnet_layers=2))
    parts = {name.split(".")[1] for name in _frozen(encoder)}
    assert parts == {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "layer1", "layer2"}
    trained = {".".join(n.split(".")[:2]) for n, p in encoder.named_parameters() if p.requires_grad}
    assert trained == {"trunk.layer3", "trunk.layer4", "head.gem", "head.linear"}


def test_torchvision_freezes_stem_and_first_layers() -> None:
    config = ModelConfig(backbone="torchvision/resnet18", descriptor_dim=16)
    encoder = build_encoder_from_spec(encoder_spec(config))
    freeze(encoder, config)
    assert {name.split(".")[1] for name in _frozen(encoder)} == {"conv1", "bn1", "layer1", "layer2"}


def test_vit_freezes_patches_and_first_blocks_but_no_embedding() -> None:
    encoder = tiny_encoder("vit")
    freeze(encoder, tiny_config("vit", frozen_blocks=1))
    parts = {tuple(name.split(".")[1:4]) for name in _frozen(encoder)}
    assert {part[:1] for part in parts if part[0] != "transformer"} == {("conv1",), ("ln_pre",)}
    assert {part for part in parts if part[0] == "transformer"} == {("transformer", "resblocks", "0")}


def test_training_moves_what_is_not_frozen() -> None:
    for kind in ("resnet", "vit"):
        encoder = tiny_encoder(kind).train()
        freeze(encoder, tiny_config(kind))
        before = {name: value.detach().clone() for name, value in encoder.named_parameters()}
        optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1.0)
        (encoder(_images()) * torch.randn(3, JOINT_DIM)).sum().backward()
        optimizer.step()
        still = {name for name, value in encoder.named_parameters() if torch.equal(value, before[name])}
        assert _frozen(encoder) <= still
        # Where no gradient can come from: the keys' bias adds the same to every position's logit.
        assert len(still - _frozen(encoder)) <= 1


def test_train_all_layers_freezes_nothing() -> None:
    encoder = tiny_encoder("resnet")
    freeze(encoder, tiny_config("resnet"))
    freeze(encoder, tiny_config("resnet", train_all_layers=True))
    assert not _frozen(encoder)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norms_keep_their_statistics(frozen: bool) -> None:
    encoder = tiny_encoder("resnet").train()
    freeze(encoder, tiny_config("resnet", frozen_batch_norm=frozen))
    encoder.eval().train()
    norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    assert len(before) > 10
    encoder(_images())
    after = [norm.running_mean for norm in norms if norm.running_mean is not None]
    same = [torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    assert all(same) if frozen else not any(same)
    assert encoder.training and encoder.head.training


def test_descriptor_dimension_of_a_vit_is_fixed() -> None:
    with pytest.raises(ConfigError, match=r"descriptor_dim is 100.*projects to 32.*leave descriptor_dim out"):
        encoder_spec(tiny_config("vit", descriptor_dim=100))
    assert encoder_spec(tiny_config("vit", descriptor_dim=JOINT_DIM)).descriptor_dim == JOINT_DIM


def test_joint_dimension_is_checked_with_both_numbers() -> None:
    check_joint_dimension(512, 512)
    with pytest.raises(ConfigError, match=r"256 dimensions.*1024.*set it to 1024.*text_weight=0"):
        check_joint_dimension(256, 1024)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size_px": (64, 70)}, r"64 x 70 px does not fit patches of 16 px.*such as 64 x 64"),
        ({"backbone": "torchvision/resnet50"}, "state model.descriptor_dim"),
        ({"backbone": "torchvision/vgg16", "descriptor_dim": 8}, r"torchvision/vgg16 is unknown.*torchvision/resnet18"),
    ],
)
def test_bad_encoder_settings_are_explained(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_encoder_from_spec(encoder_spec(tiny_config("vit", **changes)))


def test_encoder_must_match_its_clip_model() -> None:
    clip = build_clip(tiny_config("vit"), (SIZE_PX, SIZE_PX))
    with pytest.raises(ConfigError, match=r"\(64, 64\) px, the encoder \(32, 32\)"):
        build_encoder(clip, tiny_config("vit", image_size_px=(32, 32)))
    with pytest.raises(ConfigError, match=r"tiny_vit, model.backbone says tiny_resnet"):
        build_encoder(clip, tiny_config("resnet"))


def test_spec_of_another_kind_than_its_architecture_is_refused() -> None:
    spec = tiny_encoder("vit").spec.model_copy(update={"kind": "clip_resnet"})
    with pytest.raises(ConfigError, match="is a clip_vit, the encoder's spec says clip_resnet"):
        build_encoder_from_spec(spec)


def test_liven_keeps_modes_and_is_seeded() -> None:
    first, second = tiny_encoder("resnet", seed=4), tiny_encoder("resnet", seed=4)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert not first.training
    assert all(isinstance(m.momentum, float) for m in first.modules() if isinstance(m, nn.BatchNorm2d))
