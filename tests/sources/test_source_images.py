from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progeo_edge.sources.images import FrameError, decode_image, read_depth_m, read_image, to_image

PICTURE = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)


def encoded(pixels: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_formats_are_exact(suffix):
    np.testing.assert_array_equal(decode_image(encoded(PICTURE, suffix)), PICTURE)


def test_grey_stays_grey_and_alpha_is_dropped():
    grey = PICTURE[:, :, 0]
    np.testing.assert_array_equal(decode_image(encoded(grey, ".png")), grey)
    bgra = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 3, np.uint8)])
    np.testing.assert_array_equal(decode_image(encoded(bgra, ".png")), PICTURE)


def test_sixteen_bits_are_stretched_from_percentiles():
    ramp = np.linspace(0, 1023, 640 * 480).reshape(480, 640).astype(np.uint16)  # a 10-bit camera
    image = decode_image(encoded(ramp, ".png"))
    assert image.dtype == np.uint8
    assert image.min() == 0
    assert image.max() == 255
    np.testing.assert_allclose(image, np.clip((ramp / 1023 - 0.005) / 0.99 * 255, 0, 255), atol=2)


def test_sixteen_bit_noise_stays_dark():
    noise = np.random.default_rng(0).integers(100, 116, (48, 64)).astype(np.uint16)
    assert decode_image(encoded(noise, ".png")).max() <= 17


def test_one_pixel_and_8k():
    assert decode_image(encoded(np.full((1, 1, 3), 9, np.uint8), ".png")).shape == (1, 1, 3)
    assert decode_image(encoded(np.zeros((4320, 7680), np.uint8), ".png")).shape == (4320, 7680)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.02])
def test_truncated_files_are_refused(suffix, share):
    data = encoded(PICTURE, suffix)
    with pytest.raises(FrameError):
        decode_image(data[: int(len(data) * share)])


def test_cut_jpeg_with_a_whole_thumbnail_is_refused_by_its_end_marker():
    whole = encoded(PICTURE, ".jpg")
    thumbnail = encoded(PICTURE[::4, ::4], ".jpg")
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    with_thumbnail = whole[:2] + segment + whole[2:]
    assert decode_image(with_thumbnail).shape == PICTURE.shape
    with pytest.raises(FrameError, match="the JPEG is truncated"):
        decode_image(with_thumbnail[:-400])


def test_trailing_bytes_after_a_jpeg_do_no_harm():
    assert decode_image(encoded(PICTURE, ".jpg") + b"\0" * 500).shape == PICTURE.shape


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes_decode_or_are_refused(data):
    for prefix in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"):
        try:
            image = decode_image(prefix + data)
        except FrameError:
            continue
        assert image.dtype == np.uint8


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((0, 4), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4), np.float32),
        np.zeros(4, np.uint8),
    ],
)
def test_arrays_that_are_no_images(pixels):
    with pytest.raises(FrameError):
        to_image(pixels)


def test_unreadable_files(tmp_path):
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(FrameError, match="cannot be read"):
            read_image(path)
    empty = tmp_path / "empty.png"
    empty.touch()
    with pytest.raises(FrameError, match="0 bytes"):
        read_image(empty)


def test_depth_files(tmp_path):
    path = tmp_path / "depth.png"
    cv2.imwrite(str(path), np.array([[0, 5000], [2500, 65535]], np.uint16))
    np.testing.assert_allclose(read_depth_m(path, 5000), np.array([[0, 1], [0.5, 13.107]]))
    cv2.imwrite(str(path), PICTURE)
    with pytest.raises(FrameError, match="expected one 16-bit channel"):
        read_depth_m(path, 5000)
