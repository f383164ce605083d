"""Which published layout a set of named tensors has, and of which backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from progeo_edge.errors import ModelError

Family = Literal["ProGEO", "CosPlace"]

VITS = {(16, 12): "ViT-B-16", (32, 12): "ViT-B-32"}
"""(patch size in px, number of blocks) to CLIP's name."""
CLIP_RESNETS: dict[tuple[int, ...], str] = {(3, 4, 6, 3): "RN50", (3, 4, 23, 3): "RN101"}
"""Blocks of layer1 to layer4 to CLIP's name."""
RESNETS: dict[tuple[int, ...], str] = {
    (2, 2, 2, 2, 2): "ResNet18",
    (3, 4, 6, 3, 3): "ResNet50",
    (3, 4, 23, 3, 3): "ResNet101",
    (3, 8, 36, 3, 3): "ResNet152",
}
"""Blocks of layer1 to layer4, and convolutions of a block, to torchvision's name."""
BACKBONES = (*CLIP_RESNETS.values(), *VITS.values(), *RESNETS.values())


@dataclass(frozen=True, slots=True)
class Layout:
    """What was recognised.

    Attributes:
        family: "ProGEO" for CLIP's towers; "CosPlace" for torchvision's ResNets, which EigenPlaces shares.
        backbone: One of `BACKBONES`, or a description of what is none of them.
    """

    family: Family
    backbone: str


def recognise(tensors: Mapping[str, Tensor], path: Path) -> Layout:
    """Recognise family and backbone by the names of the tensors; widths play no part.

    Args:
        tensors: Of the file.
        path: The file, for messages.

    Raises:
        ModelError: neither a ProGEO nor a CosPlace or EigenPlaces layout.
    """
    if _any(tensors, "backbone.transformer.resblocks."):
        patch_px = shape_of(tensors, "backbone.conv1.weight", 4, path)[-1]
        blocks = count(tensors, "backbone.transformer.resblocks.")
        return Layout("ProGEO", VITS.get((patch_px, blocks), f"a ViT of {blocks} blocks with patches of {patch_px} px"))
    if _any(tensors, "backbone.layer1."):
        depths = clip_resnet_depths(tensors)
        return Layout("ProGEO", CLIP_RESNETS.get(depths, f"a CLIP ResNet with {depths} blocks"))
    if _any(tensors, "backbone.4.0.conv1."):
        blocks_per_layer = tuple(count(tensors, f"backbone.{index}.") for index in (4, 5, 6, 7))
        convolutions = 3 if _any(tensors, "backbone.4.0.conv3.") else 2
        known = RESNETS.get((*blocks_per_layer, convolutions))
        return Layout("CosPlace", known or f"a ResNet with {blocks_per_layer} blocks of {convolutions} convolutions")
    if _any(tensors, "visual."):
        raise ModelError(f"{path} is a whole CLIP model, not a trained place encoder; name it with model.pretrained")
    if _any(tensors, "backbone."):
        raise ModelError(
            f"released file {path} is of a backbone that cannot be imported (such as VGG16 or EfficientNet); "
            f"known are {', '.join(BACKBONES)}"
        )
    raise ModelError(
        f"released file {path} has no tensors named backbone.*, so it is no file of ProGEO, CosPlace or EigenPlaces; "
        f"it begins with {', '.join(list(tensors)[:3])}"
    )


def check_backbone(layout: Layout, asked: str | None, path: Path) -> None:
    """Compare what was recognised with what was asked for.

    Args:
        layout: What was recognised.
        asked: A name such as "RN50", "CLIP-RN50", "ViT-B/16" or "resnet50"; None takes what was recognised.
        path: The file, for messages.

    Raises:
        ModelError: an unknown name, another backbone, or one that cannot be imported.
    """
    known = {_plain(name): name for name in BACKBONES}
    if asked is not None and _plain(asked) not in known:
        raise ModelError(f"backbone {asked!r} cannot be imported; known are {', '.join(BACKBONES)}")
    if layout.backbone not in BACKBONES:
        raise ModelError(f"released file {path} is of {layout.backbone}; known are {', '.join(BACKBONES)}")
    if asked is not None and known[_plain(asked)] != layout.backbone:
        raise ModelError(
            f"released file {path} is of backbone {layout.backbone}, not {known[_plain(asked)]}; "
            f"give --backbone {layout.backbone}"
        )


def shape_of(tensors: Mapping[str, Tensor], name: str, num_axes: int, path: Path) -> tuple[int, ...]:
    """Shape of a tensor that must be there.

    Raises:
        ModelError: it is missing, or has another number of axes.
    """
    if name not in tensors:
        raise ModelError(f"released file {path} misses {name}")
    shape = tuple(tensors[name].shape)
    if len(shape) != num_axes or 0 in shape:
        raise ModelError(f"released file {path}: {name} has shape {shape}; expected {num_axes} axes")
    return shape


def clip_resnet_depths(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks of layer1 to layer4 of CLIP's ResNet."""
    return tuple(count(tensors, f"backbone.layer{number}.") for number in (1, 2, 3, 4))


def count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """One more than the largest number that follows `prefix` in a name; 0 when there is none."""
    numbers = (name[len(prefix) :].partition(".")[0] for name in tensors if name.startswith(prefix))
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


def _any(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in tensors)


def _plain(backbone: str) -> str:
    return backbone.replace("/", "-").lower().removeprefix("clip-")
