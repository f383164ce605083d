from __future__ import annotations

import csv
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from progeo_edge.bundle import Preprocess
from progeo_edge.errors import SourceError
from progeo_edge.preprocess import to_model_input
from progeo_edge.types import Image
from progeo_export import probe_images
from progeo_export.probe_images import (
    MIN_PLACES,
    ProbeImages,
    golden_inputs,
    is_picture,
    read_images,
    read_places,
    rendered_places,
    spread,
)
from tests.export.probe_samples import NUM_PLACES, cached_street, small_probe


@pytest.fixture(scope="module")
def rendered() -> ProbeImages:
    return small_probe()


def preprocess(**changes: object) -> Preprocess:
    values = {"width_px": 64, "height_px": 48, "color": "bgr", "layout": "nhwc", "dtype": "uint8"}
    return Preprocess(**{**values, "mean": None, "std": None, **changes})  # type: ignore[arg-type]


def likeness(image: Image, other: Image) -> float:
    """Correlation of two small grey versions: high for two views of a place."""
    grey = [cv2.cvtColor(view, cv2.COLOR_BGR2GRAY) for view in (image, other)]
    small = [cv2.resize(view, (24, 18), interpolation=cv2.INTER_AREA) for view in grey]
    return float(np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1])


def test_every_place_is_seen_twice(rendered: ProbeImages) -> None:
    count = len(rendered.images)
    assert count == 2 * NUM_PLACES
    assert rendered.is_query.tolist() == [False] * NUM_PLACES + [True] * NUM_PLACES
    assert rendered.same_place.shape == rendered.different_places.shape == (count, count)
    pairs = rendered.same_place[NUM_PLACES:, :NUM_PLACES]
    assert pairs.diagonal().all()
    assert not (rendered.same_place & rendered.different_places).any()
    for relation in (rendered.same_place, rendered.different_places):
        np.testing.assert_array_equal(relation, relation.T)
    assert rendered.different_places.mean() > 0.5
    assert rendered.source == "rendered street, 12 places"


def test_images_look_like_photographs_and_pairs_alike(rendered: ProbeImages) -> None:
    assert all(image.shape == (120, 160, 3) and image.dtype == np.uint8 for image in rendered.images)
    assert all(is_picture(image) for image in rendered.images)
    same = [likeness(rendered.images[k], rendered.images[NUM_PLACES + k]) for k in range(NUM_PLACES)]
    rows, columns = np.nonzero(rendered.different_places)
    different = [likeness(rendered.images[i], rendered.images[j]) for i, j in zip(rows, columns, strict=True)]
    assert np.median(same) > np.median(different) + 0.2
    copies = [np.array_equal(rendered.images[k], rendered.images[NUM_PLACES + k]) for k in range(NUM_PLACES)]
    assert not any(copies)


def test_the_same_call_gives_the_same_pictures(rendered: ProbeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_images, "StreetWorld", cached_street)
    again = rendered_places(NUM_PLACES, width_px=160, height_px=120)
    assert all(np.array_equal(a, b) for a, b in zip(rendered.images, again.images, strict=True))


def test_too_few_rendered_places_are_refused() -> None:
    with pytest.raises(SourceError, match="at least 8"):
        rendered_places(MIN_PLACES - 1)


def test_golden_inputs_are_of_the_graphs_size_and_stay_as_they_are(rendered: ProbeImages) -> None:
    spec = preprocess(color="rgb", layout="nchw", dtype="float32", mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    golden = golden_inputs(rendered, spec)
    assert golden.shape == (8, 48, 64, 3)
    assert golden.dtype == np.uint8
    np.testing.assert_array_equal(to_model_input(list(golden), preprocess()), golden)
    np.testing.assert_array_equal(golden[0], to_model_input([rendered.images[0]], preprocess())[0])
    np.testing.assert_array_equal(golden[-1], to_model_input([rendered.images[NUM_PLACES - 1]], preprocess())[0])
    for policy in ("crop", "pad"):
        fitted = golden_inputs(rendered, preprocess(aspect=policy))
        np.testing.assert_array_equal(to_model_input(list(fitted), preprocess(aspect=policy)), fitted)


def save(folder: Path, images: dict[str, Image]) -> None:
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), image)


def table(folder: Path, rows: list[tuple[str, str]], columns: tuple[str, str] = ("image", "place")) -> None:
    with (folder / "places.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([columns, *rows])


def test_labelled_folder(rendered: ProbeImages, tmp_path: Path) -> None:
    names = [f"{kind}/{k}.png" for kind in ("day", "later") for k in range(NUM_PLACES)]
    save(tmp_path, dict(zip(names, rendered.images, strict=True)))
    table(tmp_path, [(name, f"corner {k % NUM_PLACES}") for k, name in enumerate(names)])
    probe = read_places(tmp_path)
    assert len(probe.images) == 2 * NUM_PLACES
    assert probe.is_query.sum() == NUM_PLACES
    np.testing.assert_array_equal(probe.same_place.sum(axis=1), 2)
    np.testing.assert_array_equal(probe.different_places, ~probe.same_place)
    assert "12 labelled places" in probe.source
    fewer = read_places(tmp_path, max_images=17)
    assert len(fewer.images) == 16
    assert fewer.is_query.sum() == 8


def test_plain_folder_says_what_its_queries_are(
    rendered: ProbeImages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, {f"{k}.png": image for k, image in enumerate(rendered.images[:10])})
    with caplog.at_level(logging.INFO):
        probe = read_places(tmp_path)
    assert "queries are slightly moved copies" in caplog.text
    assert "moved copies" in probe.source
    assert len(probe.images) == 20
    np.testing.assert_array_equal(probe.same_place[10:, :10], np.eye(10, dtype=np.bool_))
    for k in range(10):
        moved = probe.images[10 + k]
        assert not np.array_equal(moved, probe.images[k])
        assert likeness(moved, probe.images[k]) > 0.8


def test_unreadable_images_are_left_out_and_named(
    rendered: ProbeImages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, {f"{k}.png": image for k, image in enumerate(rendered.images[:9])})
    (tmp_path / "broken.png").write_bytes(b"not an image")
    assert len(read_places(tmp_path).images) == 18
    assert "broken.png is left out: the image cannot be decoded" in caplog.text
    assert len(list(read_images(tmp_path, max_images=100))) == 9
    assert len(list(read_images(tmp_path, max_images=5))) == 4


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([("0.png", "a")], ("file", "place"), "columns file, place; expected image and place"),
        ([("0.png", "")], ("image", "place"), "line 2 has an empty"),
        ([("0.png", "a"), ("1.png", "b")], ("image", "place"), "line 3 names '1.png', which is no file"),
        ([("0.png", "a"), ("0.png", "a")], ("image", "place"), "gives 1 places"),
        ([("0.png", str(k)) for k in range(9)], ("image", "place"), "no place has two images"),
    ],
)
def test_faulty_tables_are_named(
    rendered: ProbeImages, tmp_path: Path, rows: list[tuple[str, str]], columns: tuple[str, str], message: str
) -> None:
    save(tmp_path, {"0.png": rendered.images[0]})
    table(tmp_path, rows, columns)
    with pytest.raises(SourceError, match=message):
        read_places(tmp_path)


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a folder"):
        read_places(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="image"):
        read_places(tmp_path)


def test_noise_and_blank_sheets_are_no_pictures(rendered: ProbeImages) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    assert not is_picture(noise)
    assert not is_picture(np.asarray(cv2.resize(noise, (80, 60), interpolation=cv2.INTER_AREA), np.uint8))
    assert not is_picture(np.full((60, 80, 3), 128, np.uint8))
    stripes = np.repeat(rng.integers(0, 256, (60, 1, 3), dtype=np.uint8), 80, axis=1)
    assert not is_picture(stripes)
    assert is_picture(np.asarray(cv2.cvtColor(rendered.images[0], cv2.COLOR_BGR2GRAY), np.uint8))


@pytest.mark.parametrize(("available", "wanted", "rows"), [(5, 9, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (7, 1, [0])])
def test_spread(available: int, wanted: int, rows: list[int]) -> None:
    assert spread(available, wanted) == rows
