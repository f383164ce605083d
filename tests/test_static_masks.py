"""Each camera learns its own static pixels, and the map keeps them."""

from __future__ import annotations

import numpy as np

from progeo_edge.config import VerificationConfig
from progeo_edge.map_store import MapStore
from progeo_edge.static_masks import SAVED_EVERY, StaticMasks
from progeo_edge.types import Image
from tests.small_world import SPEC

CONFIG = VerificationConfig(static_mask_frames=10)
SIZE_PX = (160, 120)


def changing(number: int, static_rows: slice) -> Image:
    image = np.random.default_rng(number).integers(0, 256, (120, 160), dtype=np.uint8)
    image[static_rows] = 90
    return image


def learned(store: MapStore, count: int = 12) -> StaticMasks:
    """The front camera sees the robot below, the rear camera above."""
    masks = StaticMasks(store, CONFIG)
    for number in range(count):
        masks.add("cam0", changing(number, slice(90, None)))
        masks.add("rear", changing(number, slice(0, 30)))
    return masks


def test_cameras_do_not_mix_their_pixels():
    masks = learned(MapStore.create(None, SPEC))
    front, rear = masks.mask("cam0", SIZE_PX), masks.mask("rear", SIZE_PX)
    assert front is not None
    assert rear is not None
    assert front[:80].all()
    assert not front[95:].any()
    assert rear[40:].all()
    assert not rear[:25].any()
    assert masks.mask("left", SIZE_PX) is None


def test_the_map_keeps_every_camera_s_mask_and_old_maps_theirs():
    store = MapStore.create(None, SPEC)
    masks = learned(store)
    masks.save()
    assert store.blob_keys() == ["static_pixels", "static_pixels:rear"]
    again = StaticMasks(store, CONFIG)
    for camera in ("cam0", "rear"):
        kept, before = again.mask(camera, SIZE_PX), masks.mask(camera, SIZE_PX)
        assert kept is not None
        assert before is not None
        assert np.array_equal(kept, before)


def test_every_camera_s_mask_is_saved_on_the_way():
    store = MapStore.create(None, SPEC)
    learned(store, SAVED_EVERY)
    assert store.blob_keys() == ["static_pixels", "static_pixels:rear"]


def test_switched_off_nothing_is_learned():
    store = MapStore.create(None, SPEC)
    masks = StaticMasks(store, VerificationConfig(static_mask=False, static_mask_frames=10))
    for number in range(SAVED_EVERY):
        masks.add("cam0", changing(number, slice(90, None)))
    masks.save()
    assert masks.mask("cam0", SIZE_PX) is None
    assert store.blob_keys() == []
