from __future__ import annotations

import numpy as np
import pytest

from progeo_edge.errors import InputError, SourceError
from progeo_edge.evaluation.labels import (
    leave_out_near_in_time,
    match_names,
    read_matches,
    read_places,
    read_times,
    truth_from_matches,
    truth_from_places,
    truth_from_utm,
    utm_positions_m,
)


def _write(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def _lists(rows):
    return [row.tolist() for row in rows]


def test_matches_are_read_with_further_columns_and_a_byte_order_mark(tmp_path):
    path = _write(tmp_path, "\ufeffquery,earlier,label,inliers\nb.jpg, a.jpg,positive,31\nc.jpg,a.jpg,ignore,14\n")
    matches = read_matches(path)
    assert matches.positive == {("b.jpg", "a.jpg")}
    assert matches.ignored == {("c.jpg", "a.jpg")}
    assert matches.one_set
    assert matches.names() == {"a.jpg", "b.jpg", "c.jpg"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query,reference,label\na,b,positive\n", r"has the columns query, reference, label; expected query, database"),
        ("query,database,label\na,b,yes\n", r"line 2: label 'yes' is unknown; write positive or ignore"),
        ("query,database,label\na,b,positive\na,,positive\n", r"line 3: an image name is empty"),
        ("query,database,label\na,b,positive\na,b,ignore\n", r"line 3: a and b are ignore here and positive above"),
        ("query,database,label\na,b,ignore\n", r"holds no line labelled positive"),
        ("query,database,label\n", r"holds no line below its header"),
        ("query,database,label\na,b\n", r"line 2 does not have 3 fields"),
        ("query,database,label\na,b,positive,x\n", r"line 2 does not have 3 fields"),
    ],
)
def test_bad_matches_name_the_line_and_the_remedy(tmp_path, text, message):
    with pytest.raises(SourceError, match=message):
        read_matches(_write(tmp_path, text))


def test_a_missing_or_binary_table_is_one_sentence(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere\.csv cannot be read"):
        read_matches(tmp_path / "nowhere.csv")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(SourceError, match="expected a comma-separated file in UTF-8"):
        read_places(binary)


def test_bad_places_and_times(tmp_path):
    with pytest.raises(SourceError, match="line 3: a is listed twice"):
        read_places(_write(tmp_path, "image,place\na,1\na,2\n"))
    with pytest.raises(SourceError, match="a place of its own"):
        read_places(_write(tmp_path, "image,place\na,1\nb,2\n"))
    with pytest.raises(SourceError, match="expected image and place"):
        read_places(_write(tmp_path, "image,location\na,1\n"))
    with pytest.raises(SourceError, match="line 2: image or place is empty"):
        read_places(_write(tmp_path, "image,place\na,\n"))
    for bad in ("soon", "nan", "inf"):
        with pytest.raises(SourceError, match=f"line 2: time_s is '{bad}'; expected seconds"):
            read_times(_write(tmp_path, f"image,time_s\na,{bad}\n"))
    with pytest.raises(SourceError, match="line 3: a is listed twice"):
        read_times(_write(tmp_path, "image,time_s\na,1\na,2\n"))
    with pytest.raises(SourceError, match="expected image and time_s"):
        read_times(_write(tmp_path, "image,t\na,1\n"))


def test_names_match_exactly_or_by_the_tail_of_the_path():
    assert match_names(["a/1.jpg", "1.jpg"], ["a/1.jpg", "b/1.jpg", "1.jpg"]) == {
        "a/1.jpg": "a/1.jpg",
        "1.jpg": "1.jpg",
    }
    assert match_names(["1.jpg"], ["a/1.jpg"]) == {"1.jpg": "a/1.jpg"}
    assert match_names(["/data/a/1.jpg"], ["a/1.jpg", "b/1.jpg"]) == {"/data/a/1.jpg": "a/1.jpg"}
    assert match_names(["11.jpg", "c/1.jpg"], ["1.jpg", "a/1.jpg"]) == {"c/1.jpg": "1.jpg"}
    with pytest.raises(SourceError, match=r"1\.jpg could be a/1\.jpg or b/1\.jpg"):
        match_names(["1.jpg"], ["b/1.jpg", "a/1.jpg"])


def test_two_folders_may_hold_the_same_names(tmp_path):
    path = _write(
        tmp_path,
        "query,database,label\nqueries/1.jpg,database/1.jpg,positive\nqueries/1.jpg,database/2.jpg,ignore\n"
        "queries/2.jpg,database/2.jpg,positive\n",
    )
    truth = truth_from_matches(read_matches(path), ["1.jpg", "2.jpg", "3.jpg"], ["1.jpg", "2.jpg"])
    assert _lists(truth.positives) == [[0], [1], []]
    assert _lists(truth.ignored) == [[1], [], []]
    assert truth.num_database == 2


def test_in_one_set_labels_hold_both_ways_and_nothing_matches_itself(tmp_path):
    path = _write(tmp_path, "query,earlier,label\nc,a,positive\nb,a,ignore\n")
    truth = truth_from_matches(read_matches(path), ["a", "b", "c"], ["a", "b", "c"], one_set=True)
    assert _lists(truth.positives) == [[2], [], [0]]
    assert _lists(truth.ignored) == [[0, 1], [0, 1], [2]]


def test_images_that_the_table_names_must_be_there(tmp_path):
    path = _write(tmp_path, "query,database,label\na,b,positive\nx,b,ignore\n")
    with pytest.raises(SourceError, match="names 1 query images that are not among the 1 given, such as x"):
        truth_from_matches(read_matches(path), ["a"], ["b"])
    with pytest.raises(SourceError, match="names 1 database images"):
        truth_from_matches(read_matches(path), ["a", "x"], ["c"])


def test_utm_positives_agree_with_all_distances():
    rng = np.random.default_rng(3)
    positions = rng.uniform(0, 150, (80, 2)) + np.array([500_000, 4_000_000])
    names = [f"d/@ {e:.2f} @ {n:.2f} @ 33 @ T @.jpg" for e, n in positions]
    truth = truth_from_utm(names[:20], names[20:])
    parsed = utm_positions_m(names)
    distances = np.linalg.norm(parsed[:20, None] - parsed[None, 20:], axis=2)
    assert _lists(truth.positives) == [np.flatnonzero(row <= 25.0).tolist() for row in distances]
    assert all(len(rows) == 0 for rows in truth.ignored)
    assert sum(map(len, truth.positives)) > 20


def test_the_radius_is_inclusive_and_must_be_positive():
    names = ["@0@0@.jpg", "@25@0@.jpg", "@0@-25.01@.jpg"]
    assert _lists(truth_from_utm(names[:1], names).positives) == [[0, 1]]
    assert _lists(truth_from_utm(names[:1], names, radius_m=30).positives) == [[0, 1, 2]]
    with pytest.raises(InputError, match="not positive"):
        truth_from_utm(names, names, radius_m=0.0)


@pytest.mark.parametrize("name", ["plain.jpg", "@12@.jpg", "@east@north@.jpg"])
def test_names_without_utm_are_refused(name):
    with pytest.raises(SourceError, match="has no UTM position in its name; expected '@ east @ north"):
        utm_positions_m([name])


def test_places_leave_the_image_itself_out():
    truth = truth_from_places({"a": "1", "b": "2", "c": "1", "d": "3"}, ["a", "b", "c", "d"])
    assert _lists(truth.positives) == [[2], [], [0], []]
    assert _lists(truth.ignored) == [[0], [1], [2], [3]]
    with pytest.raises(InputError, match="image e has no place"):
        truth_from_places({"a": "1"}, ["e"])


def test_pairs_near_in_time_are_left_out_whatever_their_label(tmp_path):
    path = _write(tmp_path, "query,earlier,label\nb,a,positive\nc,a,positive\n")
    names = ["a", "b", "c"]
    truth = truth_from_matches(read_matches(path), names, names, one_set=True)
    apart = leave_out_near_in_time(truth, np.array([0.0, 4.9, 5.0]), 5.0)
    assert _lists(apart.positives) == [[2], [], [0]]
    assert _lists(apart.ignored) == [[0, 1], [0, 1, 2], [1, 2]]
    with pytest.raises(InputError, match="one time for each"):
        leave_out_near_in_time(truth, np.zeros(2), 5.0)
