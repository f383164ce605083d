"""progeo-edge: visual place recognition and loop closure on the robot's own computer, without torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from progeo_edge.camera_file import load_camera as load_camera
    from progeo_edge.config import Config as Config
    from progeo_edge.config import load_config as load_config
    from progeo_edge.detector import LoopDetector as LoopDetector
    from progeo_edge.encoders import Encoder as Encoder
    from progeo_edge.encoders import load_encoder as load_encoder
    from progeo_edge.errors import ProgeoError as ProgeoError
    from progeo_edge.geometry import Camera as Camera
    from progeo_edge.map_store import MapStore as MapStore
    from progeo_edge.relocalisation import Relocaliser as Relocaliser
    from progeo_edge.sources import open_source as open_source
    from progeo_edge.types import Frame as Frame
    from progeo_edge.types import LoopClosure as LoopClosure
    from progeo_edge.types import Relocalisation as Relocalisation
    from progeo_edge.types import Status as Status
    from progeo_edge.types import Update as Update

_HOME = {
    "Camera": "geometry",
    "Config": "config",
    "Encoder": "encoders",
    "Frame": "types",
    "LoopClosure": "types",
    "LoopDetector": "detector",
    "MapStore": "map_store",
    "ProgeoError": "errors",
    "Relocalisation": "types",
    "Relocaliser": "relocalisation",
    "Status": "types",
    "Update": "types",
    "load_camera": "camera_file",
    "load_config": "config",
    "load_encoder": "encoders",
    "open_source": "sources",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: commands that only print their help stay fast."""
    if name not in _HOME:
        raise AttributeError(f"module 'progeo_edge' has no attribute {name!r}")
    return getattr(importlib.import_module(f"progeo_edge.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
