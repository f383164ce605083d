"""Image -> descriptor: the Encoder protocol, and one file per backend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import ModelSpec
from progeo_edge.types import Image


class Encoder(Protocol):
    """Anything that turns images into descriptors."""

    @property
    def spec(self) -> ModelSpec:
        """Identity of the model; stored in every map."""
        ...

    def encode(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """N images, (H, W, 3) BGR or (H, W) grey uint8 of any size, to (N, D) float32 with unit rows."""
        ...

    def close(self) -> None:
        """Free what the encoder holds; it must not be used afterwards."""
        ...


def load_encoder(path: str | Path = "vlad") -> Encoder:
    """Open an encoder.

    Args:
        path: "vlad" for the built-in encoder that needs no weights; otherwise a bundle folder with a manifest.json,
            or an .onnx file beside a .yaml of the same name that states its preprocessing.

    Raises:
        ModelError: missing, altered or unsuitable model; missing extra.
    """
    if str(path) == "vlad":
        from progeo_edge.encoders.vlad import VladEncoder

        return VladEncoder()
    from progeo_edge.encoders.onnx import OnnxEncoder

    return OnnxEncoder(Path(path))
