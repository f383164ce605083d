"""The static-pixel masks of a robot's cameras, learned while driving and kept in the map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import VerificationConfig
from progeo_edge.map_store import MapStore
from progeo_edge.types import Image
from progeo_edge.verification import StaticPixelMask

SAVED_EVERY = 20
"""Keyframes of a camera between two savings of its mask."""


class StaticMasks:
    """One mask per camera: another camera sees another part of the robot.

    Args:
        map_store: Where they are kept.
        config: `static_mask` switches them off.
    """

    def __init__(self, map_store: MapStore, config: VerificationConfig) -> None:
        self._map_store = map_store
        self._config = config
        self._masks: dict[str, StaticPixelMask] = {}

    def mask(self, camera: str, size_px: tuple[int, int]) -> NDArray[np.uint8] | None:
        """(H, W) uint8 for an image of this width and height, 0 where pixels never change; None when unknown."""
        return self._of(camera).mask(*size_px) if self._config.static_mask else None

    def add(self, camera: str, image: Image) -> None:
        """Learn from a keyframe that the map holds."""
        if not self._config.static_mask:
            return
        mask = self._of(camera)
        mask.add(image)
        if mask.count % SAVED_EVERY == 0:
            self._map_store.set_blob(_key(camera), mask.to_bytes())

    def save(self) -> None:
        """Keep in the map what was learned."""
        for camera, mask in self._masks.items():
            self._map_store.set_blob(_key(camera), mask.to_bytes())

    def _of(self, camera: str) -> StaticPixelMask:
        if camera not in self._masks:
            saved = self._map_store.blob(_key(camera))
            self._masks[camera] = (
                StaticPixelMask(self._config) if saved is None else StaticPixelMask.from_bytes(saved, self._config)
            )
        return self._masks[camera]


def _key(camera: str) -> str:
    """Name of the blob; a camera without a name of its own has the one that maps of one camera know."""
    return "static_pixels" if camera == "cam0" else f"static_pixels:{camera}"
