"""Whether a graph under ONNX Runtime gives what the encoder gives behind the runtime's own preprocessing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from progeo_edge.preprocess import to_model_input
from progeo_edge.types import Image
from progeo_export.graph_module import DescriptorGraph
from progeo_export.onnx_export import INPUT_NAME, OUTPUT_NAME
from progeo_export.ort_runner import run_graph
from progeo_train.models.place_encoder import PlaceEncoder

# Images that torch describes at a time.
_CHUNK = 8


def fp32_parity(
    path: Path, module: DescriptorGraph, images: Sequence[Image], batches: Iterable[int], *, threads: int = 0
) -> dict[str, float]:
    """Compare a graph with the encoder that it comes from.

    The encoder sees images prepared by `EncoderSpec.preprocess`, the graph those prepared by `module.preprocess`, so
    that a wrong mean, std or colour order in the graph shows.

    Args:
        path: The exported graph.
        module: What it was exported from.
        images: uint8, of any sizes; for a fused resize best of the camera's own.
        batches: Batch sizes; each describes all images, the last batch filled up from the first images.
        threads: Of ONNX Runtime, see `run_graph`.

    Returns:
        min_cosine: Over images and batch sizes, between graph and encoder; NaN when the graph gives one.
        max_abs_difference: Of any component.
        max_norm_error: Largest distance of a descriptor's length from 1.

    Raises:
        ExportError: ONNX Runtime fails on the graph.
    """
    reference = reference_descriptors(module.encoder, images)
    inputs = to_model_input(images, module.preprocess)
    chosen = [rows for batch in batches for rows in _batches_of(len(images), batch)]
    outputs = run_graph(path, [{INPUT_NAME: inputs[rows]} for rows in chosen], threads=threads)
    found = np.concatenate([output[OUTPUT_NAME] for output in outputs]).astype(np.float64)
    return _compare(found, reference[np.concatenate(chosen)])


def reference_descriptors(encoder: PlaceEncoder, images: Sequence[Image]) -> NDArray[np.float64]:
    """(N, D) unit rows of an encoder in evaluation mode, behind the runtime's preprocessing."""
    preprocess = encoder.spec.preprocess()
    chunks = []
    with torch.inference_mode():
        for start in range(0, len(images), _CHUNK):
            batch = torch.from_numpy(to_model_input(images[start : start + _CHUNK], preprocess))
            chunks.append(encoder(batch).double().numpy())
    rows = np.concatenate(chunks)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _batches_of(count: int, batch: int) -> list[NDArray[np.int64]]:
    """All rows, `batch` at a time; begins anew where the rows end within a batch."""
    num_batches = -(-count // batch)
    return list((np.arange(num_batches * batch, dtype=np.int64) % count).reshape(num_batches, batch))


def _compare(found: NDArray[np.float64], reference: NDArray[np.float64]) -> dict[str, float]:
    norms = np.linalg.norm(found, axis=1)
    return {
        "min_cosine": float(np.min(np.sum(found * reference, axis=1) / norms)),
        "max_abs_difference": float(np.max(np.abs(found - reference))),
        "max_norm_error": float(np.max(np.abs(norms - 1.0))),
    }
