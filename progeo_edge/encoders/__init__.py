"""Image -> descriptor: the Encoder protocol, and one file per backend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import ModelSpec, Precision
from progeo_edge.encoders.backends import Backend, check_choice, open_model
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


def load_encoder(
    path: str | Path = "vlad",
    *,
    backend: Backend = "auto",
    precision: Precision | None = None,
    whitening: str | Path | None = None,
    threads: int = 0,
    spin: bool = False,
) -> Encoder:
    """Open an encoder. The log (INFO) says what really runs, and why a better backend does not.

    Args:
        path: "vlad" for the built-in encoder that needs no weights; otherwise a bundle folder with a manifest.json,
            or an .onnx file beside a .yaml of the same name that states its preprocessing, or a .safetensors
            checkpoint of progeo-train (with the training extra installed).
        backend: Of a bundle. "tensorrt" runs its TensorRT engine, and builds it first when there is none, which takes
            minutes; "openvino" runs OpenVINO on the CPU; "onnx" runs ONNX Runtime on CUDA, its OpenVINO provider or the
            CPU, the first that works; "auto" takes TensorRT when an engine for this device has been built; else, for
            FP16 and INT8 on an x86 CPU without a GPU for ONNX Runtime, OpenVINO where it is installed and gives the
            bundle's golden descriptors; else "onnx".
        precision: Of a bundle. None takes FP16 where TensorRT runs a bundle that has it, else FP32. Maps of the two fit
            each other; INT8 is another model to them.
        whitening: File of `progeo-calibrate --whiten`, learned for this model; the two together are another model to
            maps. None for none.
        threads: Of one inference on the CPU; 0 takes one per core.
        spin: ONNX Runtime's threads wait for work by polling: a little faster when the cores are free, far slower when
            other programs want them.

    Raises:
        ModelError: missing, altered or unsuitable model; missing extra; a backend or precision that the model or this
            device does not have.
    """
    inner = _open(path, backend, precision, threads, spin)
    if whitening is None:
        return inner
    from progeo_edge.encoders.whitening import WhitenedEncoder, load_whitening

    try:
        return WhitenedEncoder(inner, load_whitening(whitening))
    except BaseException:
        inner.close()
        raise


def _open(path: str | Path, backend: Backend, precision: Precision | None, threads: int, spin: bool) -> Encoder:
    check_choice(backend, precision)
    is_checkpoint = Path(path).suffix.lower() == ".safetensors"
    if str(path) != "vlad" and not is_checkpoint:
        return open_model(Path(path), backend, precision, threads=threads, spin=spin)
    if backend != "auto" or precision is not None:
        what = "is a checkpoint, which torch runs: export it with progeo-export" if is_checkpoint else "is built in"
        raise ModelError(f"model {path} {what}; backend and precision can only be chosen for a bundle")
    if is_checkpoint:
        return _open_checkpoint(Path(path))
    from progeo_edge.encoders.vlad import VladEncoder

    return VladEncoder()


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
