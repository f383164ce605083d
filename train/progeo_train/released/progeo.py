"""ProGEO's published encoders (arXiv 2406.01906): CLIP's image tower, for ResNets with GeM and a linear layer.

The files hold the text tower and, for ResNets, the attention pool as well; neither takes part in a descriptor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from progeo_edge.errors import ModelError
from progeo_train.models.architectures import find_architecture
from progeo_train.models.place_encoder import EncoderSpec
from progeo_train.released.layouts import clip_resnet_depths, count, shape_of

RESNET_IMAGE_SIZE_PX = (512, 512)
"""What the published training and evaluation feed; a ViT's size follows from its positional embedding."""

_HEAD_WIDTH = 64
_HEAD_NAMES = {
    "head.gem.p": "aggregation.1.p",
    "head.linear.weight": "aggregation.3.weight",
    "head.linear.bias": "aggregation.3.bias",
}
_SET_ASIDE = re.compile(
    r"token_embedding\.weight"
    r"|text_encoder\.(positional_embedding|text_projection|ln_final\.(weight|bias))"
    r"|text_encoder\.transformer\.resblocks\.\d+\."
    r"(ln_[12]\.(weight|bias)|attn\.(in_proj_(weight|bias)|out_proj\.(weight|bias))|mlp\.c_(fc|proj)\.(weight|bias))"
    r"|backbone\.attnpool\.(positional_embedding|[qkvc]_proj\.(weight|bias))"
)


def encoder_spec(tensors: Mapping[str, Tensor], backbone: str, path: Path) -> EncoderSpec:
    """What the file's encoder is; widths, depths and the size of a ViT's input are taken from the tensors.

    Args:
        tensors: Of the file.
        backbone: As recognised: "RN50", "RN101", "ViT-B-16" or "ViT-B-32".
        path: The file, for messages.

    Raises:
        ModelError: a tensor that tells a width is missing or of an impossible shape.
    """
    return _resnet_spec(tensors, backbone, path) if backbone.startswith("RN") else _vit_spec(tensors, backbone, path)


def published_name(name: str) -> str:
    """Name in the published file of one of `PlaceEncoder`'s tensors."""
    return _HEAD_NAMES.get(name) or f"backbone.{name.removeprefix('trunk.')}"


def is_set_aside(name: str) -> bool:
    """Whether a tensor of the file is known, but takes no part in a descriptor."""
    return _SET_ASIDE.fullmatch(name) is not None


def _resnet_spec(tensors: Mapping[str, Tensor], backbone: str, path: Path) -> EncoderSpec:
    width = shape_of(tensors, "backbone.layer1.0.conv1.weight", 4, path)[0]
    descriptor_dim = shape_of(tensors, "aggregation.3.weight", 2, path)[0]
    if width % 2:
        raise ModelError(
            f"released file {path}: backbone.layer1.0.conv1.weight has {width} rows; expected an even number"
        )
    vision = {"layers": list(clip_resnet_depths(tensors)), "width": width}
    return EncoderSpec(
        kind="clip_resnet",
        architecture=backbone,
        architecture_config=_config(backbone, descriptor_dim, vision),
        quick_gelu=True,
        image_size_px=RESNET_IMAGE_SIZE_PX,
        descriptor_dim=descriptor_dim,
    )


def _vit_spec(tensors: Mapping[str, Tensor], backbone: str, path: Path) -> EncoderSpec:
    width, _, _, patch_px = shape_of(tensors, "backbone.conv1.weight", 4, path)
    positions = shape_of(tensors, "backbone.positional_embedding", 2, path)[0]
    descriptor_dim = shape_of(tensors, "backbone.proj", 2, path)[1]
    side = round((positions - 1) ** 0.5)
    if side < 1 or side * side + 1 != positions:
        raise ModelError(
            f"released file {path}: backbone.positional_embedding has {positions} rows; expected a square grid and one"
        )
    if width % _HEAD_WIDTH:
        raise ModelError(f"released file {path}: its width {width} is no multiple of {_HEAD_WIDTH}, CLIP's head width")
    vision = {"layers": count(tensors, "backbone.transformer.resblocks."), "width": width, "patch_size": patch_px}
    return EncoderSpec(
        kind="clip_vit",
        architecture=backbone,
        architecture_config=_config(backbone, descriptor_dim, vision),
        quick_gelu=True,
        image_size_px=(side * patch_px, side * patch_px),
        descriptor_dim=descriptor_dim,
        normalise=False,
    )


def _config(backbone: str, embed_dim: int, vision: Mapping[str, Any]) -> dict[str, Any]:
    config = find_architecture(backbone).config
    return {**config, "embed_dim": embed_dim, "vision_cfg": {**config["vision_cfg"], **vision}}
