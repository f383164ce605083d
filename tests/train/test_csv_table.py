import logging

import numpy as np
import pytest

from progeo_edge.errors import SourceError
from progeo_train.config import PlacesConfig
from progeo_train.data import csv_table
from progeo_train.data.csv_table import read_csv_table
from progeo_train.data.place_groups import PlaceGroups

PLACES = PlacesConfig(min_images_per_class=1, groups=1000)


@pytest.fixture
def write(tmp_path):
    """Write a CSV beside images a.jpg to f.jpg."""
    for name in "abcdef":
        (tmp_path / f"{name}.jpg").touch()

    def _write(text, encoding="utf-8"):
        path = tmp_path / "images.csv"
        path.write_text(text, encoding=encoding)
        return path

    return _write


@pytest.fixture
def asked(monkeypatch):
    """Stands in for the classes without positions: notes which function was asked, with what."""
    calls: list[tuple[str, object, object]] = []

    def remember(name):
        def groups(table, places):
            calls.append((name, table, places))
            return PlaceGroups.from_labels(np.zeros(len(table), int), [0], [name])

        return groups

    monkeypatch.setattr(csv_table, "place_label_groups", remember("labels"))
    monkeypatch.setattr(csv_table, "time_window_groups", remember("times"))
    return calls


def test_positions_become_cells(write):
    table, groups = read_csv_table(
        write(
            "\ufeffimage, north_m ,east_m,heading_deg,camera\n"
            'a.jpg,5,5,10,left\n\n"b.jpg", 6 ,6,370,left\nc.jpg,5,55,-350,right\n'
        ),
        PLACES,
    )
    assert list(table.names) == ["a.jpg", "b.jpg", "c.jpg"]
    assert table.north_m.tolist() == [5, 6, 5]
    assert table.heading_deg.tolist() == [10, 10, 10]
    assert np.isnan(table.time_s).all()
    assert [groups.members(0, k).tolist() for k in range(groups.num_classes(0))] == [[0, 1], [2]]
    assert table.path(0).is_file()


def test_regions_part_classes(write):
    text = "image,east_m,north_m,heading_deg,region\na.jpg,1,1,1,Leeds\nb.jpg,1,1,1,York\nc.jpg,1,1,1,Leeds\n"
    table, groups = read_csv_table(write(text), PLACES)
    assert table.region.tolist() == [0, 1, 0]
    assert [groups.members(0, k).tolist() for k in range(groups.num_classes(0))] == [[0, 2], [1]]


def test_labels_make_places(write, asked):
    table, _ = read_csv_table(write("image,place,region\na.jpg,hall,1\nb.jpg,stairs,2\nc.jpg,hall,1\n"), PLACES)
    ((kind, seen, places),) = asked
    assert (kind, seen, places) == ("labels", table, PLACES)
    assert table.place.tolist() == [0, 1, 0]
    assert table.place_names == ("hall", "stairs")


def test_times_make_windows(write, asked):
    table, _ = read_csv_table(write("image,sequence,time_s\na.jpg,day,0.5\nb.jpg,night,1\nc.jpg,day,2\n"), PLACES)
    assert asked[0][:2] == ("times", table)
    assert table.sequence.tolist() == [0, 1, 0]
    assert table.sequence_names == ("day", "night")
    assert table.time_s.tolist() == [0.5, 1, 2]


def test_times_without_sequence_are_one_sequence(write, asked):
    table, _ = read_csv_table(write("image,time_s\na.jpg,0\nb.jpg,1\n"), PLACES)
    assert asked[0][0] == "times"
    assert table.sequence_names == ("",)
    assert table.sequence.tolist() == [0, 0]


def test_labels_go_before_positions_and_this_is_said(write, asked, caplog):
    with caplog.at_level(logging.INFO):
        read_csv_table(write("image,place,east_m,north_m,heading_deg\na.jpg,hall,1,2,3\n"), PLACES)
    assert asked[0][0] == "labels"
    assert "states place and positions; classes are made of the place" in caplog.text


def test_one_class_for_all_headings_needs_no_heading(write):
    path = write("image,east_m,north_m\na.jpg,1,1\n")
    with pytest.raises(SourceError, match=r"no column heading_deg.*places.heading_deg=360"):
        read_csv_table(path, PLACES)
    assert read_csv_table(path, PlacesConfig(min_images_per_class=1, heading_deg=360))[1].num_images(0) == 1


UTM = "image,east_m,north_m,heading_deg\na.jpg,1,2,3\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (UTM + "b.jpg,1,2\n", "line 3: 3 fields, but line 1 names 4"),
        (UTM + "b.jpg,1,x,3\n", "line 3: north_m is 'x'; expected a finite number"),
        (UTM + "b.jpg,1,2,nan\n", "line 3: heading_deg is 'nan'; expected a finite number"),
        (UTM + "b.jpg,1,2,\n", "line 3: heading_deg is ''; expected a finite number"),
        (UTM + "b.jpg,inf,2,3\n", "line 3: east_m is 'inf'"),
        (UTM + "\n,1,2,3\n", "line 4: image is ''; expected a name"),
        (UTM + "a.jpg,1,2,3\n", "line 3: a.jpg is listed twice"),
        ("image,place\na.jpg,\n", "line 2: place is ''; expected a name"),
        ("image,time_s\na.jpg,soon\n", "line 2: time_s is 'soon'"),
        ("image,east_m,north_m,heading_deg\n", "no line below its header"),
        ("", "no column image, but nothing; expected in line 1"),
        ("name,east_m\na.jpg,1\n", "no column image, but name, east_m"),
        ("image,east_m\na.jpg,1\n", "no columns that tell places; expected in line 1"),
        ("image,place,place\na.jpg,x,y\n", "several columns called place"),
        ("image,place\n/none/a.jpg,x\nz.jpg,y\n", "none of the first 2 images exists, such as /none/a.jpg"),
    ],
)
def test_bad_tables_are_refused_with_their_line(write, text, message):
    with pytest.raises(SourceError) as caught:
        read_csv_table(write(text), PLACES)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_table_are_refused(tmp_path):
    (tmp_path / "bad.csv").write_bytes(b"image,place\n\xff\xfe,1\n")
    for path in (tmp_path / "bad.csv", tmp_path / "none.csv", tmp_path):
        with pytest.raises(SourceError, match="cannot be read"):
            read_csv_table(path, PLACES)


def test_a_single_missing_image_is_left_to_the_reader(write):
    table, _ = read_csv_table(write(UTM + "gone.jpg,1,2,3\n"), PLACES)
    assert len(table) == 2


def test_no_place_with_enough_images(write):
    with pytest.raises(SourceError, match=r"min_images_per_class = 10 images: the largest of 1 cells"):
        read_csv_table(write(UTM), PlacesConfig())


def members(groups):
    return {
        frozenset(groups.members(g, k).tolist()) for g in range(groups.num_groups) for k in range(groups.num_classes(g))
    }


def test_places_and_times_end_to_end(write):
    _, groups = read_csv_table(write("image,place\na.jpg,hall\nb.jpg,stairs\nc.jpg,hall\n"), PLACES)
    assert members(groups) == {frozenset({0, 2}), frozenset({1})}
    lines = [f"{name}.jpg,{time_s}" for name, time_s in zip("abcdef", (0, 1, 2, 100, 101, 102), strict=True)]
    _, groups = read_csv_table(write("\n".join(["image,time_s", *lines])), PLACES)
    assert members(groups) == {frozenset({0, 1, 2}), frozenset({3, 4, 5})}
