from __future__ import annotations

import cv2
import numpy as np
import pytest

from progeo_edge.config import VerificationConfig
from progeo_edge.errors import InputError
from progeo_edge.verification import FeatureExtractor, StaticPixelMask, Verifier

CONFIG = VerificationConfig(static_mask_frames=10)
RNG = np.random.default_rng(0)


def ring(size=240):
    """A textured ring that belongs to the lens, and where it is."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    covered = np.hypot(x, y) > 0.4 * size
    pattern = cv2.resize(RNG.integers(0, 256, (60, 60), dtype=np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
    return pattern, covered


def scene(pattern, covered):
    """Something new inside a ring that stays."""
    inside = cv2.resize(RNG.integers(0, 256, (40, 40), dtype=np.uint8), covered.shape, interpolation=cv2.INTER_CUBIC)
    return np.where(covered, pattern, inside).astype(np.uint8)


def learned(config=CONFIG):
    pattern, covered = ring()
    mask = StaticPixelMask(config)
    for _ in range(config.static_mask_frames):
        mask.add(scene(pattern, covered))
    return mask, pattern, covered


def test_there_is_no_mask_before_enough_images():
    pattern, covered = ring()
    mask = StaticPixelMask(CONFIG)
    assert mask.mask(240, 240) is None
    for _ in range(9):
        mask.add(scene(pattern, covered))
    assert mask.mask(240, 240) is None and mask.count == 9


def test_what_never_changes_is_masked_and_the_rest_is_not():
    mask, _, covered = learned()
    usable = mask.mask(240, 240)
    assert usable.dtype == np.uint8 and usable.shape == (240, 240) and set(np.unique(usable)) == {0, 255}
    assert (usable[covered] == 0).mean() > 0.95
    centre = usable[80:160, 80:160]
    assert (centre == 255).all()


def test_the_mask_comes_in_any_size():
    mask, _, _ = learned()
    assert mask.mask(64, 48).shape == (48, 64)
    assert mask.mask(1920, 1080).shape == (1080, 1920)


def test_the_ring_gives_false_inliers_only_without_the_mask():
    mask, pattern, covered = learned()
    config = CONFIG.model_copy(update={"min_inliers": 15, "min_inliers_uncalibrated": 15, "min_matches": 15})
    extractor, verifier = FeatureExtractor(config), Verifier(config)
    a, b = scene(pattern, covered), scene(pattern, covered)
    bare = verifier.verify(extractor.extract(a), extractor.extract(b), None, None)
    usable = mask.mask(240, 240)
    masked = verifier.verify(extractor.extract(a, mask=usable), extractor.extract(b, mask=usable), None, None)
    assert bare.num_inliers >= 30
    assert masked.num_inliers < 15


def test_a_robot_that_stands_masks_nothing():
    image = RNG.integers(0, 256, (120, 160), dtype=np.uint8)
    mask = StaticPixelMask(CONFIG)
    for _ in range(20):
        mask.add(image)
    assert mask.mask(160, 120) is None


def test_sizes_and_channels_may_change_midway():
    mask = StaticPixelMask(CONFIG)
    for size in [(160, 120), (320, 240), (640, 480)] * 5:
        mask.add(np.asarray(cv2.resize(RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8), size), dtype=np.uint8))
    assert mask.mask(160, 120) is not None


def test_the_state_survives_the_bytes():
    mask, pattern, covered = learned()
    restored = StaticPixelMask.from_bytes(mask.to_bytes(), CONFIG)
    assert restored.count == mask.count
    np.testing.assert_array_equal(restored.mask(240, 240), mask.mask(240, 240))
    for _ in range(30):
        image = scene(pattern, covered)
        mask.add(image)
        restored.add(image)
    assert (restored.mask(240, 240) == mask.mask(240, 240)).mean() > 0.99


def test_an_empty_state_survives_too():
    restored = StaticPixelMask.from_bytes(StaticPixelMask(CONFIG).to_bytes(), CONFIG)
    assert restored.count == 0 and restored.mask(10, 10) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04pickle",
        b"[1]\n",
        b'{"format": "progeo-static-mask", "version": 2, "count": 3}\n',
        b'{"format": "progeo-static-mask", "version": 1, "count": -3}\n',
        b'{"format": "progeo-static-mask", "version": 1, "count": true}\n',
        b'{"format": "progeo-static-mask", "version": 1, "count": 3}\n',
        b'{"format": "progeo-static-mask", "version": 1, "count": 3}\nno picture',
    ],
)
def test_damaged_bytes_are_refused(data):
    with pytest.raises(InputError, match="static mask"):
        StaticPixelMask.from_bytes(data, CONFIG)


def test_an_image_of_another_type_is_refused():
    with pytest.raises(InputError, match="float64"):
        StaticPixelMask(CONFIG).add(np.zeros((10, 10)))  # type: ignore[arg-type]
