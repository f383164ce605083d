"""Extraction: every row is what the model gives for its image, whoever computed it and whatever was interrupted."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from progeo_edge.errors import InputError, SourceError
from progeo_edge.preprocess import to_model_input
from progeo_edge.sources.images import read_image
from progeo_train.checkpoint_file import CheckpointRecord, model_tensors, write_checkpoint
from progeo_train.data.image_table import ImageTable
from progeo_train.describing import ImageForm, PathList
from progeo_train.extraction import describe, extract_data_set, extract_features, read_names
from progeo_train.feature_file import FeatureFile

SIZE_PX, MEAN, STD, DIM = (12, 16), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), 5
COUNT = 150
REPOSITORY = Path(__file__).parents[2]
WEIGHTS = np.random.default_rng(7).standard_normal((3 * 12 * 16, DIM)) / 25


class Projection(nn.Module):
    """A fixed linear map of all values, followed by a dropout that shows when the mode is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("weights", torch.from_numpy(WEIGHTS.astype(np.float32)))

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.dropout(images.flatten(1)) @ self.weights
        return result


def expected_row(path: Path) -> Any:
    """In double precision, from the definition."""
    (planes,) = to_model_input([read_image(path)], ImageForm(SIZE_PX, MEAN, STD).preprocess())
    normalised = (planes / 255.0 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    return normalised.ravel() @ WEIGHTS


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Any:
    """150 images of two sizes; the 70th and the last are damaged."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(3)
    for number in range(COUNT):
        shape = (24, 40, 3) if number % 2 else (9, 9, 3)
        cv2.imwrite(str(folder / f"{number:03d}.png"), rng.integers(0, 255, shape, np.uint8))
    (folder / "070.png").write_bytes(b"")
    (folder / "149.png").write_bytes((folder / "148.png").read_bytes()[:60])
    return folder


@pytest.fixture(scope="module")
def table(images: Path) -> ImageTable:
    return ImageTable.of(images, [f"{number:03d}.png" for number in range(COUNT)])


@pytest.fixture(scope="module")
def expected(table: ImageTable) -> np.ndarray:
    rows = [np.full(DIM, np.nan) if row in (70, 149) else expected_row(table.path(row)) for row in range(COUNT)]
    return np.array(rows)


def extract(table, folder: Path, fabric: Fabric, module=None, key: str = "k", **changes) -> FeatureFile:
    given = {"dim": DIM, "batch_size": 7, "workers": 0} | changes
    return extract_features(module or Projection(), table, SIZE_PX, MEAN, STD, folder, key, fabric, **given)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_row_is_what_the_model_gives(tmp_path: Path, table, expected, fabric, workers: int, caplog) -> None:
    seen: list[int] = []
    with caplog.at_level(logging.WARNING):
        file = extract(table, tmp_path, fabric, workers=workers, progress=seen.append)
    np.testing.assert_allclose(file.features, expected, rtol=1e-4, atol=1e-4)
    assert list(np.flatnonzero(~file.readable)) == [70, 149]
    assert sum(seen) == COUNT
    names = [str(table.path(70)), str(table.path(149))]
    assert (tmp_path / "unreadable.txt").read_text().splitlines() == names
    assert "2 of 150 images cannot be read" in caplog.text


def test_what_is_done_is_not_computed_again(tmp_path: Path, table, expected, fabric) -> None:
    class StopAfter(Exception):
        pass

    def stopping(rows: int):
        module, seen = Projection().eval(), [0]

        def call(images: Tensor) -> Any:
            seen[0] += len(images)
            if seen[0] > rows:
                raise StopAfter
            return module(images)

        return call

    with pytest.raises(StopAfter):
        extract(table, tmp_path, fabric, stopping(100))
    assert FeatureFile.open_existing(tmp_path, complete=False).num_done == 64
    file = extract(table, tmp_path, fabric, stopping(COUNT - 64))
    np.testing.assert_allclose(file.features, expected, rtol=1e-4, atol=1e-4)
    extract(table, tmp_path, fabric, stopping(0))


def test_another_key_computes_anew(tmp_path: Path, table, fabric) -> None:
    extract(table, tmp_path, fabric, lambda images: torch.zeros(len(images), DIM))
    file = extract(table, tmp_path, fabric, lambda images: torch.ones(len(images), DIM), key="other")
    assert np.nanmin(file.features) == 1


def test_the_mode_of_every_part_comes_back(tmp_path: Path, table, fabric) -> None:
    module = nn.Sequential(Projection(), nn.BatchNorm1d(DIM))
    module[1].eval()
    extract(table, tmp_path, fabric, module)
    assert module.training and module[0].training and not module[1].training
    assert module[1].num_batches_tracked == 0


def test_random_numbers_of_the_training_are_not_drawn(tmp_path: Path, table, fabric) -> None:
    torch.manual_seed(5)
    extract(table, tmp_path, fabric)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


def test_a_wrong_dimension_is_an_error(tmp_path: Path, table, fabric) -> None:
    with pytest.raises(InputError, match=r"gives \(7, 5\) for 7 images; expected \(7, 6\)"):
        extract(table, tmp_path, fabric, dim=6)


def test_values_that_are_not_finite_name_the_image(tmp_path: Path, table, fabric) -> None:
    def broken(images: Tensor) -> Tensor:
        found = torch.zeros(len(images), DIM)
        found[2, 1] = torch.inf
        return found

    with pytest.raises(InputError, match=r"not finite for .*002.png"):
        extract(table, tmp_path, fabric, broken)


def test_nothing_readable_is_an_error_and_may_be_tried_again(tmp_path: Path, fabric) -> None:
    paths = PathList([tmp_path / "missing" / f"{number}.jpg" for number in range(3)])
    for _ in range(2):
        with pytest.raises(SourceError, match=r"none of the 3 images can be read, such as .*0.jpg"):
            extract(paths, tmp_path / "out", fabric)


def test_a_small_set_is_described_in_memory(table, expected, fabric) -> None:
    seen: list[int] = []
    module = Projection()
    found = describe(module, table, SIZE_PX, MEAN, STD, fabric, dim=DIM, batch_size=64, workers=0, progress=seen.append)
    assert found.dtype == np.float32 and module.training
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert seen == [64, 64, 22]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory, images: Path) -> Iterator[Path]:
    """Folder in which two processes have worked, the first time until one was killed."""
    folder = tmp_path_factory.mktemp("two")
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "train")]))
    script = Path(__file__).with_name("extraction_by_two.py")
    subprocess.run([sys.executable, str(script), str(images), str(folder)], env=environment, check=True, timeout=120)
    yield folder


def test_two_processes_give_the_same_rows_and_share_them(by_two: Path, expected) -> None:
    file = FeatureFile.open_existing(by_two / "features", key="k")
    np.testing.assert_allclose(file.features, expected, rtol=1e-4, atol=1e-4)
    first, second = (np.fromfile(by_two / "features" / f"done.{rank}.bin", np.uint8) for rank in range(2))
    assert first.tolist() == [1, 0, 2] and second.tolist() == [0, 2]


def test_two_processes_get_the_whole_of_a_small_set(by_two: Path, expected) -> None:
    for rank in range(2):
        found = np.load(by_two / f"described.{rank}.npy")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_killed_extraction_continues(by_two: Path, expected) -> None:
    """The killed process had written one of its two chunks; the second run reads only what was missing."""
    assert (by_two / "killed.txt").read_text() == str(-signal.SIGKILL)
    assert (by_two / "read_again.txt").read_text() == str(COUNT - 64)
    file = FeatureFile.open_existing(by_two / "killed", key="k")
    np.testing.assert_allclose(file.features, expected, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_describes_a_folder_and_a_list(tmp_path: Path, images: Path, fabric) -> None:
    from tests.train.tiny_models import tiny_encoder

    encoder = tiny_encoder()
    checkpoint = tmp_path / "best.safetensors"
    write_checkpoint(checkpoint, CheckpointRecord(encoder=encoder.spec), model_tensors(encoder))
    by_folder = extract_data_set(checkpoint, images, tmp_path / "a", fabric, batch_size=32, workers=0)
    names = read_names(tmp_path / "a")
    assert list(names) == [f"{number:03d}.png" for number in range(COUNT)]
    listed = images.parent / "list.txt"
    listed.write_text(f"{images.name}/003.png\n\n{images.name}/001.png\n")
    by_list = extract_data_set(checkpoint, listed, tmp_path / "b", fabric, batch_size=2, workers=0)
    np.testing.assert_allclose(by_list.features, by_folder.features[[3, 1]], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(by_list.features, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), (b"\n\n", "lists no image"), (b"\x89PNG\0\0", "is no text file")],
)
def test_a_bad_list_is_one_clear_line(tmp_path: Path, fabric, content, words: str) -> None:
    from progeo_train.extraction import _list

    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=words):
        _list(path)


def test_two_processes_search_the_whole_database(by_two: Path, expected) -> None:
    for rank in range(2):
        found = np.load(by_two / f"ranking.{rank}.npz")
        database = np.load(by_two / "features" / "features.npy")
        products = np.nan_to_num(np.load(by_two / "described.0.npy")[::10]) @ database.T
        order = np.argsort(np.where(np.isnan(products), np.inf, -products), axis=1, kind="stable")[:, :6]
        np.testing.assert_array_equal(found["rows"][:7], order[:7])
        np.testing.assert_array_equal(found["rows"][8:], order[8:])
        assert not np.isin(found["rows"], [70, 149]).any()
