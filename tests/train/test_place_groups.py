from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.errors import InputError
from progeo_train.data.place_groups import PlaceGroups


def ints(*values):
    return np.array(values, np.int64)


def as_dict(groups):
    """{(group, k): (name, rows)}, read through the public methods alone."""
    return {
        (g, k): (groups.class_name(g, k), groups.members(g, k).tolist())
        for g in range(groups.num_groups)
        for k in range(groups.num_classes(g))
    }


labels = st.tuples(st.lists(st.integers(-1, 7), max_size=40), st.lists(st.integers(-1, 3), min_size=8, max_size=8))


def sort_by_hand(class_of_row, group_of_class):
    members = defaultdict(list)
    for row, number in enumerate(class_of_row):
        if number >= 0 and group_of_class[number] >= 0:
            members[number].append(row)
    of_group = defaultdict(list)
    for number in sorted(members):
        of_group[group_of_class[number]].append((f"c{number}", members[number]))
    return {(g, k): of_group[group][k] for g, group in enumerate(sorted(of_group)) for k in range(len(of_group[group]))}


def build(class_of_row, group_of_class):
    return PlaceGroups.from_labels(class_of_row, group_of_class, [f"c{k}" for k in range(len(group_of_class))])


@given(labels)
def test_labels_become_classes_and_groups(label_lists):
    groups = build(*label_lists)
    expected = sort_by_hand(*label_lists)
    assert as_dict(groups) == expected
    for g in range(groups.num_groups):
        assert groups.num_classes(g) > 0
        assert groups.num_images(g) == sum(len(rows) for (group, _), (_, rows) in expected.items() if group == g)


@given(st.lists(labels, min_size=1, max_size=4))
def test_joined_data_sets_hold_the_union_of_each_group(parts):
    built = [build(*part) for part in parts]
    num_rows = [len(class_of_row) for class_of_row, _ in parts]
    joined = PlaceGroups.concatenate(built, num_rows)
    expected: dict[tuple[int, int], tuple[str, list[int]]] = {}
    for g in range(max(part.num_groups for part in built)):
        classes = [
            (name, [row + sum(num_rows[:index]) for row in rows])
            for index, part in enumerate(built)
            for (group, _), (name, rows) in as_dict(part).items()
            if group == g
        ]
        expected.update({(g, k): one for k, one in enumerate(classes)})
    assert as_dict(joined) == expected


def test_fingerprint_tells_everything_apart():
    base = build([0, 0, 1, 2], [0, 0, 1])
    assert base.fingerprint() == build([0, 0, 1, 2], [0, 0, 1]).fingerprint()
    others = [
        build([0, 1, 1, 2], [0, 0, 1]),
        build([0, 0, 1, 2], [0, 1, 1]),
        build([0, 0, 2, 1], [0, 0, 1]),
        PlaceGroups.from_labels([0, 0, 1, 2], [0, 0, 1], ["c0", "c", "1c2"]),
    ]
    assert len({groups.fingerprint() for groups in [base, *others]}) == 5
    assert len(base.fingerprint()) == 64


def test_a_group_without_classes_cannot_be_made():
    with pytest.raises(InputError, match="a group holds no class"):
        PlaceGroups(ints(0, 1), ints(0, 1, 2), ints(0, 2, 2), ("a", "b"))
    assert build([0, 1], [0, 5]).num_groups == 2


@pytest.mark.parametrize(
    ("members", "class_start", "group_start", "names", "message"),
    [
        (ints(0, 1), ints(0, 0, 2), ints(0, 2), ("a", "b"), "a class holds no image"),
        (ints(0, 1), ints(0, 1), ints(0, 1), ("a",), "a class holds no image"),
        (ints(0, 1), ints(0, 1, 2), ints(0, 1), ("a", "b"), "a group holds no class"),
        (ints(0, 1), ints(0, 1, 2), ints(0, 2), ("a",), "1 class names for 2 classes"),
        (np.array([0, 1], np.int32), ints(0, 1, 2), ints(0, 2), ("a", "b"), "expected 1-D int64"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(members, class_start, group_start, names, message):
    with pytest.raises(InputError, match=message):
        PlaceGroups(members, class_start, group_start, names)


def test_group_and_class_outside_are_index_errors():
    groups = build([0, 1], [0, 1])
    for group, k in [(2, 0), (-1, 0), (0, 1), (0, -1)]:
        with pytest.raises(IndexError):
            groups.members(group, k)
