"""The CLIP model that training starts from: built by open_clip, loaded, and fitted to an input size."""

from __future__ import annotations

import hashlib
import json
import logging
from functools import cached_property

import open_clip
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from progeo_edge.errors import ConfigError
from progeo_train.config import ModelConfig, Size
from progeo_train.models.architectures import (
    Architecture,
    at_size,
    build_clip_modules,
    check_image_size,
    find_architecture,
    set_timm_size,
)
from progeo_train.models.text_tower import TextTower
from progeo_train.models.weights_file import find_weights, load_weights, tag_config

_log = logging.getLogger(__name__)


class ClipModel:
    """A frozen CLIP model for one input size. Build it with `build_clip`.

    Attributes:
        architecture: What it is.
        model: The open_clip model, in evaluation mode, without gradients.
        quick_gelu: Whether it computes QuickGELU.
        image_size_px: Height and width of its input.
    """

    def __init__(self, architecture: Architecture, model: nn.Module, quick_gelu: bool, image_size_px: Size) -> None:
        self.architecture = architecture
        self.model = model
        self.quick_gelu = quick_gelu
        self.image_size_px = image_size_px

    @property
    def visual(self) -> nn.Module:
        """The image tower: (N, 3, H, W) normalised to (N, joint_dim), not of unit length."""
        return self.model.get_submodule("visual")

    @property
    def joint_dim(self) -> int:
        """Dimension of the space that images and texts share."""
        return self.architecture.joint_dim

    @cached_property
    def text(self) -> TextTower:
        """The text tower, which shares this model's weights.

        Raises:
            ConfigError: the architecture's text tower is of an unsupported kind.
        """
        return TextTower(self.model)

    def weights_fingerprint(self) -> str:
        """sha256 (hex) over everything that decides the features: architecture, size, activation and all weights."""
        described = [dict(self.architecture.config), self.quick_gelu, list(self.image_size_px)]
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def build_clip(config: ModelConfig, image_size_px: Size) -> ClipModel:
    """Build CLIP with the weights of the settings, or random ones, for one input size.

    Without weights, the random ones come from torch's global generator, in open_clip's initialisation. Mind that it
    gives a ResNet zeros in the last batch norm of every block: all descriptors are nearly equal until it is trained.

    Args:
        config: `backbone`, `pretrained` and `quick_gelu`.
        image_size_px: Height and width of the input. Positional embeddings are interpolated once, here.

    Raises:
        ConfigError: unknown backbone or weights, or a size that the tower cannot take.
        ModelError: weights that cannot be had, or that are of another architecture.
    """
    architecture = find_architecture(config.backbone)
    check_image_size(architecture.config, image_size_px)
    quick_gelu = _choose_activation(config, architecture)
    if config.pretrained is None:
        _log.warning(
            "model.pretrained is not set: %s starts from RANDOM weights. That is for training from scratch and for "
            "tests; its descriptors mean nothing before. Set --pretrained to an open_clip tag or a local file.",
            architecture.name,
        )
        model = build_clip_modules(at_size(architecture.config, image_size_px), quick_gelu)
    else:
        weights = find_weights(architecture, config.pretrained)
        model = build_clip_modules(architecture.config, quick_gelu)
        load_weights(model, weights)
    _fit_to_size(model.get_submodule("visual"), image_size_px)
    model.requires_grad_(False).eval()
    return ClipModel(architecture, model, quick_gelu, image_size_px)


def _choose_activation(config: ModelConfig, architecture: Architecture) -> bool:
    """Whether to compute QuickGELU: the setting, else as the tag's weights need it, else as the architecture says."""
    chosen = architecture.quick_gelu if config.quick_gelu is None else config.quick_gelu
    if config.pretrained is None:
        return chosen
    tag = tag_config(architecture, config.pretrained)
    if tag is not None:
        needed = bool(tag.get("quick_gelu", False))
        if config.quick_gelu is None:
            return needed
        if config.quick_gelu != needed:
            _log.warning(
                "model.quick_gelu is %s, but the weights %r of %s were trained with %s; leave it out to follow them",
                config.quick_gelu,
                config.pretrained,
                architecture.name,
                needed,
            )
    elif config.quick_gelu is None and not chosen and _has_quick_gelu_twin(architecture):
        _log.warning(
            "weights %s: computing %s with GELU; if they are OpenAI's, set model.quick_gelu=true (false ends this "
            "message)",
            config.pretrained,
            architecture.name,
        )
    return chosen


def _has_quick_gelu_twin(architecture: Architecture) -> bool:
    return architecture.built_in and f"{architecture.name}-quickgelu" in open_clip.list_models()


def _fit_to_size(tower: nn.Module, image_size_px: Size) -> None:
    if isinstance(tower, TimmModel):
        set_timm_size(tower, image_size_px)
    elif isinstance(tower, ModifiedResNet):
        _fit_attention_pool(tower, image_size_px)
    elif isinstance(tower, VisionTransformer):
        _fit_patches(tower, image_size_px)
    else:
        raise ConfigError(f"image tower {type(tower).__name__} is not supported; choose another model.backbone")


def _fit_attention_pool(resnet: ModifiedResNet, image_size_px: Size) -> None:
    pool = resnet.attnpool
    side = round((len(pool.positional_embedding) - 1) ** 0.5)
    height, width = (_map_side(px) for px in image_size_px)
    pool.positional_embedding = resize_positions(pool.positional_embedding, (side, side), (height, width))
    resnet.image_size = image_size_px


def _map_side(side_px: int) -> int:
    """Positions along one side after layer4: a strided convolution rounds up, four average pools round down."""
    return (side_px + 1) // 2 // 16


def _fit_patches(vit: VisionTransformer, image_size_px: Size) -> None:
    grid = (image_size_px[0] // vit.patch_size[0], image_size_px[1] // vit.patch_size[1])
    vit.positional_embedding = resize_positions(vit.positional_embedding, tuple(vit.grid_size), grid)
    vit.grid_size = grid
    vit.image_size = image_size_px


def resize_positions(embedding: Tensor, old: tuple[int, int], new: tuple[int, int]) -> nn.Parameter:
    """Interpolate a grid of positional embeddings (bicubic, antialiased, as open_clip does when it loads weights).

    Args:
        embedding: (1 + old rows * old columns, width), the first for the class token.
        old: Rows and columns of the grid it is for.
        new: Rows and columns wanted.

    Returns:
        (1 + new rows * new columns, width).
    """
    if old == new:
        return nn.Parameter(embedding.detach())
    first, grid = embedding.detach()[:1], embedding.detach()[1:]
    images = grid.T.reshape(1, -1, *old)
    resized = F.interpolate(images, size=new, mode="bicubic", antialias=True, align_corners=False)
    return nn.Parameter(torch.cat([first, resized[0].flatten(1).T]))
