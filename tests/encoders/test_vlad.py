from __future__ import annotations

import csv
import io
import pickle  # noqa: TID251 - the trap that loading must not fall into
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from progeo_edge.encoders import load_encoder
from progeo_edge.encoders.vlad import (
    LOCAL_DIMENSION,
    MAP_SCALES,
    SHIPPED_MODEL,
    VladEncoder,
    VladModel,
    aggregate,
    dense_rootsift,
    fingerprint,
    gradient_maps,
    load_model,
    working_image,
)
from progeo_edge.errors import InputError, ModelError
from progeo_edge.types import Image

DEV = Path(__file__).resolve().parents[3] / "shared" / "data" / "dev"
needs_images = pytest.mark.skipif(not DEV.is_dir(), reason="the real images of ../shared/data are not here")


@pytest.fixture(scope="module")
def encoder() -> VladEncoder:
    return VladEncoder()


def street(seed: int, width: int = 320, height: int = 240) -> Image:
    """Rectangles of random grey: edges at all scales, another arrangement for each seed."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width), 128, np.uint8)
    for _ in range(60):
        x, y = rng.integers(0, [width, height])
        w, h = rng.integers(6, [width // 3, height // 3])
        image[y : y + h, x : x + w] = rng.integers(0, 256)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.8), np.uint8)


def warped(image: Image, angle_deg: float = 0.0, shift_px: float = 0.0) -> Image:
    height, width = image.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle_deg, 1.0)
    matrix[0, 2] += shift_px
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)


def test_is_the_default_encoder_and_states_its_identity():
    opened = load_encoder()
    assert opened.spec.name == "vlad64-512"
    assert opened.spec.dimension == 512
    assert len(opened.spec.fingerprint) == 64
    assert SHIPPED_MODEL.stat().st_size < 9_000_000


def test_rows_are_unit_vectors_and_repeat_exactly(encoder: VladEncoder):
    images = [street(seed) for seed in range(5)]
    first, second = encoder.encode(images), VladEncoder().encode(images)
    assert first.shape == (5, 512)
    assert first.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(first, second)


def test_an_image_gets_the_same_descriptor_alone_and_in_a_batch(encoder: VladEncoder):
    images = [street(seed) for seed in range(4)]
    alone = np.concatenate([encoder.encode([image]) for image in images])
    np.testing.assert_array_equal(encoder.encode(images), alone)


def test_no_images_give_no_rows(encoder: VladEncoder):
    assert encoder.encode([]).shape == (0, 512)


def test_grey_equals_grey_stored_as_bgr(encoder: VladEncoder):
    grey = street(1)
    bgr = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)
    np.testing.assert_array_equal(*encoder.encode([grey, bgr]))


def test_a_view_into_a_larger_array_is_read_like_its_copy(encoder: VladEncoder):
    view = street(2, 640, 480)[::2, ::2]
    np.testing.assert_array_equal(*encoder.encode([view, view.copy()]))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.booleans(), st.integers(0, 2**32 - 1))
def test_any_size_gives_a_finite_unit_vector(width: int, height: int, colour: bool, seed: int):
    shape = (height, width, 3) if colour else (height, width)
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    descriptor = _ENCODER.encode([noise])[0]
    assert np.all(np.isfinite(descriptor))
    assert np.linalg.norm(descriptor) == pytest.approx(1.0, abs=1e-5)


_ENCODER = VladEncoder()


@pytest.mark.parametrize("shape", [(4320, 7680), (1, 8000), (8000, 1), (3, 5000, 3)])
def test_extreme_sizes(encoder: VladEncoder, shape: tuple[int, ...]):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.linalg.norm(encoder.encode([image])[0]) == pytest.approx(1.0, abs=1e-5)


def test_the_size_of_the_image_hardly_matters(encoder: VladEncoder):
    large = street(3, 1280, 960)
    small = np.asarray(cv2.resize(large, (640, 480), interpolation=cv2.INTER_AREA), np.uint8)
    other = street(4, 640, 480)
    descriptors = encoder.encode([large, small, other])
    assert descriptors[0] @ descriptors[1] > 0.9 > descriptors[0] @ descriptors[2] + 0.2


@pytest.mark.parametrize("grey_level", [0, 127, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (480, 640), (480, 640, 3)])
def test_blank_images_share_one_fixed_unit_vector(encoder: VladEncoder, shape: tuple[int, ...], grey_level: int):
    descriptor = encoder.encode([np.full(shape, grey_level, np.uint8)])[0]
    np.testing.assert_allclose(descriptor, 512**-0.5, rtol=1e-6)


def test_similarity_falls_with_rotation_and_translation(encoder: VladEncoder):
    image = street(5)
    views = [image, warped(image, angle_deg=5), warped(image, angle_deg=45), warped(image, shift_px=25), street(6)]
    itself, tilted, turned, shifted, other = encoder.encode(views) @ encoder.encode([image])[0]
    assert itself == pytest.approx(1.0, abs=1e-5)
    assert itself - 0.01 > tilted > turned
    assert itself - 0.01 > shifted > other
    assert tilted > other


def test_light_matters_less_than_place(encoder: VladEncoder):
    image = street(7)
    darker = np.asarray(cv2.convertScaleAbs(image, alpha=0.5, beta=20), np.uint8)
    descriptors = encoder.encode([image, darker, street(8)])
    assert descriptors[0] @ descriptors[1] > 0.8 > descriptors[0] @ descriptors[2]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint16),
        np.zeros((8, 8), np.float32),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8,), np.uint8),
        np.zeros((0, 8), np.uint8),
        None,
    ],
    ids=["16-bit", "float", "bgra", "flat", "empty", "none"],
)
def test_other_images_are_refused(encoder: VladEncoder, image: Any):
    with pytest.raises(InputError, match="expected"):
        encoder.encode([image])


def test_gradient_maps_are_a_soft_assignment_of_the_gradient():
    grey = street(9, 64, 48)
    parts = np.stack(gradient_maps(grey), axis=-1) * MAP_SCALES
    angles = np.arange(8) * np.pi / 4
    padded = np.pad(grey.astype(np.float64), 1, mode="edge")
    np.testing.assert_allclose(parts @ np.cos(angles), padded[1:-1, 2:] - padded[1:-1, :-2], atol=1e-4)
    np.testing.assert_allclose(parts @ np.sin(angles), padded[2:, 1:-1] - padded[:-2, 1:-1], atol=1e-4)
    assert np.all(np.count_nonzero(parts, axis=-1) <= 2)


def test_an_edge_fills_the_orientation_it_has():
    step = np.zeros((96, 96), np.uint8)
    step[:, 48:] = 200
    by_orientation = dense_rootsift(step).reshape(-1, 16, 8).sum(axis=(0, 1))
    assert by_orientation[0] > 0
    assert np.all(by_orientation[1:] == 0)


def test_local_descriptors_are_rootsift():
    local = dense_rootsift(working_image(street(10)))
    assert local.shape[1] == LOCAL_DIMENSION
    assert np.all(local >= 0)
    np.testing.assert_allclose(np.linalg.norm(local, axis=1), 1.0, atol=1e-5)


def test_aggregation_is_the_sum_of_residuals_normalised_per_word():
    rng = np.random.default_rng(0)
    local, words = rng.random((50, 128), np.float32), rng.random((4, 128), np.float32)
    words[3] += 100.0
    nearest = np.argmin(np.linalg.norm(local[:, None] - words[None], axis=2), axis=1)
    expected = np.stack([(local[nearest == k] - words[k]).sum(axis=0) for k in range(4)])
    expected[:3] /= np.linalg.norm(expected[:3], axis=1, keepdims=True)
    np.testing.assert_allclose(aggregate(local, words), expected.ravel() / np.sqrt(3), atol=1e-5)


def test_the_fingerprint_follows_every_array():
    model = load_model(SHIPPED_MODEL)
    arrays: dict[str, NDArray[Any]] = {
        "codebook": model.codebook,
        "projection": model.projection,
        "offset": model.offset,
    }
    seen = {fingerprint(model)}
    for name, array in arrays.items():
        changed = array.copy()
        changed.flat[-1] += 1
        seen.add(fingerprint(VladModel(**{**arrays, name: changed})))
    assert len(seen) == 4
    assert VladEncoder().spec.fingerprint == fingerprint(model)


def test_another_model_file_is_used(tmp_path: Path):
    path = write_model(tmp_path)
    small = VladEncoder(path)
    assert (small.spec.name, small.spec.dimension) == ("vlad2-3", 3)
    assert small.encode([street(0)]).shape == (1, 3)


def small_arrays() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    return {
        "codebook": rng.random((2, 128), np.float32),
        "projection": rng.standard_normal((3, 256)).astype(np.float16),
        "offset": np.zeros(3, np.float32),
    }


def write_model(folder: Path, **changes: NDArray[Any]) -> Path:
    path = folder / "model.npz"
    arrays: dict[str, Any] = {**small_arrays(), **changes}
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"codebook": np.zeros((2, 64), np.float32)}, "codebook is float32"),
        ({"codebook": np.zeros((0, 128), np.float32)}, "codebook"),
        ({"codebook": np.zeros((3, 128), np.float32)}, "projection is"),
        ({"codebook": np.float32(1.0)}, "codebook"),
        ({"projection": np.zeros((3, 256), np.float32)}, "projection is float32"),
        ({"projection": np.full((3, 256), np.nan, np.float16)}, "NaN"),
        ({"projection": np.full((3, 256), np.inf, np.float16)}, "infinity"),
        ({"offset": np.zeros(4, np.float32)}, "projection is"),
        ({"offset": np.full(3, np.nan, np.float32)}, "NaN"),
        ({"offset": np.zeros((3, 1), np.float32)}, "offset is"),
    ],
)
def test_unsuitable_arrays_are_refused(tmp_path: Path, changes: dict[str, NDArray[Any]], reason: str):
    with pytest.raises(ModelError, match=reason):
        VladEncoder(write_model(tmp_path, **changes))


def _truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip_a_bit(data: bytes) -> bytes:
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 0x10
    return bytes(damaged)


def _drop_an_array(data: bytes) -> bytes:
    kept = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(kept, "w") as new:
        for name in old.namelist():
            if name != "offset.npy":
                new.writestr(name, old.read(name))
    return kept.getvalue()


@pytest.mark.parametrize(
    "damage",
    [_truncate, _flip_a_bit, _drop_an_array, lambda _: b"", lambda _: b"not an archive"],
    ids=["truncated", "bit-flip", "array-missing", "empty", "text"],
)
def test_damaged_files_are_refused(tmp_path: Path, damage: Callable[[bytes], bytes]):
    path = write_model(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match="cannot be read"):
        VladEncoder(path)


def test_a_plain_npy_and_a_missing_file_are_refused(tmp_path: Path):
    lone = tmp_path / "lone.npy"
    np.save(lone, np.zeros(3, np.float32))
    for path in (lone, tmp_path / "missing.npz"):
        with pytest.raises(ModelError, match=path.name):
            VladEncoder(path)


class _LeavesATrace:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path):
    trace = tmp_path / "trace"
    pickle.loads(pickle.dumps(_LeavesATrace(trace)))
    assert trace.exists(), "the trap works"
    trace.unlink()
    path = write_model(tmp_path, offset=np.array([_LeavesATrace(trace)], dtype=object))
    with pytest.raises(ModelError, match="cannot be read"):
        VladEncoder(path)
    assert not trace.exists()


def test_a_thousand_damaged_bytes_never_escape_as_another_error(tmp_path: Path):
    whole = write_model(tmp_path).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.npz"
    refused = 0
    for _ in range(1000):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            VladEncoder(path)
        except ModelError:
            refused += 1
    assert refused > 900


def read(path: Path) -> Image:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None, path
    return np.asarray(image, np.uint8)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@needs_images
@pytest.mark.parametrize(("name", "floor"), [("thumbs_essex3in1", 0.62), ("vprbench_corridor", 0.72)])
def test_recall_on_two_traverses(encoder: VladEncoder, name: str, floor: float):
    labels = rows_of(DEV / name / "matches.csv")
    positives = {(row["query"], row["database"]) for row in labels if row["label"] == "positive"}
    queries = sorted({query for query, _ in positives})
    database = [f"database/{path.name}" for path in sorted((DEV / name / "database").glob("*.jpg"))]
    descriptors = encoder.encode([read(DEV / name / image) for image in queries + database])
    nearest = np.argmax(descriptors[: len(queries)] @ descriptors[len(queries) :].T, axis=1)
    found = [(query, database[i]) in positives for query, i in zip(queries, nearest, strict=True)]
    assert np.mean(found) >= floor


@needs_images
def test_recall_over_a_year(encoder: VladEncoder):
    folder = DEV / "grief_michigan_12x5"
    labels = rows_of(folder / "places.csv")
    places = np.array([row["place"] for row in labels])
    descriptors = encoder.encode([read(folder / row["image"]) for row in labels])
    similarities = descriptors @ descriptors.T
    np.fill_diagonal(similarities, -2.0)
    assert np.mean(places[np.argmax(similarities, axis=1)] == places) >= 0.98
