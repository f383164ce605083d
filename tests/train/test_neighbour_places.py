"""Places of images without a common metric frame: what is a class, and what never shares a group."""

from __future__ import annotations

import logging
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from progeo_edge.errors import InputError, SourceError
from progeo_train.config import PlacesConfig
from progeo_train.data.group_colouring import RegionClaims, colour_classes
from progeo_train.data.image_table import ImageTable
from progeo_train.data.neighbour_places import (
    NO_CLOSURES,
    joined_groups,
    place_label_groups,
    time_window_groups,
)
from progeo_train.data.place_groups import PlaceGroups

NO_CLAIMS = RegionClaims(*(np.zeros(0, np.int64),) * 3)


def table(count: int, **columns: Any) -> ImageTable:
    sequence = np.asarray(columns.get("sequence", np.zeros(count)), int)
    names = [f"run{k}" for k in range(int(sequence.max()) + 1)]
    return ImageTable.of(Path("x"), [f"{i}.jpg" for i in range(count)], sequence_names=names, **columns)


def places(**values: Any) -> PlacesConfig:
    return PlacesConfig(**{"min_images_per_class": 1, **values})


def classes(groups: PlaceGroups) -> set[tuple[int, ...]]:
    return {tuple(rows.tolist()) for group in by_group(groups) for rows in group}


def by_group(groups: PlaceGroups) -> list[list[NDArray[np.int64]]]:
    return [[groups.members(g, k) for k in range(groups.num_classes(g))] for g in range(groups.num_groups)]


def class_pairs(groups: PlaceGroups) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of classes that are told apart."""
    return [pair for group in by_group(groups) for pair in combinations(group, 2)]


def told_apart(groups: PlaceGroups, a: range, b: range) -> bool:
    return any({min(x), min(y)} == {a[0], b[0]} for x, y in class_pairs(groups))


def two_recordings(region: list[int]) -> ImageTable:
    """Two sequences of 60 s at 2 Hz."""
    time_s = np.tile(np.arange(120) * 0.5, 2)
    sequence = np.repeat([0, 1], 120)
    return table(240, time_s=time_s, sequence=sequence, region=np.repeat(region, 120))


# Windows of time


def test_images_of_five_seconds_are_a_place() -> None:
    groups = time_window_groups(table(40, time_s=100 + np.arange(40) * 0.5), places())
    assert classes(groups) == {tuple(range(10 * k, 10 * k + 10)) for k in range(4)}
    assert "run0 100.0-104.5 s" in groups.class_names


def test_windows_told_apart_are_the_minimum_gap_away_in_time() -> None:
    images = two_recordings([-1, -1])
    groups = time_window_groups(images, places(min_gap_s=10))
    pairs = class_pairs(groups)
    for a, b in pairs:
        if images.sequence[a[0]] == images.sequence[b[0]]:
            gap_s = np.abs(images.time_s[a][:, None] - images.time_s[b][None, :]).min()
            assert gap_s >= 10
    assert groups.num_groups == 3  # Windows of 5 s that keep 10 s apart: every third one.
    assert sum(images.sequence[a[0]] != images.sequence[b[0]] for a, b in pairs) > 0


def test_sequences_of_one_region_are_never_told_apart_and_those_of_two_are() -> None:
    for region, may_meet in (([3, 3], False), ([3, 4], True), ([-1, -1], True), ([-1, 3], True)):
        images = two_recordings(region)
        groups = time_window_groups(images, places())
        assert classes(groups) == {tuple(range(10 * k, 10 * k + 10)) for k in range(24)}
        met = any(images.sequence[a[0]] != images.sequence[b[0]] for a, b in class_pairs(groups))
        assert met == may_meet, region


def test_classes_are_spread_evenly_over_the_groups() -> None:
    groups = time_window_groups(two_recordings([3, 4]), places())
    assert [groups.num_classes(g) for g in range(groups.num_groups)] == [8, 8, 8]


def test_a_frame_taken_a_little_early_does_not_crowd_the_window_before() -> None:
    time_s = np.arange(40) * 0.5
    time_s[10] -= 0.02
    groups = time_window_groups(table(40, time_s=time_s), places(min_images_per_class=10))
    assert len(groups.class_names) == 4


def test_an_image_without_a_time_is_left_out() -> None:
    time_s = np.arange(40) * 0.5
    time_s[3] = np.nan
    assert 3 not in time_window_groups(table(40, time_s=time_s), places()).member_rows
    with pytest.raises(SourceError, match="none of its 40 images has a time"):
        time_window_groups(table(40), places())


def test_small_windows_are_left_out_and_only_small_ones_are_an_error(caplog: pytest.LogCaptureFixture) -> None:
    time_s = np.concatenate([np.arange(10) * 0.5, [100.0, 101.0]])
    with caplog.at_level(logging.INFO):
        groups = time_window_groups(table(12, time_s=time_s), places(min_images_per_class=10))
    assert classes(groups) == {tuple(range(10))}
    assert "1 of 2 places (windows) with 2 images are left out" in caplog.text
    with pytest.raises(SourceError, match=r"none of 2 places .* holds the 11 images .* the largest 10; lower it"):
        time_window_groups(table(12, time_s=time_s), places(min_images_per_class=11))


def test_what_fits_into_no_group_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    images = table(80, time_s=np.arange(80) * 0.5)
    with caplog.at_level(logging.WARNING):
        groups = time_window_groups(images, places(groups=2))
    assert groups.num_groups == 2
    assert len(groups.class_names) == 5  # First fit over degrees: 2 and 5 share a group, 3, 6 and 0 the other.
    assert "3 of 8 places (windows) are left out" in caplog.text


# Labels


def test_labels_are_classes_and_those_of_one_region_conflict() -> None:
    place = np.repeat([0, 1, 2, 3], 3)
    region = np.repeat([0, 0, 1, -1], 3)
    images = table(13, place=[*place, -1], region=[*region, 0], place_names=("a", "b", "c", "d"))
    groups = place_label_groups(images, places())
    assert classes(groups) == {(0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11)}
    assert groups.num_groups == 2
    group_of = {groups.class_name(g, k): g for g in range(2) for k in range(groups.num_classes(g))}
    assert group_of["a"] != group_of["b"]


def test_a_label_of_several_regions_conflicts_in_each() -> None:
    """a and b are on photograph 0, b and c on photograph 1."""
    images = table(4, place=[0, 1, 1, 2], region=[0, 0, 1, 1], place_names=("a", "b", "c"))
    groups = place_label_groups(images, places())
    assert sorted(groups.num_classes(g) for g in range(groups.num_groups)) == [1, 2]
    assert {frozenset(groups.class_name(g, k) for k in range(groups.num_classes(g))) for g in range(2)} == {
        frozenset("ac"),
        frozenset("b"),
    }


def test_images_without_labels_are_an_error() -> None:
    with pytest.raises(SourceError, match="none of 1 places"):
        place_label_groups(table(3, place_names=("a",)), places())


# Odometry


def lattice(step_m: float, count: int, headings: list[float], sequences: int = 1) -> ImageTable:
    east, north, heading, sequence = (
        values.ravel()
        for values in np.meshgrid(
            np.arange(count) * step_m, np.arange(count) * step_m, headings, np.arange(sequences), indexing="ij"
        )
    )
    columns = {"east_m": east, "north_m": north, "heading_deg": heading, "sequence": sequence}
    return table(len(east), **columns)


def test_cells_told_apart_keep_their_distance_or_look_elsewhere() -> None:
    images = lattice(4.0, 16, [0.0, 45.0, 170.0, 359.0], 2)
    config = places(min_gap_m=15.0, groups=60)
    groups = joined_groups(images, NO_CLOSURES, config)
    assert len(groups.member_rows) == len(images)
    position = np.stack([images.east_m, images.north_m], axis=1)
    pairs = class_pairs(groups)
    same = [(a, b) for a, b in pairs if images.sequence[a[0]] == images.sequence[b[0]]]
    assert len(same) > 100
    for a, b in same:
        gap_m = np.linalg.norm(position[a][:, None] - position[b][None, :], axis=2).min()
        turn = np.abs(images.heading_deg[a][:, None] - images.heading_deg[b][None, :])
        assert gap_m >= 15 or np.minimum(turn, 360 - turn).min() >= 90
    assert any(images.sequence[a[0]] != images.sequence[b[0]] for a, b in pairs)


def test_a_cell_holds_one_spot_and_one_heading_of_one_sequence() -> None:
    images = lattice(4.0, 6, [10.0, 20.0, 40.0], 2)
    for rows in classes(joined_groups(images, NO_CLOSURES, places(groups=100))):
        chosen = list(rows)
        assert len(set(images.sequence[chosen])) == 1
        assert len(set(np.floor(images.east_m[chosen] / 10))) == len(set(np.floor(images.north_m[chosen] / 10))) == 1
        assert len(set(np.floor(images.heading_deg[chosen] / 30))) == 1


def test_opposite_headings_of_one_spot_are_told_apart() -> None:
    images = table(2, east_m=[1.0, 1.0], north_m=[1.0, 1.0], heading_deg=[0.0, 180.0])
    assert joined_groups(images, NO_CLOSURES, places()).num_groups == 1
    images = table(2, east_m=[1.0, 1.0], north_m=[1.0, 1.0], heading_deg=[5.0, 355.0])
    assert joined_groups(images, NO_CLOSURES, places()).num_groups == 2


def test_odometry_far_beyond_reason_is_refused() -> None:
    images = table(2, east_m=[0.0, 1e13], north_m=[0.0, 1e13], heading_deg=[0.0, 0.0])
    with pytest.raises(SourceError, match="spans 1e"):
        joined_groups(images, NO_CLOSURES, places())


# Loop closures


def laps(count: int, per_lap: int = 40) -> ImageTable:
    """Laps of 20 s at 2 Hz, 100 s between their starts: four windows each."""
    time_s = np.concatenate([100.0 * lap + np.arange(per_lap) * 0.5 for lap in range(count)])
    return table(count * per_lap, time_s=time_s)


def test_closures_join_windows_of_different_laps() -> None:
    images = laps(2)
    closures = np.array([(40 + i, i) for i in range(0, 40, 4)])
    groups = joined_groups(images, closures, places())
    assert classes(groups) == {(*range(10 * k, 10 * k + 10), *range(40 + 10 * k, 50 + 10 * k)) for k in range(4)}


def test_one_closure_of_ten_images_ties_without_joining() -> None:
    images = laps(2)
    groups = joined_groups(images, np.array([(45, 5)]), places(min_gap_s=1.0))
    assert len(classes(groups)) == 8
    assert not told_apart(groups, range(10), range(40, 50))
    assert told_apart(time_window_groups(images, places(min_gap_s=1.0)), range(10), range(40, 50))


def test_neighbours_around_a_closure_are_not_told_apart() -> None:
    """The window after the revisit shows what the window after the first visit shows, closed or not."""
    images = laps(2)
    groups = joined_groups(images, np.array([(40, 0), (44, 4)]), places(min_gap_s=3.0))
    assert tuple(range(10, 20)) in classes(groups) and tuple(range(50, 60)) in classes(groups)
    assert not told_apart(groups, range(10, 20), range(50, 60))
    assert told_apart(time_window_groups(images, places(min_gap_s=3.0)), range(10, 20), range(50, 60))


def test_a_third_of_a_small_window_is_enough() -> None:
    images = table(6, time_s=[0.0, 1, 2, 100, 101, 102])
    assert classes(joined_groups(images, np.array([(4, 1)]), places())) == {(0, 1, 2, 3, 4, 5)}


def test_a_chain_of_closures_does_not_unite_the_path() -> None:
    """Every window is closed with the one before it, image by image."""
    count = 30
    images = table(10 * count, time_s=np.arange(10 * count) * 0.5)
    closures = np.array([(row, row - 10) for row in range(10, 10 * count)])
    groups = joined_groups(images, closures, places(groups=30))
    assert len(groups.member_rows) == 10 * count
    assert max(len(rows) for rows in classes(groups)) == 30  # The founder and two closures on.


def test_the_third_lap_may_be_closed_with_the_second_only() -> None:
    images = laps(3)
    closures = np.array([(40 + i, i) for i in range(40)] + [(80 + i, 40 + i) for i in range(40)])
    assert {len(rows) for rows in classes(joined_groups(images, closures, places()))} == {30}


def test_closures_between_sequences_of_one_region_join_and_the_rest_conflicts() -> None:
    images = two_recordings([0, 0])
    closures = np.array([(120 + i, i) for i in range(60)])
    groups = joined_groups(images, closures, places())
    assert (*range(10), *range(120, 130)) in classes(groups)
    founded_by_second = {rows for rows in classes(groups) if min(rows) >= 120}
    assert len(founded_by_second) == 6
    for a, b in class_pairs(groups):
        assert (a.min() >= 120) == (b.min() >= 120)


def test_cells_of_different_sessions_are_joined_too() -> None:
    east = np.tile(np.arange(40) * 1.0, 2)
    images = table(
        80,
        east_m=east,
        north_m=np.ones(80),
        heading_deg=np.repeat([0.0, 90.0], 40),
        time_s=np.tile(np.arange(40) * 0.5, 2),
        sequence=np.repeat([0, 1], 40),
        region=np.zeros(80),
    )
    groups = joined_groups(images, np.array([(40 + i, i) for i in range(40)]), places(min_gap_m=5))
    assert classes(groups) == {(*range(10 * k, 10 * k + 10), *range(40 + 10 * k, 50 + 10 * k)) for k in range(4)}


def test_a_closure_of_an_unknown_row_is_refused() -> None:
    with pytest.raises(InputError, match="rows 3 to 80 of a table of 80"):
        joined_groups(laps(2), np.array([(80, 3)]), places())


# Colouring


def test_no_conflict_shares_a_group_and_the_same_input_gives_the_same_groups() -> None:
    rng = np.random.default_rng(0)
    conflicts = rng.integers(0, 300, (1500, 2))
    claims = RegionClaims(np.arange(200), np.arange(200) // 50, np.arange(200) // 10)
    group = colour_classes(300, conflicts, claims, 40)
    different = conflicts[conflicts[:, 0] != conflicts[:, 1]]
    assert group.min() >= 0
    assert (group[different[:, 0]] != group[different[:, 1]]).all()
    for region in range(4):
        homes_of_group: dict[int, set[int]] = {}
        for number in range(50 * region, 50 * region + 50):
            homes_of_group.setdefault(int(group[number]), set()).add(number // 10)
        assert all(len(homes) == 1 for homes in homes_of_group.values())
    assert np.array_equal(group, colour_classes(300, conflicts[::-1, ::-1], claims, 40))


def test_a_complete_graph_needs_a_group_for_each_class() -> None:
    everyone = np.array(list(combinations(range(6), 2)))
    assert sorted(colour_classes(6, everyone, NO_CLAIMS, 8)) == list(range(6))
    assert sorted(colour_classes(6, everyone, NO_CLAIMS, 4)) == [-1, -1, 0, 1, 2, 3]


def test_a_long_recording_is_sorted_in_seconds() -> None:
    """20 000 windows of laps that are all closed, and 20 000 cells of a path."""
    count = 200_000
    along_m = np.arange(count) * 1.0
    images = table(count, time_s=np.arange(count) * 0.5)
    closures = np.stack([np.arange(count // 2, count), np.arange(count // 2)], axis=1)[::3]
    start = time.perf_counter()
    joined = joined_groups(images, closures, places())
    path = table(count, east_m=along_m, north_m=np.sin(along_m / 50) * 40, heading_deg=along_m % 360)
    cells = joined_groups(path, NO_CLOSURES, places())
    assert time.perf_counter() - start < 20
    assert len(joined.class_names) == 10_000
    assert len(cells.class_names) > 20_000
