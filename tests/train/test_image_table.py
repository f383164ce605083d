from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.errors import InputError
from progeo_train.data.image_table import ImageNames, ImageTable

names_on_disk = st.lists(st.binary(max_size=12).map(lambda name: name.decode("utf-8", "surrogateescape")), max_size=20)


@given(names_on_disk, st.data())
def test_names_come_back_as_they_went_in(names, data):
    packed = ImageNames.from_names(names)
    assert list(packed) == names
    assert [packed[row] for row in range(len(packed))] == names
    assert packed == ImageNames(packed.blob, packed.offsets)
    rows = data.draw(st.lists(st.integers(0, len(names) - 1)) if names else st.just([]))
    assert list(packed.select(np.array(rows, np.int64))) == [names[row] for row in rows]


def test_a_million_names_are_two_buffers():
    packed = ImageNames.from_names(f"{row:07}.jpg" for row in range(1_000_000))
    assert len(packed.blob) + packed.offsets.nbytes < 20e6
    assert packed[999_999] == "0999999.jpg"


@pytest.mark.parametrize("row", [-1, 2])
def test_row_outside_is_an_index_error(row):
    with pytest.raises(IndexError):
        ImageNames.from_names(["a", "b"])[row]


@pytest.mark.parametrize("offsets", [[], [0, 2], [1, 3], [0, 2, 1, 3]])
def test_offsets_that_do_not_fit_are_refused(offsets):
    with pytest.raises(InputError, match="rise from 0 to 3"):
        ImageNames(b"abc", np.array(offsets, np.int64))


def test_unknown_columns_are_filled():
    table = ImageTable.of(Path("/data"), ["a/1.jpg", "2.jpg"], east_m=[1, 2])
    assert len(table) == 2
    assert table.east_m.tolist() == [1.0, 2.0]
    for column in (table.north_m, table.heading_deg, table.time_s):
        assert column.dtype == np.float64
        assert np.isnan(column).all()
    assert table.sequence.tolist() == [0, 0]
    assert table.sequence_names == ("",)
    assert table.region.tolist() == table.place.tolist() == [-1, -1]
    assert table.place.dtype == table.region.dtype == table.sequence.dtype == np.int32
    assert table.path(0) == Path("/data/a/1.jpg")


def test_absolute_names_stay_absolute():
    assert ImageTable.of(Path("/data"), ["/else/1.jpg"]).path(0) == Path("/else/1.jpg")


@pytest.mark.parametrize("rows", [[2, 0], np.array([2, 0]), []])
def test_select_takes_rows_in_order(rows):
    table = ImageTable.of(
        Path("/data"), ["a", "b", "c"], time_s=[0, 1, 2], sequence=[0, 1, 1], sequence_names=("x", "y"), place=[2, 1, 0]
    )
    chosen = table.select(rows)
    assert list(chosen.names) == [["a", "b", "c"][row] for row in rows]
    assert chosen.time_s.tolist() == list(rows)
    assert chosen.sequence_names == ("x", "y")
    assert chosen.place.tolist() == [2 - row for row in rows]


def test_select_takes_a_mask():
    assert list(ImageTable.of(Path("/data"), ["a", "b", "c"]).select([True, False, True]).names) == ["a", "c"]


def test_column_of_another_length_is_refused():
    with pytest.raises(InputError, match=r"column heading_deg has shape \(3,\); expected one value for 2 images"):
        ImageTable.of(Path("/data"), ["a", "b"], heading_deg=[1, 2, 3])
