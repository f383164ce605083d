"""What the exporter is given: a checkpoint of this project, a published file, or the name of a stock CLIP model."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from progeo_edge.errors import ConfigError, ModelError
from progeo_edge.graph_file import file_sha256
from progeo_train.checkpoint_file import (
    MODEL_PREFIX,
    SUFFIX,
    CheckpointRecord,
    encoder_of,
    read_checkpoint,
    tensor_sha256,
)
from progeo_train.config import IMAGENET_MEAN, IMAGENET_STD, ModelConfig, PerChannel, Size
from progeo_train.models.architectures import find_architecture
from progeo_train.models.clip_model import build_clip, resize_positions
from progeo_train.models.heads import MapHead
from progeo_train.models.place_encoder import (
    EncoderSpec,
    PlaceEncoder,
    build_encoder,
    build_encoder_from_spec,
    encoder_spec,
)
from progeo_train.models.weights_file import tag_config
from progeo_train.released import import_released

_log = logging.getLogger(__name__)

RELEASED_SUFFIXES = (".pth", ".pt")
ARCHITECTURE_SUFFIX = ".json"
_LAYER_SCALE = "layer_scale"
_POSITIONS = "trunk.positional_embedding"
_DEFAULT_SIDE_PX = 224


@dataclass(frozen=True)
class SourceModel:
    """An encoder to export, and where it comes from.

    Attributes:
        encoder: On the CPU, in evaluation mode.
        name: What a person calls it.
        architecture: Backbone and head, "RN50-GeM" or "ViT-B-16".
        checkpoint_sha256: Of the file; of the weights when there is no one file.
        spec: The encoder's own.
        warning: What a user must know of it: that stock and random weights are not trained for places. None for others.
    """

    encoder: PlaceEncoder
    name: str
    architecture: str
    checkpoint_sha256: str
    spec: EncoderSpec
    warning: str | None


def open_model(source: str, size_px: Size | None = None) -> SourceModel:
    """Open a model for export.

    Args:
        source: A .safetensors checkpoint of progeo-train; a published .pth of ProGEO, CosPlace or EigenPlaces; or an
            open_clip architecture (also one of ours, or a .json file of that form): "RN50:openai" with a tag or a
            local file of weights, "RN50" with random ones. A warning says that stock and random models are not trained
            for places.
        size_px: Height and width of the input; None keeps the model's own. A ViT's positions are interpolated.

    Raises:
        ModelError: the file is missing, damaged or no encoder; weights that cannot be had; an unknown source.
        ConfigError: a size that the architecture cannot take, or an unknown tag of weights.
    """
    path = Path(source).expanduser()
    if path.suffix == SUFFIX:
        return _open_checkpoint(path, size_px)
    if path.suffix in RELEASED_SUFFIXES and ":" not in source:
        return _open_released(path, size_px)
    if path.is_file() and path.suffix != ARCHITECTURE_SUFFIX:
        raise ModelError(
            f"{source} is no checkpoint; expected a {SUFFIX} file of progeo-train, a published "
            f"{RELEASED_SUFFIXES[0]} file, or an open_clip name such as RN50:openai"
        )
    return _open_stock(source, size_px)


def _open_checkpoint(path: Path, size_px: Size | None, origin: Path | None = None) -> SourceModel:
    record, tensors = read_checkpoint(path, MODEL_PREFIX)
    if record.encoder is not None and size_px is not None:
        record, tensors = _at_size(record, record.encoder, tensors, size_px)
    encoder = encoder_of(record, tensors, path)
    named_by = origin or path
    return SourceModel(
        encoder=encoder,
        name=record.name or f"{encoder.spec.architecture} {named_by.stem}",
        architecture=_architecture(encoder),
        checkpoint_sha256=file_sha256(named_by),
        spec=encoder.spec,
        warning=None,
    )


def _open_released(path: Path, size_px: Size | None) -> SourceModel:
    with tempfile.TemporaryDirectory(prefix="progeo-import-") as folder:
        # The name of the model is made of the file's.
        imported = Path(folder) / f"{path.stem}{SUFFIX}"
        import_released(path, None, imported)
        return _open_checkpoint(imported, size_px, origin=path)


def _at_size(
    record: CheckpointRecord, spec: EncoderSpec, tensors: Mapping[str, Tensor], size_px: Size
) -> tuple[CheckpointRecord, dict[str, Tensor]]:
    """The same model for another input size."""
    resized = dict(tensors)
    if spec.kind == "clip_vit" and _POSITIONS in resized:
        patch_px = _patch_px(spec)
        old, new = (
            (height_px // patch_px, width_px // patch_px) for height_px, width_px in (spec.image_size_px, size_px)
        )
        resized[_POSITIONS] = resize_positions(resized[_POSITIONS], old, new).detach()
    changed = spec.model_copy(update={"image_size_px": size_px})
    return record.model_copy(update={"encoder": changed}), resized


def _patch_px(spec: EncoderSpec) -> int:
    """Side of a ViT's patches in pixels."""
    config = spec.architecture_config or find_architecture(spec.architecture).config
    return int(config["vision_cfg"].get("patch_size", 16))


def _open_stock(source: str, size_px: Size | None) -> SourceModel:
    backbone, _, pretrained = source.partition(":")
    try:
        config = _stock_config(backbone, pretrained or None, size_px)
    except ConfigError as error:
        raise ModelError(
            f"{source!r} is neither a file nor an architecture: {error}; a checkpoint's name ends in {SUFFIX} or .pth"
        ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if config.pretrained is None:
            encoder = build_encoder_from_spec(encoder_spec(config))
            _wake_layer_scales(encoder)
            _settle_batch_norms(encoder)
        else:
            encoder = build_encoder(build_clip(config, config.image_size_px), config)
        _centre_random_head(encoder)
    encoder.eval()
    warning = _warning(source, encoder, is_random=config.pretrained is None)
    _log.warning("%s. Export a checkpoint of progeo-train, or a published one, for a robot.", warning)
    return SourceModel(
        encoder=encoder,
        name=source.replace(":", " "),
        architecture=_architecture(encoder),
        checkpoint_sha256=_weights_sha256(encoder),
        spec=encoder.spec,
        warning=warning,
    )


def _stock_config(backbone: str, pretrained: str | None, size_px: Size | None) -> ModelConfig:
    architecture = find_architecture(backbone)
    own = architecture.config["vision_cfg"].get("image_size", _DEFAULT_SIDE_PX)
    own_px = (own, own) if isinstance(own, int) else (int(own[0]), int(own[1]))
    mean, std = _statistics(backbone, pretrained)
    return ModelConfig(backbone=backbone, pretrained=pretrained, image_size_px=size_px or own_px, mean=mean, std=std)


def _statistics(backbone: str, pretrained: str | None) -> tuple[PerChannel, PerChannel]:
    """The mean and std that stock weights were trained with."""
    tag = None if pretrained is None else tag_config(find_architecture(backbone), pretrained)
    if tag is None or "mean" not in tag:
        return IMAGENET_MEAN, IMAGENET_STD
    mean, std = ((float(red), float(green), float(blue)) for red, green, blue in (tag["mean"], tag["std"]))
    return mean, std


def _warning(source: str, encoder: PlaceEncoder, *, is_random: bool) -> str:
    if is_random:
        return f"{source} has RANDOM weights: it proves the tools and describes nothing"
    if isinstance(encoder.head, MapHead):
        return (
            f"{source} is stock CLIP, NOT trained for places, and describes through a RANDOM projection, since the "
            "attention pool of CLIP's ResNets is no part of the encoder: expect poor recall"
        )
    return f"{source} is stock CLIP, NOT trained for places: expect poor recall"


def _wake_layer_scales(encoder: PlaceEncoder) -> None:
    """Give the layer scales of timm's towers, which start at 1e-5, the size that they grow to.

    With a fresh one no block adds anything to its input, and a comparison of precisions would see the stem alone.
    """
    with torch.no_grad():
        for name, values in encoder.named_parameters():
            if _LAYER_SCALE in name:
                values.uniform_(0.1, 1.0)


def _settle_batch_norms(encoder: PlaceEncoder) -> None:
    """Give every batch norm random weights, and the statistics that they lead to.

    A fresh CLIP ResNet has zeros in the last batch norm of every block: all its descriptors are nearly equal, and a
    comparison of precisions on them would prove nothing.
    """
    norms = [part for part in encoder.modules() if isinstance(part, _BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    encoder.train()
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.3, 1.2)
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over the passes
        for _ in range(3):
            encoder(torch.randn(4, 3, *encoder.spec.image_size_px))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _centre_random_head(encoder: PlaceEncoder) -> None:
    """Blind a ResNet's random linear layer to the mean of the pooled channels, which is alike in all images."""
    if isinstance(encoder.head, MapHead):
        linear: nn.Linear = encoder.head.linear
        with torch.no_grad():
            linear.weight -= linear.weight.mean(dim=1, keepdim=True)
            linear.bias.zero_()


def _architecture(encoder: PlaceEncoder) -> str:
    name = encoder.spec.architecture.removeprefix("torchvision/")
    return f"{name}-GeM" if isinstance(encoder.head, MapHead) else name


def _weights_sha256(encoder: PlaceEncoder) -> str:
    digest = hashlib.sha256(encoder.spec.model_dump_json().encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor_sha256(tensor)}\n".encode())
    return digest.hexdigest()
