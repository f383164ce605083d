"""Image -> descriptor: the Encoder protocol, and one file per backend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import ModelSpec
from progeo_edge.errors import ModelError
from progeo_edge.types import Image

ENTRY_POINTS = "progeo_edge.encoders"
"""Group of entry points by which an installed package opens checkpoints: file suffix to a callable of the path."""


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
            or an .onnx file beside a .yaml of the same name that states its preprocessing, or a .safetensors
            checkpoint of progeo-train (with the training extra installed).

    Raises:
        ModelError: missing, altered or unsuitable model; missing extra.
    """
    if str(path) == "vlad":
        from progeo_edge.encoders.vlad import VladEncoder

        return VladEncoder()
    if Path(path).suffix.lower() == ".safetensors":
        return _open_checkpoint(Path(path))
    from progeo_edge.encoders.onnx import OnnxEncoder

    return OnnxEncoder(Path(path))


def _open_checkpoint(path: Path) -> Encoder:
    """Checkpoints need torch, which the runtime never imports, so the training package offers to open them."""
    from importlib.metadata import entry_points

    remedy = (
        f"checkpoint {path} needs the training extra: pip install 'progeo-edge[train]', "
        "or export the checkpoint to a bundle with progeo-export"
    )
    offers = list(entry_points(group=ENTRY_POINTS, name="safetensors"))
    if not offers:
        raise ModelError(f"{remedy} (no installed package offers to open it)")
    try:
        opener = offers[0].load()
    except ImportError as error:
        raise ModelError(f"{remedy} ({error})") from error
    return cast(Encoder, opener(path))
