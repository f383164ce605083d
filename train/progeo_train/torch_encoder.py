"""A checkpoint as an encoder of the runtime, so that `progeo-eval` and `progeo-run` judge it before export."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from progeo_edge.bundle import ModelSpec
from progeo_edge.errors import ModelError
from progeo_edge.preprocess import to_model_input
from progeo_edge.types import Image
from progeo_train.checkpoint_file import MODEL_PREFIX, encoder_of, read_checkpoint
from progeo_train.models.place_encoder import PlaceEncoder

_MIN_NORM = 1e-6


class TorchEncoder:
    """Image -> descriptor by torch, in single precision. Safe to call from several threads.

    Args:
        path: Checkpoint with an encoder in it (docs/checkpoints.md).
        device: Torch's name of a device; None takes "cuda" where it is available, else "cpu".
        batch_size: Images described at a time.

    Raises:
        ModelError: the checkpoint is missing, damaged or holds no encoder; the device cannot be used.
    """

    def __init__(self, path: Path | str, *, device: str | None = None, batch_size: int = 16) -> None:
        self._path = Path(path)
        self._batch_size = max(1, batch_size)
        self._device = _choose_device(device)
        record, tensors = read_checkpoint(self._path, MODEL_PREFIX)
        encoder = encoder_of(record, tensors, self._path)
        self._preprocess = encoder.spec.preprocess()
        self._encoder: PlaceEncoder | None = encoder.to(self._device).requires_grad_(False)
        self._spec = ModelSpec(
            name=record.name or f"{encoder.spec.architecture} {self._path.stem}",
            dimension=encoder.spec.descriptor_dim,
            fingerprint=_fingerprint(record.model_sha256, self._preprocess.hash),
        )

    @property
    def spec(self) -> ModelSpec:
        """Identity of the model; its fingerprint covers weights, architecture and preprocessing."""
        return self._spec

    @property
    def device(self) -> str:
        """Torch's name of the device that computes."""
        return str(self._device)

    def encode(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """N images, (H, W, 3) BGR or (H, W) grey uint8 of any sizes, to (N, D) float32 with unit rows.

        Rows are normalised here when the encoder leaves that out (the published ViT code does).

        Raises:
            InputError: an image of another shape or type.
            ModelError: the model fails, or gives NaN or a zero vector; the encoder was closed.
        """
        rows = np.empty((len(images), self._spec.dimension), dtype=np.float32)
        for start in range(0, len(images), self._batch_size):
            chunk = images[start : start + self._batch_size]
            rows[start : start + len(chunk)] = self._run(to_model_input(chunk, self._preprocess))
        return rows

    def close(self) -> None:
        """Free the weights; `encode` raises afterwards."""
        self._encoder = None

    def _run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        encoder = self._encoder
        if encoder is None:
            raise ModelError(f"encoder of {self._path} was closed; open it again with load_encoder")
        try:
            with torch.inference_mode():
                output = encoder(torch.from_numpy(batch).to(self._device)).cpu().numpy()
        except RuntimeError as error:  # also out of memory
            reason = str(error).partition("\n")[0]
            raise ModelError(
                f"checkpoint {self._path} failed on a batch of shape {batch.shape} on {self._device}: {reason}; "
                "take a smaller batch_size, or device='cpu'"
            ) from error
        return _unit_rows(output, self._path)


def _choose_device(asked: str | None) -> torch.device:
    name = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        reason = str(error).partition("\n")[0]
        raise ModelError(f"device {name!r} cannot be used by torch: {reason}; use 'cpu', or leave it out") from error
    return device


def _unit_rows(output: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    norms = np.linalg.norm(output.astype(np.float64), axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > _MIN_NORM)))
    if bad.size:
        raise ModelError(
            f"checkpoint {path} gave a descriptor of norm {norms[bad[0], 0]} for image {bad[0]} of the batch; "
            "its training has diverged: take an earlier checkpoint"
        )
    return np.asarray(output / norms, np.float32)


def _fingerprint(model_sha256: str, preprocess_hash: str) -> str:
    return hashlib.sha256(f"torch\n{model_sha256}\n{preprocess_hash}".encode()).hexdigest()
