"""Frame to model input as users write it: Pillow's bicubic as open_clip takes it, or OpenCV."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.benchmark.peers.frames import frame_steps
from progeo_edge.benchmark.peers.peer import Step
from progeo_edge.bundle import Preprocess
from progeo_edge.types import Image

Resize = Callable[[Image], Image]
"""(H, W, 3) BGR to (height_px, width_px, 3) BGR uint8."""


class ResizingPeer:
    """Preprocessing alone. Settings: "preprocess" (of the model), "resize" ("pil", "area", "linear"), "frames"."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        cv2.setNumThreads(settings["threads"])
        spec = stated_preprocess(settings)
        resize = resize_by(settings["resize"], spec)
        self.facts: Mapping[str, Any] = {"runs": _library(settings["resize"])}
        self.steps: Mapping[str, Step] = frame_steps(
            settings, prepare=lambda image: as_input(resize(image), spec), resized=resize
        )

    @staticmethod
    def import_libraries(settings: Mapping[str, Any]) -> None:
        """Import Pillow where it is used."""
        _library(settings["resize"])


def stated_preprocess(settings: Mapping[str, Any]) -> Preprocess:
    """Of the settings' "preprocess", which has come through JSON."""
    return Preprocess.model_validate_json(json.dumps(settings["preprocess"]))


def resize_by(name: str, spec: Preprocess) -> Resize:
    """Resize to the size and the aspect of a model.

    Args:
        name: "pil" for Pillow's antialiased bicubic, "area" and "linear" for OpenCV's; "linear" aliases.
        spec: Of the model; borders ("pad") are left to it alone.

    Raises:
        ImportError: Pillow is not installed.
    """
    size = (spec.width_px, spec.height_px)
    if name == "pil":
        from PIL import Image as pil

        def by_pil(image: Image) -> Image:
            picture = pil.fromarray(cv2.cvtColor(_cut(image, spec), cv2.COLOR_BGR2RGB))
            resized = np.asarray(picture.resize(size, pil.Resampling.BICUBIC))
            return np.asarray(resized[..., ::-1], dtype=np.uint8)

        return by_pil
    interpolation = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR}[name]

    def by_cv2(image: Image) -> Image:
        return np.asarray(cv2.resize(_cut(image, spec), size, interpolation=interpolation), dtype=np.uint8)

    return by_cv2


def as_input(image: Image, spec: Preprocess) -> NDArray[Any]:
    """(1, ...) input of a graph from pixels that have its size: order, scale, layout, in plain NumPy."""
    values: NDArray[Any] = image[..., ::-1] if spec.color == "rgb" else image
    if spec.dtype == "float32":
        values = values.astype(np.float32) / np.float32(255.0)
        if spec.mean is not None and spec.std is not None:
            values = (values - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    if spec.layout == "nchw":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values[None])


def as_open_clip(spec: Preprocess) -> Preprocess:
    """What open_clip's transform ends in: float32 NCHW RGB, normalised."""
    mean, std = spec.mean or (0.485, 0.456, 0.406), spec.std or (0.229, 0.224, 0.225)
    return spec.model_copy(update={"color": "rgb", "layout": "nchw", "dtype": "float32", "mean": mean, "std": std})


def _cut(image: Image, spec: Preprocess) -> Image:
    """The part of the image that the model sees: all of it, or the centre."""
    if spec.aspect != "crop":
        return image
    height, width = image.shape[:2]
    scale = min(width / spec.width_px, height / spec.height_px)
    keep_width, keep_height = max(1, round(spec.width_px * scale)), max(1, round(spec.height_px * scale))
    left, top = (width - keep_width) // 2, (height - keep_height) // 2
    return image[top : top + keep_height, left : left + keep_width]


def _library(resize: str) -> str:
    if resize == "pil":
        return f"Pillow {importlib.import_module('PIL').__version__}"
    return f"OpenCV {cv2.__version__}"
