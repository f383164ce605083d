"""CosPlace's and EigenPlaces' published encoders (arXiv 2204.02287, 2308.10832): torchvision's ResNet, GeM, linear.

The published trunk is a plain sequence, so its tensors have numbers for names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from progeo_train.models.place_encoder import TORCHVISION, EncoderSpec
from progeo_train.released.layouts import shape_of

IMAGE_SIZE_PX = (512, 512)
"""The published default; the convolutions take any size."""

_HEAD_NAMES = {
    "head.gem.p": "aggregation.1.p",
    "head.linear.weight": "aggregation.3.weight",
    "head.linear.bias": "aggregation.3.bias",
}
_POSITIONS = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
"""Place of each part in the published sequence; 2 and 3 are the activation and the pooling."""


def encoder_spec(tensors: Mapping[str, Tensor], backbone: str, path: Path) -> EncoderSpec:
    """What the file's encoder is.

    Args:
        tensors: Of the file.
        backbone: As recognised: "ResNet18", "ResNet50", "ResNet101" or "ResNet152".
        path: The file, for messages.

    Raises:
        ModelError: the linear layer is missing or no matrix.
    """
    return EncoderSpec(
        kind="torchvision_resnet",
        architecture=f"{TORCHVISION}{backbone.lower()}",
        image_size_px=IMAGE_SIZE_PX,
        descriptor_dim=shape_of(tensors, "aggregation.3.weight", 2, path)[0],
    )


def published_name(name: str) -> str:
    """Name in the published file of one of `PlaceEncoder`'s tensors."""
    if name in _HEAD_NAMES:
        return _HEAD_NAMES[name]
    part, _, rest = name.removeprefix("trunk.").partition(".")
    return f"backbone.{_POSITIONS[part]}.{rest}"


def is_set_aside(name: str) -> bool:
    """Whether a tensor of the file takes no part in a descriptor: none is."""
    return False
