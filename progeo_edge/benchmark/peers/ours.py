"""Ours, through the public API: a model opened by `load_encoder`, and a `PlaceIndex`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.benchmark.peers.frames import TOP_K, Search, frame_steps
from progeo_edge.benchmark.peers.peer import Step
from progeo_edge.bundle import Preprocess
from progeo_edge.config import SearchConfig
from progeo_edge.encoders import load_encoder
from progeo_edge.encoders.backends import active_backend
from progeo_edge.graph_file import open_graph
from progeo_edge.index import PlaceIndex
from progeo_edge.preprocess import to_model_input
from progeo_edge.types import Image


class OurPeer:
    """Settings: "model", "backend", "precision", "frames", "threads", and "database" for the search."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        cv2.setNumThreads(settings["threads"])
        self._encoder = load_encoder(settings["model"], **_choices(settings))
        self._spec = _preprocess_of(settings)
        search = _our_search(settings)
        self._index = None if search is None else search[1]
        self._steps = frame_steps(
            settings,
            prepare=None if self._spec is None else self._prepare,
            infer=self._describe,
            describe=self._describe,
            # Images that have the model's size already are not resized, so this is the encoder alone.
            encoder_input=None if self._spec is None else self._resized,
            resized=None if self._spec is None else self._resized,
            search=None if search is None else search[0],
        )

    @staticmethod
    def import_libraries(settings: Mapping[str, Any]) -> None:
        """Import the runtime of the backend, which `load_encoder` would do."""
        if settings["model"] != "vlad":
            importlib.import_module("openvino" if settings.get("backend") == "openvino" else "onnxruntime")

    @property
    def facts(self) -> Mapping[str, Any]:
        """What computes, the model, and what the index is."""
        spec = self._encoder.spec
        facts = {"runs": active_backend(self._encoder), "model": spec.name, "fingerprint": spec.fingerprint}
        return facts if self._index is None else {**facts, "index": self._index.kind}

    @property
    def steps(self) -> Mapping[str, Step]:
        """See `frame_steps`."""
        return self._steps

    def _describe(self, image: Image) -> NDArray[np.float32]:
        return np.asarray(self._encoder.encode([image])[0], dtype=np.float32)

    def _prepare(self, image: Image) -> NDArray[Any]:
        assert self._spec is not None
        return to_model_input([image], self._spec)

    def _resized(self, image: Image) -> Image:
        assert self._spec is not None
        return np.asarray(to_model_input([image], as_pixels(self._spec))[0], dtype=np.uint8)


def as_pixels(spec: Preprocess) -> Preprocess:
    """The same resizing, ending in BGR pixels."""
    return spec.model_copy(update={"color": "bgr", "layout": "nhwc", "dtype": "uint8", "mean": None, "std": None})


def _choices(settings: Mapping[str, Any]) -> dict[str, Any]:
    if settings["model"] == "vlad":
        return {}
    return {name: settings[name] for name in ("backend", "precision", "threads") if settings.get(name) is not None}


def _preprocess_of(settings: Mapping[str, Any]) -> Preprocess | None:
    if settings["model"] == "vlad":
        return None
    return open_graph(Path(settings["model"]), settings.get("precision")).preprocess


def _our_search(settings: Mapping[str, Any]) -> tuple[Search, PlaceIndex] | None:
    if "database" not in settings:
        return None
    database = np.load(settings["database"], allow_pickle=False)
    index = PlaceIndex(database.shape[1], SearchConfig())
    index.add(np.arange(len(database)), database)
    return lambda descriptor: index.search(descriptor, TOP_K)[0], index
