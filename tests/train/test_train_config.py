from __future__ import annotations

from pathlib import Path

import pytest

from progeo_edge.errors import ConfigError
from progeo_train.config import IMAGENET_MEAN, TrainConfig, load_config, preset_names
from progeo_train.models.architectures import check_image_size, find_architecture
from progeo_train.models.place_encoder import encoder_spec
from progeo_train.models.weights_file import tag_config

# Preset: descriptor dimension, height and width in px, kind.
PRESETS = {
    "rn50": (1024, (512, 512), "clip_resnet"),
    "rn101": (512, (512, 512), "clip_resnet"),
    "vit-b-16": (512, (512, 512), "clip_vit"),
    "vit-b-32": (512, (512, 512), "clip_vit"),
    "mobileclip2-s0": (512, (256, 256), "clip_other"),
    "mobileclip2-s2": (512, (256, 256), "clip_other"),
    "compact": (256, (128, 128), "clip_resnet"),
}


def test_presets_are_the_documented_ones() -> None:
    assert set(preset_names()) == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_fits_its_backbone(name: str) -> None:
    config = load_config(name)
    spec = encoder_spec(config.model)
    assert (spec.descriptor_dim, spec.image_size_px, spec.kind) == PRESETS[name]
    assert spec.descriptor_dim == find_architecture(config.model.backbone).joint_dim
    check_image_size(find_architecture(config.model.backbone).config, config.stage1.image_size_px)


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"compact"}))
def test_preset_names_a_tag_that_open_clip_has(name: str) -> None:
    model = load_config(name).model
    assert model.pretrained is not None
    tag = tag_config(find_architecture(model.backbone), model.pretrained)
    assert tag is not None
    if name.startswith("mobileclip"):
        assert (model.mean, model.std) == (tag["mean"], tag["std"]) == ((0.0,) * 3, (1.0,) * 3)
    else:
        assert model.mean == IMAGENET_MEAN  # ProGEO's choice, not CLIP's


def test_defaults_are_valid() -> None:
    assert load_config() == TrainConfig()


def test_later_layers_win(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("stage2:\n  epochs: 3\n  batch_size: 16\n", encoding="utf-8")
    config = load_config(path, ["stage2.epochs=5", "model.image_size_px=[96, 128]"])
    assert (config.stage2.epochs, config.stage2.batch_size, config.model.image_size_px) == (5, 16, (96, 128))


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("stage2.epoch=5", ("'stage2.epoch'", "did you mean 'stage2.epochs'")),
        ("stage3.epochs=5", ("'stage3'", "unknown")),
        ("stage2.epochs=none", ("stage2.epochs", "'none'", "integer")),
        ("stage2.epochs=0", ("stage2.epochs", "greater than or equal to 1")),
        ("stage2.images_per_class=3", ("batch_size 32 is no multiple of images_per_class 3",)),
        ("model.image_size_px=512", ("model.image_size_px", "512")),
        ("model.gem_p=.nan", ("model.gem_p",)),
        ("augmentation.hue=0.7", ("augmentation.hue", "0.5")),
        ("run.precision=fp8", ("run.precision", "'fp8'", "'bf16'")),
        ("run.seed", ("run.seed", "section.name=value")),
    ],
)
def test_bad_setting_is_named_in_one_line(override: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("rn50", [override])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"neither a file nor a preset.*compact.*rn50"):
        load_config("rn51")
