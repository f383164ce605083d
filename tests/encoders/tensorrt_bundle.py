"""Bundles of the tiny encoder with golden descriptors, for the tests of the TensorRT runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from progeo_edge.bundle import Precision
from progeo_edge.graph_file import file_sha256
from tests.tiny_encoder import HEIGHT_PX, WIDTH_PX, edit_manifest, write_tiny_bundle


def write_golden_bundle(
    folder: Path,
    *,
    precisions: tuple[Precision, ...] = ("fp32", "fp16"),
    name_nodes: bool = False,
    manifest: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """A bundle whose golden file holds the FP32 graph's descriptors of 3 images."""
    write_tiny_bundle(folder, precisions=precisions, **options)
    images = np.random.default_rng(1).integers(0, 256, (3, HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)
    graph = folder / ("model.onnx" if "fp32" in precisions else "model.fp16.onnx")
    if name_nodes:
        _name_nodes(graph)
    write_golden(folder, images, run_graph(graph, images))
    limits = {"fp32": {"min_cosine": 0.99999}, "fp16": {"interplace_loss_mean": 0.02, "recall_at_1_drop": 0.0}}
    edit_manifest(folder, lambda values: values.update({"tolerances": limits, **(manifest or {})}))
    return folder


def write_golden(folder: Path, images: np.ndarray[Any, Any], descriptors: np.ndarray[Any, Any]) -> None:
    """Replace the golden file and state its hash, so that only its content is new."""
    np.savez(folder / "golden.npz", images=images, descriptors=descriptors)
    _state_hashes(folder)


def run_graph(graph: Path, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Descriptors by ONNX Runtime, the reference of the tests."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["descriptor"], {"image": images})[0])


def _name_nodes(graph: Path) -> None:
    model = onnx.load(graph)
    for node in model.graph.node:
        node.name = f"node/{node.output[0]}"
    onnx.save(model, graph)


def _state_hashes(folder: Path) -> None:
    def update(values: dict[str, Any]) -> None:
        values["files"] = {name: file_sha256(folder / name) for name in values["files"]}

    edit_manifest(folder, update)
