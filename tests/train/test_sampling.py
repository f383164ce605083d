import time
from collections import Counter

import pytest
from scipy import stats

from progeo_edge.errors import InputError
from progeo_train.data.place_groups import PlaceGroups
from progeo_train.data.sampling import ClassDraws


def make_groups(sizes_per_group):
    """Groups with classes of these sizes; rows are dealt out class after class."""
    class_of_row: list[int] = []
    group_of_class: list[int] = []
    for group, sizes in enumerate(sizes_per_group):
        for size in sizes:
            class_of_row += [len(group_of_class)] * size
            group_of_class.append(group)
    return PlaceGroups.from_labels(class_of_row, group_of_class, [f"c{k}" for k in range(len(group_of_class))])


GROUPS = make_groups([[3, 1, 5, 2, 4], [7, 7], [2]])


def epoch(draws, iterations):
    return [draw for iteration in range(iterations) for draw in draws.batch(iteration)]


def test_draws_are_members_of_their_class_and_samples_count_up():
    for group, batch_size, per_class in [(0, 4, 1), (0, 6, 3), (1, 8, 2), (2, 6, 2), (1, 1, 1)]:
        draws = ClassDraws(GROUPS, group, 3, 5, batch_size, per_class)
        for iteration in range(20):
            batch = draws.batch(iteration)
            assert [draw.sample for draw in batch] == list(range(batch_size))
            assert all(draw.row in GROUPS.members(group, draw.label) for draw in batch)


def test_any_batch_can_be_asked_for_alone():
    in_order = ClassDraws(GROUPS, 0, 1, 2, 7)
    expected = [in_order.batch(iteration) for iteration in range(40)]
    for iteration in (39, 0, 17, 3):
        assert ClassDraws(GROUPS, 0, 1, 2, 7).batch(iteration) == expected[iteration]
        assert in_order.batch(iteration) == expected[iteration]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 12])
def test_every_pass_holds_each_class_once_and_differs_from_the_last(batch_size):
    labels = [draw.label for draw in epoch(ClassDraws(GROUPS, 0, 0, 0, batch_size), 60)]
    passes = [labels[start : start + 5] for start in range(0, len(labels) - 4, 5)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes)
    assert len({tuple(one) for one in passes}) > 1


@pytest.mark.parametrize(("seed", "epoch_number"), [(8, 0), (7, 1)])
def test_seed_and_epoch_change_classes_and_members(seed, epoch_number):
    first = epoch(ClassDraws(GROUPS, 1, 7, 0, 4), 20)
    other = epoch(ClassDraws(GROUPS, 1, seed, epoch_number, 4), 20)
    assert [draw.label for draw in first] != [draw.label for draw in other]
    assert [draw.row for draw in first] != [draw.row for draw in other]


def test_members_of_a_class_are_drawn_uniformly():
    drawn = epoch(ClassDraws(make_groups([[10, 4]]), 0, 0, 0, 20), 500)
    for label, size in ((0, 10), (1, 4)):
        counts = Counter(draw.row for draw in drawn if draw.label == label)
        assert len(counts) == size
        assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_pairs_of_a_class_are_drawn_uniformly():
    drawn = epoch(ClassDraws(make_groups([[5]]), 0, 0, 0, 20, 2), 500)
    pairs = Counter(frozenset((a.row, b.row)) for a, b in zip(drawn[::2], drawn[1::2], strict=True))
    assert len(pairs) == 10
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-3


def test_order_of_the_classes_is_uniform():
    labels = [draw.label for draw in epoch(ClassDraws(make_groups([[1, 1, 1]]), 0, 0, 0, 3), 3000)]
    orders = Counter(tuple(labels[start : start + 3]) for start in range(0, len(labels), 3))
    assert len(orders) == 6
    assert stats.chisquare(list(orders.values())).pvalue > 1e-3


def test_images_of_a_class_stand_together_and_differ_while_there_are_enough():
    draws = ClassDraws(make_groups([[4, 2, 9]]), 0, 0, 0, 12, 4)
    for iteration in range(30):
        batch = draws.batch(iteration)
        for start in range(0, 12, 4):
            label = batch[start].label
            rows = [draw.row for draw in batch[start : start + 4]]
            assert {draw.label for draw in batch[start : start + 4]} == {label}
            if label == 1:
                assert sorted(Counter(rows).values()) == [2, 2]
            else:
                assert len(set(rows)) == 4


@pytest.mark.parametrize(("batch_size", "per_class"), [(0, 1), (4, 0), (5, 2)])
def test_batch_without_whole_classes_is_refused(batch_size, per_class):
    with pytest.raises(InputError, match="multiple of images_per_class"):
        ClassDraws(GROUPS, 0, 0, 0, batch_size, per_class)


def test_a_draw_is_cheap():
    draws = ClassDraws(make_groups([[10] * 20_000]), 0, 0, 0, 32)
    draws.batch(0)
    start = time.perf_counter()
    epoch(draws, 200)
    assert (time.perf_counter() - start) / (200 * 32) < 50e-6
