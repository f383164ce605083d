"""The image encoder of stage 2: a CLIP image tower (or a torchvision ResNet) and the head that makes descriptors.

ProGEO, arXiv 2406.01906, section 3. A ResNet's map after its last layer goes through `MapHead`, without CLIP's
attention pool; every other tower ends in its own projection, followed by the L2 norm.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from progeo_edge.bundle import Preprocess
from progeo_edge.errors import ConfigError
from progeo_edge.settings import Section
from progeo_train.config import IMAGENET_MEAN, IMAGENET_STD, ModelConfig, PerChannel, Size
from progeo_train.models.architectures import build_image_tower, find_architecture, tower_kind
from progeo_train.models.heads import MapHead, VectorHead

if TYPE_CHECKING:
    from progeo_train.models.clip_model import ClipModel

EncoderKind = Literal["clip_resnet", "clip_vit", "clip_other", "torchvision_resnet"]

TORCHVISION = "torchvision/"
# Channels after layer4 of the torchvision ResNets that published checkpoints have.
TORCHVISION_CHANNELS = {"resnet18": 512, "resnet50": 2048, "resnet101": 2048, "resnet152": 2048}


class EncoderSpec(Section):
    """All that is needed to rebuild an encoder, but for its weights; stored in checkpoints as JSON.

    Attributes:
        kind: Which tower, and so which head.
        architecture: Name of the CLIP architecture, or "torchvision/resnet50".
        architecture_config: The architecture itself in open_clip's JSON form; None for torchvision's.
        quick_gelu: Whether the tower computes QuickGELU.
        image_size_px: Height and width of the input.
        descriptor_dim: Length of the descriptors.
        gem_p: ResNets: exponent of GeM before training; the learned one is a weight.
        gem_eps: ResNets: smallest value that GeM raises to p.
        normalise: Other towers: whether they end in the L2 norm. ResNets always do.
        mean: RGB, for values scaled to 0..1.
        std: As `mean`.
    """

    model_config = ConfigDict(strict=True)

    kind: EncoderKind
    architecture: str
    architecture_config: dict[str, Any] | None = None
    quick_gelu: bool = False
    image_size_px: Size = Field(strict=False)
    descriptor_dim: int = Field(ge=1)
    gem_p: float = Field(3.0, gt=0)
    gem_eps: float = Field(1e-6, gt=0)
    normalise: bool = True
    mean: PerChannel = Field(IMAGENET_MEAN, strict=False)
    std: PerChannel = Field(IMAGENET_STD, strict=False)

    def preprocess(self) -> Preprocess:
        """How an image becomes this encoder's input."""
        height_px, width_px = self.image_size_px
        return Preprocess(
            width_px=width_px,
            height_px=height_px,
            color="rgb",
            layout="nchw",
            dtype="float32",
            mean=self.mean,
            std=self.std,
            resize="area_or_cubic",
            aspect="squash",
        )


class PlaceEncoder(nn.Module):
    """Images to descriptors. Build one with `build_encoder` or `build_encoder_from_spec`.

    Attributes:
        trunk: The tower: images to a map (ResNets) or to a vector (others).
        head: `MapHead` or `VectorHead`.
        spec: What it was built from.
        frozen_batch_norm: Batch norms use and keep their stored statistics also in training mode.
    """

    def __init__(self, trunk: nn.Module, head: nn.Module, spec: EncoderSpec) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.spec = spec
        self.frozen_batch_norm = False

    def forward(self, images: Tensor) -> Tensor:
        """Describe images.

        Args:
            images: (N, 3, H, W) RGB, normalised by the mean and std of `spec`, of its size.

        Returns:
            (N, D), float32 also under autocast; of unit length if `spec.normalise`, and always for ResNets.
        """
        descriptors: Tensor = self.head(self.trunk(images))
        return descriptors

    def train(self, mode: bool = True) -> PlaceEncoder:
        """As `nn.Module.train`, but frozen batch norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


def encoder_spec(config: ModelConfig, quick_gelu: bool | None = None) -> EncoderSpec:
    """The spec of an encoder under these settings; builds nothing.

    Args:
        config: `backbone` is an open_clip architecture, one of ours, a JSON file, or "torchvision/resnet50" and the
            like (whose `descriptor_dim` must be stated).
        quick_gelu: What the loaded CLIP computes; None takes the setting, then what the architecture says.

    Raises:
        ConfigError: unknown architecture, or a descriptor dimension that it cannot give.
    """
    if config.backbone.startswith(TORCHVISION):
        return _torchvision_spec(config)
    architecture = find_architecture(config.backbone)
    if quick_gelu is None:
        quick_gelu = architecture.quick_gelu if config.quick_gelu is None else config.quick_gelu
    descriptor_dim = config.descriptor_dim or architecture.joint_dim
    if architecture.kind != "clip_resnet" and descriptor_dim != architecture.joint_dim:
        raise ConfigError(
            f"model.descriptor_dim is {descriptor_dim}, but {architecture.name} projects to {architecture.joint_dim} "
            "by itself; leave descriptor_dim out (only ResNets have a linear layer of any width)"
        )
    return _spec(
        config,
        kind=architecture.kind,
        architecture=architecture.name,
        architecture_config=dict(architecture.config),
        quick_gelu=quick_gelu,
        descriptor_dim=descriptor_dim,
    )


def check_joint_dimension(descriptor_dim: int, joint_dim: int) -> None:
    """Refuse descriptors that cannot be compared with text features.

    Args:
        descriptor_dim: Length of the descriptors.
        joint_dim: Dimension of CLIP's text features.

    Raises:
        ConfigError: the two differ.
    """
    if descriptor_dim != joint_dim:
        raise ConfigError(
            f"descriptors have {descriptor_dim} dimensions and CLIP's text features {joint_dim}; the image-text term "
            f"needs both equal: leave model.descriptor_dim out or set it to {joint_dim}, or set stage2.text_weight=0"
        )


def build_encoder(clip: ClipModel, config: ModelConfig) -> PlaceEncoder:
    """The encoder that starts from a CLIP model's image tower; the CLIP model keeps its own copy of the weights.

    Args:
        clip: Built for `config.image_size_px` from the same `config.backbone`.
        config: Head and normalisation.

    Returns:
        The encoder in training mode, all its parameters trainable; see `freeze`.

    Raises:
        ConfigError: as `encoder_spec`, or the tower is another one or was built for another size.
    """
    spec = encoder_spec(config, clip.quick_gelu)
    if spec.architecture != clip.architecture.name:
        raise ConfigError(
            f"the CLIP model is a {clip.architecture.name}, model.backbone says {spec.architecture}; name the same"
        )
    if spec.kind != "clip_resnet" and clip.image_size_px != spec.image_size_px:
        raise ConfigError(
            f"the CLIP model takes {clip.image_size_px} px, the encoder {spec.image_size_px} px; build it for the same"
        )
    return _assemble(copy.deepcopy(clip.visual), spec).requires_grad_(True).train()


def build_encoder_from_spec(spec: EncoderSpec) -> PlaceEncoder:
    """An encoder with random weights of the right shapes, for a state dict to be loaded into; nothing is downloaded.

    Raises:
        ConfigError: the spec names what does not exist.
    """
    if spec.kind == "torchvision_resnet":
        return _assemble(_torchvision_trunk(spec), spec)
    config = spec.architecture_config or find_architecture(spec.architecture).config
    if tower_kind(config) != spec.kind:
        raise ConfigError(
            f"architecture {spec.architecture} is a {tower_kind(config)}, the encoder's spec says {spec.kind}"
        )
    return _assemble(build_image_tower(config, spec.image_size_px, spec.quick_gelu), spec)


def freeze(encoder: PlaceEncoder, config: ModelConfig) -> None:
    """Choose what stage 2 trains, as published; every other parameter has `requires_grad` off.

    ResNets keep their stem and layer1 to layer `frozen_resnet_layers`. ViTs keep the patch embedding, ln_pre and the
    first `frozen_blocks` blocks; the class token and the positional embedding are trained. Other towers are trained
    whole, since no rule fits them all.

    Args:
        encoder: Changed in place, and left in the mode (training or evaluation) that it was in.
        config: The settings named above, `train_all_layers` and `frozen_batch_norm`.
    """
    encoder.requires_grad_(True)
    if not config.train_all_layers:
        for module in _lower_layers(encoder, config):
            module.requires_grad_(False)
    encoder.frozen_batch_norm = config.frozen_batch_norm
    encoder.train(encoder.training)


def _lower_layers(encoder: PlaceEncoder, config: ModelConfig) -> Iterable[nn.Module]:
    trunk = encoder.trunk
    kind = encoder.spec.kind
    if kind == "clip_vit":
        blocks = list(trunk.get_submodule("transformer.resblocks").children())
        return [trunk.get_submodule("conv1"), trunk.get_submodule("ln_pre"), *blocks[: config.frozen_blocks]]
    if kind == "clip_other":
        return []
    kept = {f"layer{number}" for number in range(config.frozen_resnet_layers + 1, 5)}
    return [module for name, module in trunk.named_children() if name not in kept]


def _assemble(trunk: nn.Module, spec: EncoderSpec) -> PlaceEncoder:
    head: nn.Module
    if spec.kind == "clip_resnet":
        channels = _last_channels(trunk)
        # The tower's last step; without it the tower returns the map.
        trunk.attnpool = nn.Identity()
        head = MapHead(channels, spec.descriptor_dim, spec.gem_p, spec.gem_eps)
    elif spec.kind == "torchvision_resnet":
        channels = TORCHVISION_CHANNELS[spec.architecture.removeprefix(TORCHVISION)]
        head = MapHead(channels, spec.descriptor_dim, spec.gem_p, spec.gem_eps)
    else:
        head = VectorHead(spec.normalise)
    return PlaceEncoder(trunk, head, spec)


def _last_channels(resnet: nn.Module) -> int:
    convolutions = [module for module in resnet.get_submodule("layer4").modules() if isinstance(module, nn.Conv2d)]
    return max(convolution.out_channels for convolution in convolutions)


def _torchvision_spec(config: ModelConfig) -> EncoderSpec:
    if config.descriptor_dim is None:
        raise ConfigError(f"model.backbone {config.backbone} is no CLIP model; state model.descriptor_dim")
    return _spec(config, kind="torchvision_resnet", architecture=config.backbone, descriptor_dim=config.descriptor_dim)


def _spec(config: ModelConfig, **fields: Any) -> EncoderSpec:  # noqa: ANN401 - checked by pydantic
    return EncoderSpec(
        image_size_px=config.image_size_px,
        gem_p=config.gem_p,
        gem_eps=config.gem_eps,
        normalise=config.normalise,
        mean=config.mean,
        std=config.std,
        **fields,
    )


def _torchvision_trunk(spec: EncoderSpec) -> nn.Module:
    name = spec.architecture.removeprefix(TORCHVISION)
    if name not in TORCHVISION_CHANNELS:
        known = ", ".join(TORCHVISION + known for known in TORCHVISION_CHANNELS)
        raise ConfigError(f"architecture {spec.architecture} is unknown; expected one of {known}")
    # Heavy, and needed for this kind of trunk alone.
    from torchvision import models

    resnet = models.get_model(name, weights=None)
    return nn.Sequential(OrderedDict((key, m) for key, m in resnet.named_children() if key not in ("avgpool", "fc")))
