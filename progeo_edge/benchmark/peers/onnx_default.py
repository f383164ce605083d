"""ONNX Runtime as its first page shows it: a session with default options, and a search in NumPy."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.benchmark.peers.frames import frame_steps, numpy_search
from progeo_edge.benchmark.peers.peer import Step
from progeo_edge.benchmark.peers.resizing import as_input, resize_by
from progeo_edge.graph_file import open_graph


class OnnxDefaultPeer:
    """Settings: "model", "precision", "resize" ("pil", "area", "linear"), "frames", "threads", "database".

    Only the number of threads is set, so that all peers may use as many.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        cv2.setNumThreads(settings["threads"])
        runtime = importlib.import_module("onnxruntime")
        graph = open_graph(Path(settings["model"]), settings.get("precision"))
        spec = graph.preprocess
        options = runtime.SessionOptions()
        options.intra_op_num_threads = settings["threads"]
        session = runtime.InferenceSession(str(graph.path), options)
        name = graph.input_name or session.get_inputs()[0].name
        resize = resize_by(settings["resize"], spec)

        def infer(batch: NDArray[Any]) -> NDArray[np.float32]:
            return cast("NDArray[np.float32]", session.run(None, {name: batch})[0][0])

        self.facts: Mapping[str, Any] = {
            "runs": f"ONNX Runtime {runtime.__version__}, {session.get_providers()[0]}, {graph.precision or 'as it is'}"
        }
        self.steps: Mapping[str, Step] = frame_steps(
            settings,
            prepare=lambda image: as_input(resize(image), spec),
            infer=infer,
            resized=resize,
            search=numpy_search(settings),
        )

    @staticmethod
    def import_libraries(settings: Mapping[str, Any]) -> None:
        """Import ONNX Runtime."""
        importlib.import_module("onnxruntime")
