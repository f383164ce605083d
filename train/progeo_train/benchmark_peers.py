"""Peers of `progeo-bench --vs` that need torch: preprocessing by open_clip and Pillow, the model in torch.

The encoder is the checkpoint's, or without one open_clip's image tower with random weights, which takes the same time
per image and whose descriptors mean nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image as pil
from torch import Tensor, nn

from progeo_edge.benchmark.peers.frames import frame_steps, numpy_search
from progeo_edge.benchmark.peers.peer import Step
from progeo_edge.bundle import Preprocess
from progeo_edge.types import Image

_RESIZE_MODES = {"squash": "squash", "crop": "shortest"}


class TorchPeer:
    """Torch eager on the CPU.

    Settings: "preprocess" (of the bundle), "frames", "threads", "database", and "checkpoint", or "architecture" of
    open_clip when there is none.

    Raises:
        ProgeoError: the checkpoint cannot be used.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        torch.set_num_threads(settings["threads"])
        spec = Preprocess.model_validate(settings["preprocess"])
        model, weights = _open_model(settings, (spec.height_px, spec.width_px))
        infer = self._ready(model.eval().requires_grad_(False))
        transform = _transform(spec)
        self.facts: Mapping[str, Any] = {
            "runs": f"torch {torch.__version__} on the CPU{self._how}, open_clip {open_clip.__version__}",
            "weights": weights,
        }
        self.steps: Mapping[str, Step] = frame_steps(
            settings,
            prepare=lambda image: transform(_as_picture(image)).unsqueeze(0),
            infer=lambda batch: _unit_row(infer, batch),
            resized=None,
            search=numpy_search(settings),
        )

    _how = ", eager"

    @staticmethod
    def import_libraries(settings: Mapping[str, Any]) -> None:
        """Nothing: this module has imported torch and open_clip."""

    def _ready(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        return model


class CompiledTorchPeer(TorchPeer):
    """torch.compile with its default settings; the first inference, which compiles, belongs to opening it."""

    _how = ", torch.compile"

    def _ready(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        return cast("Callable[[Tensor], Tensor]", torch.compile(model))


def _open_model(settings: Mapping[str, Any], size_px: tuple[int, int]) -> tuple[nn.Module, str]:
    """The encoder, and where its weights come from."""
    checkpoint = settings.get("checkpoint")
    if checkpoint is not None:
        checkpoints = importlib.import_module("progeo_train.checkpoint_file")
        return checkpoints.load_encoder_weights(Path(checkpoint)), f"checkpoint {Path(checkpoint).name}"
    name = str(settings["architecture"])
    model = open_clip.create_model(name, pretrained=None, force_image_size=size_px)
    return model.visual, f"random weights of open_clip's {name}"


def _transform(spec: Preprocess) -> Callable[[pil.Image], Tensor]:
    mean, std = spec.mean or (0.485, 0.456, 0.406), spec.std or (0.229, 0.224, 0.225)
    transform = open_clip.image_transform(
        (spec.height_px, spec.width_px),
        is_train=False,
        mean=mean,
        std=std,
        resize_mode=_RESIZE_MODES.get(spec.aspect, "longest"),
        interpolation="bicubic",
    )
    return cast("Callable[[pil.Image], Tensor]", transform)


def _as_picture(image: Image) -> pil.Image:
    return pil.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _unit_row(infer: Callable[[Tensor], Tensor], batch: Tensor) -> NDArray[np.float32]:
    with torch.inference_mode():
        return cast("NDArray[np.float32]", torch.nn.functional.normalize(infer(batch), dim=1)[0].numpy())
