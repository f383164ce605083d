import logging
import shutil

import cv2
import numpy as np
import pytest
import torch

from progeo_edge.errors import ConfigError, SourceError
from progeo_edge.sources.images import FrameError
from progeo_train.data import image_loader
from progeo_train.data.image_loader import input_form, make_loader, read_model_input
from progeo_train.data.image_table import ImageTable
from progeo_train.data.place_groups import PlaceGroups
from progeo_train.data.sampling import ClassDraws

SIZE = (16, 24)
CLASS_OF_ROW = [0, 0, 0, 1, 1, 2, 2, 2, 2]


@pytest.fixture
def table(tmp_path):
    """Nine images, each of a colour of its own: blue 10, 20, ...; green 200."""
    for row in range(len(CLASS_OF_ROW)):
        image = np.full((20, 30, 3), (10 * (row + 1), 200, 0), np.uint8)
        cv2.imwrite(str(tmp_path / f"{row}.png"), image)
    return ImageTable.of(tmp_path, [f"{row}.png" for row in range(len(CLASS_OF_ROW))])


@pytest.fixture
def groups():
    return PlaceGroups.from_labels(CLASS_OF_ROW, [0, 0, 0], ["a", "b", "c"])


def rows_shown(batch):
    return (batch.images[:, 2, 0, 0] // 10 - 1).tolist()


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x.images, y.images)
        assert torch.equal(x.labels, y.labels)
        assert torch.equal(x.samples, y.samples)


def test_batches_hold_the_images_that_were_drawn(table, groups):
    draws = ClassDraws(groups, 0, 1, 2, 6, 2)
    loader = make_loader(table, draws, SIZE, iterations=5)
    assert len(loader) == 5
    for iteration, batch in enumerate(loader):
        expected = draws.batch(iteration)
        assert batch.images.shape == (6, 3, *SIZE)
        assert batch.images.dtype == torch.uint8
        assert rows_shown(batch) == [draw.row for draw in expected]
        assert batch.labels.tolist() == [draw.label for draw in expected]
        assert batch.samples.tolist() == list(range(6))
        assert batch.unreadable == []
        assert torch.all(batch.images[:, 0] == 0)
        assert torch.all(batch.images[:, 1] == 200)


def test_workers_change_nothing_and_leave_torchs_generator_alone(table, groups):
    draws = ClassDraws(groups, 0, 1, 2, 4)
    state = torch.get_rng_state()
    alone = list(make_loader(table, draws, SIZE, iterations=7))
    assert_same(alone, list(make_loader(table, draws, SIZE, iterations=7, workers=2)))
    assert torch.equal(state, torch.get_rng_state())


def test_a_resumed_epoch_goes_on_where_it_stopped(table, groups):
    draws = ClassDraws(groups, 0, 1, 2, 4)
    whole = list(make_loader(table, draws, SIZE, iterations=9))
    rest = list(make_loader(table, ClassDraws(groups, 0, 1, 2, 4), SIZE, first_iteration=4, iterations=5))
    assert_same(whole[4:], rest)


def test_processes_share_each_batch_in_order(table, groups):
    draws = ClassDraws(groups, 0, 1, 2, 6)
    whole = list(make_loader(table, draws, SIZE, iterations=4))
    halves = [list(make_loader(table, draws, SIZE, iterations=4, rank=rank, world_size=2)) for rank in (0, 1)]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(batch.images, torch.cat([first.images, second.images]))
        assert torch.equal(batch.labels, torch.cat([first.labels, second.labels]))
        assert torch.equal(batch.samples, torch.cat([first.samples, second.samples]))


def test_a_batch_that_cannot_be_shared_is_refused(table, groups):
    with pytest.raises(ConfigError, match="batch_size 6 cannot be shared by 4 processes"):
        make_loader(table, ClassDraws(groups, 0, 1, 2, 6), SIZE, iterations=4, world_size=4)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_replaced_by_the_next_of_its_class_and_named(table, groups, workers):
    bad = {0: b"", 2: b"not an image", 5: None}
    for row, content in bad.items():
        table.path(row).unlink()
        if content is not None:
            table.path(row).write_bytes(content)
    next_readable = {0: 1, 2: 1, 5: 6}
    draws = ClassDraws(groups, 0, 1, 2, 6)
    named = set()
    for iteration, batch in enumerate(make_loader(table, draws, SIZE, iterations=20, workers=workers)):
        drawn = draws.batch(iteration)
        assert rows_shown(batch) == [next_readable.get(draw.row, draw.row) for draw in drawn]
        assert batch.labels.tolist() == [draw.label for draw in drawn]
        named.update(batch.unreadable)
    assert named == {str(table.path(row)) for row in bad}


def test_class_without_readable_image_gives_way_to_another_with_its_label(table, groups):
    for row in (5, 6, 7, 8, 0):
        table.path(row).unlink()
    draws = ClassDraws(groups, 0, 1, 2, 6)
    for iteration, batch in enumerate(make_loader(table, draws, SIZE, iterations=10)):
        for draw, row, label in zip(draws.batch(iteration), rows_shown(batch), batch.labels.tolist(), strict=True):
            assert row in groups.members(0, label)
            assert label == (0 if draw.label == 2 else draw.label)


@pytest.mark.parametrize("workers", [0, 1])
def test_group_without_any_readable_image_is_one_clear_error(table, groups, workers):
    for row in range(len(table)):
        table.path(row).unlink()
    loader = make_loader(table, ClassDraws(groups, 0, 1, 2, 6), SIZE, iterations=3, workers=workers)
    with pytest.raises(SourceError, match=r"^none of the 9 images of group 0 can be read, such as .*mounted") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def test_truncated_jpeg_is_noticed(tmp_path):
    picture = cv2.resize(np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8), (320, 240))
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    assert read_model_input(tmp_path / "whole.jpg", input_form(SIZE)).shape == (3, *SIZE)
    with pytest.raises(FrameError, match="truncated"):
        read_model_input(tmp_path / "cut.jpg", input_form(SIZE))


def test_grey_images_become_three_equal_channels(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8))
    planes = read_model_input(tmp_path / "grey.png", input_form(SIZE))
    assert np.array_equal(planes[0], planes[1])
    assert np.array_equal(planes[0], planes[2])


def test_small_shared_memory_is_announced(table, groups, monkeypatch, caplog):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(image_loader, "_SHARED_MEMORY", table.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with caplog.at_level(logging.WARNING):
        make_loader(table, ClassDraws(groups, 0, 1, 2, 6), SIZE, iterations=3, workers=1)
    assert "--shm-size" in caplog.text
