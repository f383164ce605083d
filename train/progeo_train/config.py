"""Every setting of the training, typed and strict; presets are YAML files in `presets/`.

The defaults are the published ones of ProGEO (arXiv 2406.01906) and, for the places, of CosPlace (arXiv 2204.02287).
docs/training.md explains them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from progeo_edge import settings
from progeo_edge.errors import ConfigError
from progeo_edge.settings import Section

PRESETS = Path(__file__).parent / "presets"
DOCUMENTATION = "docs/training.md"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Size = tuple[int, int]
PerChannel = tuple[float, float, float]


class ModelConfig(Section):
    """The image encoder, and the CLIP model that it comes from."""

    backbone: str = Field(
        "RN50", min_length=1, description="an open_clip architecture, one of ours, or a JSON file of that form"
    )
    pretrained: str | None = Field(None, description="open_clip tag or local file; None: random weights")
    quick_gelu: bool | None = Field(None, description="None: as the weights need it (OpenAI's do)")
    image_size_px: Size = Field((512, 512), description="height and width that the encoder sees")
    descriptor_dim: int | None = Field(None, ge=1, description="None: CLIP's joint one, which the text term needs")
    gem_p: float = Field(3.0, gt=0, description="ResNets: exponent of GeM at the start; learned")
    gem_eps: float = Field(1e-6, gt=0, description="ResNets: smallest value that GeM raises to p")
    normalise: bool = Field(True, description="end in the L2 norm; the published ViT code does not")
    frozen_resnet_layers: int = Field(2, ge=0, le=4, description="ResNets: stem and the first so many layers stay")
    frozen_blocks: int = Field(6, ge=0, description="ViTs: patch embedding and the first so many blocks stay")
    train_all_layers: bool = Field(False, description="freeze nothing")
    frozen_batch_norm: bool = Field(False, description="batch norms keep their stored statistics")
    mean: PerChannel = Field(IMAGENET_MEAN, description="RGB, for values scaled to 0..1")
    std: PerChannel = Field(IMAGENET_STD, description="RGB, for values scaled to 0..1")


class PlacesConfig(Section):
    """What one place is, and which places are told apart in one epoch."""

    cell_m: float = Field(10.0, gt=0, description="M: side of a cell")
    heading_deg: float = Field(30.0, gt=0, le=360, description="alpha: headings of one class; 360 needs no headings")
    cell_stride: int = Field(5, ge=1, description="N: cells between two classes of a group")
    heading_stride: int = Field(2, ge=1, description="L: headings between two classes of a group")
    groups: int = Field(8, ge=1, description="groups used, the first ones")
    min_images_per_class: int = Field(10, ge=1, description="smaller classes are left out")
    window_s: float = Field(5.0, gt=0, description="without poses: images this close in time are a place")
    min_gap_s: float = Field(10.0, ge=0, description="without poses: closer places are never told apart in a group")
    min_gap_m: float = Field(25.0, ge=0, description="recordings with odometry: as min_gap_s, in metres")
    frame_interval_s: float = Field(0.5, ge=0, description="recordings: time between two training images; 0 takes all")


class PromptConfig(Section):
    """The learned text of a place."""

    template: str = Field("A photo of a X X X X street.", description="the X are learned, one word each")
    init_std: float = Field(0.02, gt=0, description="standard deviation of the learned tokens at the start")


class Stage1Config(Section):
    """Learning the prompts against the frozen CLIP."""

    image_size_px: Size = Field((224, 224), description="height and width that the frozen CLIP sees")
    epochs: int = Field(480, ge=1, description="rotating over the groups")
    batch_size: int = Field(512, ge=2, description="over all processes")
    learning_rate: float = Field(1e-2, gt=0)
    temperature: float = Field(1.0, gt=0)
    feature_batch_size: int = Field(64, ge=1, description="images described at a time, per process")


class Stage2Config(Section):
    """Tuning the image encoder under the prompts."""

    epochs: int = Field(64, ge=1, description="one group per epoch")
    iterations_per_epoch: int = Field(10_000, ge=1)
    batch_size: int = Field(32, ge=2, description="over all processes")
    learning_rate: float = Field(1e-5, gt=0, description="of the encoder")
    classifier_learning_rate: float = Field(1e-2, gt=0)
    cosface_scale: float = Field(30.0, gt=0, description="s")
    cosface_margin: float = Field(0.4, ge=0, lt=1, description="m")
    text_weight: float = Field(1.0, ge=0, description="weight of the image-text term; 0 leaves it and stage 1 out")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="of the image-text term")
    triplet: bool = Field(False, description="add batch size times the soft-margin triplet loss")
    images_per_class: int = Field(1, ge=1, description="images of a class in one batch; the triplet loss wants 2")


class AugmentationConfig(Section):
    """Random changes per image, on the training device (torchvision's definitions)."""

    brightness: float = Field(0.7, ge=0)
    contrast: float = Field(0.7, ge=0)
    saturation: float = Field(0.7, ge=0)
    hue: float = Field(0.5, ge=0, le=0.5)
    min_crop_area: float = Field(0.5, gt=0, le=1, description="share of the image that a random crop keeps at least")


class ValidationConfig(Section):
    """Recall during training, with the metrics of progeo-eval."""

    every_epochs: int = Field(1, ge=1)
    radius_m: float = Field(25.0, gt=0, description="UTM sets: a positive is within this distance")
    batch_size: int = Field(16, ge=1, description="images described at a time, per process")
    worst_queries: int = Field(0, ge=0, description="pictures of the worst queries after each validation")


class RunConfig(Section):
    """How the program runs, none of what it computes (but for the seed and the precision)."""

    seed: int = Field(0, ge=0)
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="bf16 and fp16: mixed, weights stay fp32")
    workers: int = Field(8, ge=0, description="processes that read images, per training process")
    checkpoint_every_s: float = Field(600.0, ge=0, description="between epochs a checkpoint is written this often")
    log_every: int = Field(50, ge=1, description="iterations averaged in one line of metrics.jsonl")


class TrainConfig(Section):
    """All settings of `progeo-train`."""

    model: ModelConfig = ModelConfig()
    places: PlacesConfig = PlacesConfig()
    prompt: PromptConfig = PromptConfig()
    stage1: Stage1Config = Stage1Config()
    stage2: Stage2Config = Stage2Config()
    augmentation: AugmentationConfig = AugmentationConfig()
    validation: ValidationConfig = ValidationConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _batches_hold_whole_classes(self) -> TrainConfig:
        stage2 = self.stage2
        if stage2.batch_size % stage2.images_per_class:
            raise ValueError(
                f"stage2.batch_size {stage2.batch_size} is no multiple of images_per_class {stage2.images_per_class}"
            )
        return self


def load_config(source: str | Path | None = None, overrides: Sequence[str] = ()) -> TrainConfig:
    """Defaults, then a preset or a YAML file, then `a.b=c` overrides, later ones winning.

    Args:
        source: Name of a preset ("rn50"), or a YAML file; None takes the defaults.
        overrides: Dotted assignments such as "stage2.epochs=8".

    Raises:
        ConfigError: no such preset or file, unknown key (with the nearest known one), wrong type or range.
    """
    from_file = {} if source is None else settings.read_yaml(_find(source))
    values = settings.merge_layers([from_file, settings.read_assignments(overrides)])
    return settings.validate(TrainConfig, values, DOCUMENTATION)


def preset_names() -> list[str]:
    """Names that `load_config` takes."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _find(source: str | Path) -> Path:
    preset = PRESETS / f"{source}.yaml"
    if str(source) == Path(source).name and preset.is_file():
        return preset
    if not Path(source).is_file():
        raise ConfigError(
            f"config {source} is neither a file nor a preset; the presets are {', '.join(preset_names()) or 'none'}"
        )
    return Path(source)
