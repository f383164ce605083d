"""Peers of `progeo-bench --vs` that need torch: preprocessing by open_clip and Pillow, the model in torch.

The encoder is the checkpoint's, or without one of the same architecture with random weights, which takes the same time
per image and whose descriptors mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image as pil
from torch import Tensor

from progeo_edge.benchmark.peers.frames import frame_steps, numpy_search
from progeo_edge.benchmark.peers.peer import Step
from progeo_edge.benchmark.peers.resizing import stated_preprocess
from progeo_edge.bundle import Preprocess
from progeo_edge.types import Image
from progeo_train.checkpoint_file import load_encoder_weights
from progeo_train.config import ModelConfig
from progeo_train.models.place_encoder import EncoderSpec, PlaceEncoder, build_encoder_from_spec, encoder_spec

Model = Callable[[Tensor], Tensor]

_RESIZE_MODES = {"squash": "squash", "crop": "shortest", "pad": "longest"}


class TorchPeer:
    """Torch eager on the CPU.

    Settings: "preprocess" (of the bundle), "frames", "threads", "database", and "checkpoint", or "architecture" and
    "dimension" when there is none.

    Raises:
        ProgeoError: the checkpoint or the architecture cannot be used.
    """

    _how = "eager"

    def __init__(self, settings: Mapping[str, Any]) -> None:
        torch.set_num_threads(settings["threads"])
        spec = stated_preprocess(settings)
        encoder = _open_model(settings, spec).eval().requires_grad_(False)
        model, transform = self._ready(encoder, spec), _transform(spec, encoder.spec)
        checkpoint = settings.get("checkpoint")
        self.facts: Mapping[str, Any] = {
            "runs": f"torch {torch.__version__} {self._how} on the CPU, open_clip {open_clip.__version__}",
            "weights": "random" if checkpoint is None else Path(checkpoint).name,
            "random_weights": checkpoint is None,
        }
        self.steps: Mapping[str, Step] = frame_steps(
            settings,
            prepare=lambda image: transform(_as_picture(image)).unsqueeze(0),
            infer=lambda batch: _unit_row(model, batch),
            search=numpy_search(settings),
        )

    @staticmethod
    def import_libraries(settings: Mapping[str, Any]) -> None:
        """Nothing: this module has imported torch and open_clip."""

    def _ready(self, model: Model, spec: Preprocess) -> Model:
        return model


class CompiledTorchPeer(TorchPeer):
    """torch.compile with its default settings; the first inference, which compiles, belongs to opening it."""

    _how = "torch.compile"

    def _ready(self, model: Model, spec: Preprocess) -> Model:
        compiled = cast(Model, torch.compile(model))
        _unit_row(compiled, torch.zeros(1, 3, spec.height_px, spec.width_px))
        return compiled


def _open_model(settings: Mapping[str, Any], spec: Preprocess) -> PlaceEncoder:
    """The encoder of the checkpoint, or one of the same architecture."""
    checkpoint = settings.get("checkpoint")
    if checkpoint is not None:
        return load_encoder_weights(Path(checkpoint))
    config = ModelConfig(
        backbone=str(settings["architecture"]),
        image_size_px=(spec.height_px, spec.width_px),
        descriptor_dim=settings.get("dimension"),
    )
    return build_encoder_from_spec(encoder_spec(config))


def _transform(spec: Preprocess, trained: EncoderSpec) -> Callable[[pil.Image], Tensor]:
    """open_clip's own, with the size and aspect of the bundle and the statistics of the encoder."""
    transform = open_clip.image_transform(
        (spec.height_px, spec.width_px),
        is_train=False,
        mean=trained.mean,
        std=trained.std,
        resize_mode=_RESIZE_MODES[spec.aspect],
        interpolation="bicubic",
    )
    return cast("Callable[[pil.Image], Tensor]", transform)


def _as_picture(image: Image) -> pil.Image:
    return pil.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _unit_row(infer: Model, batch: Tensor) -> NDArray[np.float32]:
    with torch.inference_mode():
        return cast("NDArray[np.float32]", torch.nn.functional.normalize(infer(batch), dim=1)[0].numpy())
