"""CLIP models of a few thousand parameters, random, for tests that take milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from progeo_train.config import ModelConfig
from progeo_train.models.place_encoder import PlaceEncoder, build_encoder_from_spec, encoder_spec

SIZE_PX = 64
JOINT_DIM = 32

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def tiny_config(kind: Literal["resnet", "vit"] = "resnet", **changes: Any) -> ModelConfig:
    """Settings of a tiny CLIP: 64 x 64 px, joint dimension 32, text of width 32 and 2 layers.

    "resnet" has width 8 and one block per layer; "vit" has width 32, patches of 16 px and 2 blocks.
    """
    values: dict[str, Any] = {
        "backbone": str(Path(__file__).with_name(f"tiny_{kind}.json")),
        "image_size_px": (SIZE_PX, SIZE_PX),
        "frozen_resnet_layers": 1,
        "frozen_blocks": 1,
    }
    return ModelConfig(**{**values, **changes})


def tiny_encoder(kind: Literal["resnet", "vit"] = "resnet", *, seed: int = 0, **changes: Any) -> PlaceEncoder:
    """A tiny encoder with random weights, in evaluation mode, whose descriptors differ between images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = build_encoder_from_spec(encoder_spec(tiny_config(kind, **changes)))
    return liven(encoder, seed=seed).eval()


def liven(module: AnyModule, *, seed: int = 0, size_px: int = SIZE_PX) -> AnyModule:
    """Give every batch norm random weights and statistics that fit.

    A fresh CLIP ResNet has zeros in the last batch norm of every block, so all its descriptors are nearly equal.

    Args:
        module: Takes (N, 3, size_px, size_px); changed in place, its mode kept.
        seed: Of the weights and of the noise that the statistics come from.
        size_px: Side of the noise images.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    was_training = module.training
    module.train()
    with torch.no_grad():
        for norm in norms:
            norm.train()
            norm.weight.uniform_(0.3, 1.2, generator=generator)
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over the passes
        for _ in range(3 if norms else 0):
            module(torch.randn(4, 3, size_px, size_px, generator=generator))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.train(was_training)
    return module
