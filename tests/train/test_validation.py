"""Validation: sets by their folder, recall as counted by hand, and the worst queries."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from progeo_edge.errors import ConfigError, SourceError
from progeo_edge.evaluation.labels import GroundTruth
from progeo_edge.evaluation.protocols import DescribedSet
from progeo_edge.evaluation.retrieval import Ranking
from progeo_train.config import ValidationConfig
from progeo_train.feature_file import FeatureFile
from progeo_train.models.place_encoder import EncoderSpec
from progeo_train.run_log import SilentLog
from progeo_train.validation import ValidationSet, judge_extracted, parse_validation_spec, validate
from progeo_train.worst_queries import CELL_PX, find_worst, grid_picture

DEV = Path(__file__).parents[3] / "shared" / "data" / "dev"
SPEC = EncoderSpec(
    kind="clip_vit",
    architecture="none",
    image_size_px=(8, 8),
    descriptor_dim=3,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


class MeanColour(nn.Module):
    """The mean colour is the descriptor (not of unit length), unless the dropout is active."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.dropout(images.mean(dim=(2, 3)))
        return result


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric


def paint(path: Path, bgr: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((12, 20, 3), bgr, np.uint8))


RED, GREEN, BLUE, PINK = (0, 0, 255), (0, 255, 0), (255, 0, 0), (90, 90, 255)


def utm_name(east: float, north: float) -> str:
    return f"@ {east:.1f} @ {north:.1f} @ 17 @ T @.png"


@pytest.fixture
def utm_set(tmp_path: Path) -> Path:
    """Four queries: right, wrong at first and right at second, without a positive, wrong throughout the first five."""
    folder = tmp_path / "town"
    for number, color in enumerate((RED, GREEN, BLUE)):
        paint(folder / "database" / utm_name(100 * number, 0), color)
    paint(folder / "queries" / utm_name(10, 0), RED)
    paint(folder / "queries" / utm_name(110, 20), PINK)
    paint(folder / "queries" / utm_name(900, 0), RED)
    return folder


def run(folders: list[Path], fabric: Fabric, module: nn.Module | None = None, worst: int = 0) -> Any:
    sets = [parse_validation_spec(str(folder), 25.0) for folder in folders]
    settings = ValidationConfig(batch_size=2, worst_queries=worst)
    return validate(module or MeanColour(), SPEC, sets, fabric, settings, 0)


def test_recall_is_what_one_counts_by_hand(utm_set: Path, fabric) -> None:
    """Red finds red. Pink lies nearest to red, then (equally far) green and blue. The third has no positive."""
    found = run([utm_set], fabric)
    assert found.recall == {"town": {"recall@1": 0.5, "recall@5": 1.0, "recall@10": 1.0, "recall@20": 1.0}}
    assert found.mean_recall_at_1 == 0.5
    assert found.scalars()["town/recall@5"] == 1.0 and found.scalars()["mean recall@1"] == 0.5
    assert found.worst == {"town": ()}


def test_the_radius_decides_what_is_right(utm_set: Path) -> None:
    near = parse_validation_spec(str(utm_set), 15.0).images.truth.positives
    far = parse_validation_spec(str(utm_set), 25.0).images.truth.positives
    assert [len(rows) for rows in near] == [1, 0, 0] and [len(rows) for rows in far] == [1, 1, 0]


def test_the_mode_comes_back_and_does_not_disturb(utm_set: Path, fabric) -> None:
    module = MeanColour()
    assert run([utm_set], fabric, module).mean_recall_at_1 == 0.5
    assert module.training and module.dropout.training


def test_places_ask_each_other(tmp_path: Path, fabric) -> None:
    lines = ["image,place"]
    for number, (color, place) in enumerate([(RED, "a"), (PINK, "a"), (GREEN, "b"), (GREEN, "b"), (BLUE, "c")]):
        paint(tmp_path / "images" / f"{number}.png", color)
        lines.append(f"images/{number}.png,{place}")
    (tmp_path / "places.csv").write_text("\n".join(lines) + "\n")
    assert run([tmp_path], fabric).mean_recall_at_1 == 1.0


def test_sets_of_one_name_are_both_judged_and_averaged(tmp_path: Path, utm_set: Path, fabric) -> None:
    other = tmp_path / "other" / "town"
    paint(other / "database" / "a.png", RED)
    paint(other / "queries" / "b.png", RED)
    (other / "matches.csv").write_text("query,database,label\nb.png,a.png,positive\n")
    found = run([utm_set, other], fabric)
    assert list(found.recall) == ["town", "town-2"]
    assert found.mean_recall_at_1 == 0.75


def test_an_unreadable_query_counts_as_missed_and_is_named(utm_set: Path, fabric, caplog) -> None:
    (utm_set / "queries" / utm_name(10, 0)).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        found = run([utm_set], fabric, worst=3)
    assert found.recall["town"]["recall@1"] == 0.0 and found.recall["town"]["recall@5"] == 0.5
    assert "1 of 6 images of validation set town cannot be read" in caplog.text
    assert len(found.worst["town"]) == 1


def test_a_set_without_a_readable_image_is_an_error(utm_set: Path, fabric) -> None:
    for path in utm_set.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(SourceError, match="none of the 6 images of validation set town can be read"):
        run([utm_set], fabric)


def test_no_set_is_an_error(fabric) -> None:
    with pytest.raises(ConfigError, match="--val"):
        run([], fabric)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "holds nothing; expected the folders database and queries"),
        (["a.png", "poses.csv"], "holds a.png, poses.csv; expected"),
        (["database/a.png"], "holds database; expected"),
        (["database/a.png", "queries/b.png"], "no UTM position in its name"),
        (["database/@1@2@.png", "queries/@99@99@.png"], "no query with a positive in its database within 25 m"),
    ],
)
def test_a_folder_of_another_kind_is_one_clear_line(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        paint(tmp_path / name, RED) if name.endswith(".png") else (tmp_path / name).write_text("x\n")
    with pytest.raises(SourceError, match=words) as caught:
        parse_validation_spec(str(tmp_path), 25.0)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is no folder"):
        parse_validation_spec(str(tmp_path / "missing"), 25.0)


@pytest.mark.skipif(not DEV.is_dir(), reason="the development sets are not here")
@pytest.mark.parametrize(
    ("name", "num_queries", "num_database"),
    [
        ("donkeycar_room_laps", 226, 226),
        ("vprbench_corridor", 111, 111),
        ("grief_michigan_12x5", 58, 58),
        ("moscow_street_buildings", 13, 130),
        ("thumbs_essex3in1", 210, 210),
        ("sfxl_toy", None, None),
        ("qut_campus_retrieval", None, None),
    ],
)
def test_development_sets_open_by_their_folder(name: str, num_queries: int | None, num_database: int | None) -> None:
    found: ValidationSet = parse_validation_spec(str(DEV / name), 25.0)
    assert found.name == name and all(path.is_file() for path in found.images.queries + found.images.database)
    if num_queries is not None:
        assert (len(found.images.queries), len(found.images.database)) == (num_queries, num_database)


def rows(*values: list[int]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(one, np.int64) for one in values)


def test_worst_queries_are_ordered_by_their_margin() -> None:
    """Margins by hand: 0.9 - 0.2, 0.5 - 0.8, no positive, and 0.6 - 0.5."""
    database = np.eye(3, dtype=np.float32)
    queries = np.array([[0.9, 0.2, 0.1], [0.5, 0.8, 0], [1, 0, 0], [0.5, 0.4, 0.6]], np.float32)
    order = np.argsort(-queries, axis=1, kind="stable")
    ranking = Ranking(order, np.take_along_axis(queries, order, axis=1))
    truth = GroundTruth(rows([1], [1], [], [0, 1]), rows([], [], [], []), 3)
    described = DescribedSet(queries, database, np.zeros(0))
    worst = find_worst(ranking, described, truth, 3)
    assert [query.row for query in worst] == [0, 3, 1]
    np.testing.assert_allclose([query.margin for query in worst], [0.7, 0.1, -0.3], atol=1e-6)
    assert worst[0].wrong == (0, 2) and worst[0].positive == 1
    assert worst[1].wrong == (2,) and worst[1].positive == 0
    assert find_worst(ranking, described, truth, 1) == worst[:1]
    assert find_worst(ranking, described, truth, 0) == ()


def test_pictures_show_query_wrong_answers_and_a_positive(tmp_path: Path, utm_set: Path, fabric) -> None:
    class Pictures(SilentLog):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def picture(self, tag: str, step: int, image: Any) -> None:
            self.seen.append((tag, step, image))

    found, log = run([utm_set], fabric, worst=1), Pictures()
    (path,) = found.write_worst(tmp_path / "worst", 4, log, 77)
    assert path.name == "town-epoch-4.png"
    ((tag, step, picture),) = log.seen
    assert (tag, step) == ("worst queries/town", 77)
    written = cv2.imread(str(path))
    assert written is not None
    np.testing.assert_array_equal(written[:, :, ::-1], picture)
    # Five cells in a line: the pink query, wrong red and blue, an empty cell, and right green.
    centres = [picture[CELL_PX[0] // 2, cell * (CELL_PX[1] + 4) + CELL_PX[1] // 2].tolist() for cell in range(5)]
    assert centres == [[255, 90, 90], [255, 0, 0], [0, 0, 255], [255, 255, 255], [0, 255, 0]]


def test_a_picture_of_a_lost_file_says_so(utm_set: Path, fabric) -> None:
    found = run([utm_set], fabric, worst=1)
    images = found.sets["town"]
    images.queries[found.worst["town"][0].row].unlink()
    assert grid_picture(images, found.worst["town"]).shape[2] == 3


def write_descriptors(folder: Path, values: list[list[float]], names: list[str]) -> None:
    file = FeatureFile.open_or_create(folder, len(values), 2, "k")
    file.write_chunk(0, np.array(values))
    (folder / "names.txt").write_text("".join(f"{name}\n" for name in names))


def test_extracted_data_sets_are_judged_by_their_names(tmp_path: Path) -> None:
    write_descriptors(tmp_path / "database", [[1, 0], [0, 1]], [utm_name(0, 0), utm_name(100, 0)])
    write_descriptors(tmp_path / "queries", [[0.8, 0.6], [0.8, 0.6]], [utm_name(5, 5), utm_name(99, 0)])
    recall = judge_extracted(tmp_path / "queries", tmp_path / "database", 25.0)
    assert recall["recall@1"] == 0.5 and recall["recall@5"] == 1.0
    (tmp_path / "queries" / "names.txt").write_text(utm_name(5, 5) + "\n")
    with pytest.raises(SourceError, match="differ in number"):
        judge_extracted(tmp_path / "queries", tmp_path / "database", 25.0)
