"""Rendered probe images shared by tests: rendering takes seconds."""

from __future__ import annotations

from functools import lru_cache
from unittest import mock

from progeo_edge.world import StreetWorld
from progeo_export import probe_images
from progeo_export.probe_images import ProbeImages, rendered_places

NUM_PLACES = 12


cached_street = lru_cache(maxsize=2)(StreetWorld)


@lru_cache(maxsize=1)
def small_probe() -> ProbeImages:
    """12 rendered places, 160 x 120 px."""
    with mock.patch.object(probe_images, "StreetWorld", cached_street):
        return rendered_places(NUM_PLACES, width_px=160, height_px=120)
