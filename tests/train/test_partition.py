import logging
import math
import time
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progeo_edge.errors import InputError, SourceError
from progeo_train.config import PlacesConfig
from progeo_train.data.partition import find_cells, partition, wrap_heading_deg

SMALL = PlacesConfig(min_images_per_class=1, groups=10_000)


def groups_by_definition(east, north, heading, places):
    """The definition of the paper, one image at a time, in exact arithmetic."""
    step_m, step_deg = Fraction(places.cell_m), Fraction(places.heading_deg)
    members = defaultdict(list)
    for row, (e, n, h) in enumerate(zip(east, north, heading, strict=True)):
        if math.isnan(e) or math.isnan(n) or math.isnan(h):
            continue
        cell = (math.floor(Fraction(e) / step_m), math.floor(Fraction(n) / step_m), math.floor(Fraction(h) / step_deg))
        members[cell].append(row)
    groups = defaultdict(list)
    for cell in sorted(members):
        if len(members[cell]) >= places.min_images_per_class:
            key = (cell[0] % places.cell_stride, cell[1] % places.cell_stride, cell[2] % places.heading_stride)
            groups[key].append(members[cell])
    return [groups[key] for key in sorted(groups)][: places.groups]


def as_lists(groups):
    return [[groups.members(g, k).tolist() for k in range(groups.num_classes(g))] for g in range(groups.num_groups)]


coordinates = st.one_of(
    st.integers(-60, 60).map(lambda tenths: tenths * 2.5), st.floats(-200, 200), st.sampled_from([float("nan"), 1e7])
)
headings = st.one_of(
    st.integers(0, 23).map(lambda i: i * 15.0), st.floats(0, 360, exclude_max=True), st.just(float("nan"))
)
images = st.lists(st.tuples(coordinates, coordinates, headings), min_size=1, max_size=60)
layouts = st.builds(
    PlacesConfig,
    cell_m=st.sampled_from([10.0, 2.5, 0.1, 37.3]),
    heading_deg=st.sampled_from([30.0, 45.0, 70.0, 100.0]),
    cell_stride=st.integers(1, 5),
    heading_stride=st.integers(1, 4),
    groups=st.integers(1, 20),
    min_images_per_class=st.integers(1, 3),
)


@settings(max_examples=200, deadline=None)
@given(images, layouts)
def test_equals_the_definition(rows, places):
    east, north, heading = (np.array(column) for column in zip(*rows, strict=True))
    expected = groups_by_definition(east, north, heading, places)
    if not expected:
        with pytest.raises(SourceError):
            partition(east, north, heading, places)
        return
    assert as_lists(partition(east, north, heading, places)) == expected


def least_wrapped_gap_deg(places):
    """Least angle between two heading classes of one group, around the circle, from the definition of the cells."""
    alpha = places.heading_deg
    cells = [(k, k * alpha, min((k + 1) * alpha, 360.0)) for k in range(math.ceil(360 / alpha))]
    gaps = [360.0]
    for k, start, end in cells:
        for other, other_start, other_end in cells:
            if k < other and (other - k) % places.heading_stride == 0:
                gaps.append(min(other_start - end, start + 360.0 - other_end))
    return min(gaps)


@settings(max_examples=200, deadline=None)
@given(images, layouts)
def test_classes_of_a_group_lie_apart(rows, places):
    east, north, heading = (np.array(column) for column in zip(*rows, strict=True))
    try:
        groups = partition(east, north, heading, places)
    except SourceError:
        return
    slack = 1e-6
    apart_m = (places.cell_stride - 1) * places.cell_m - slack
    apart_deg = (places.heading_stride - 1) * places.heading_deg - slack
    apart_around_deg = least_wrapped_gap_deg(places) - slack
    for g in range(groups.num_groups):
        label = np.concatenate([np.full(len(groups.members(g, k)), k) for k in range(groups.num_classes(g))])
        row = np.concatenate([groups.members(g, k) for k in range(groups.num_classes(g))])
        differ = label[:, None] != label[None, :]
        along = [np.abs(values[row][:, None] - values[row][None, :]) for values in (east, north, heading)]
        around = np.minimum(along[2], 360 - along[2])
        far = (along[0] > apart_m) | (along[1] > apart_m)
        assert np.all((far | (along[2] > apart_deg))[differ])
        assert np.all((far | (around >= apart_around_deg))[differ])


def test_published_defaults_keep_their_distance_around_the_circle():
    assert least_wrapped_gap_deg(PlacesConfig()) == 30.0  # (L - 1) alpha
    assert least_wrapped_gap_deg(PlacesConfig(heading_deg=30, heading_stride=5)) == 30.0  # not 4 * 30: cells 10 and 0


def test_headings_that_do_not_divide_the_circle_are_announced(caplog):
    with caplog.at_level(logging.WARNING):
        partition([0.0], [0.0], [0.0], PlacesConfig(min_images_per_class=1))
        assert not caplog.records
        partition([0.0], [0.0], [0.0], PlacesConfig(min_images_per_class=1, heading_deg=70))
    assert "does not divide 360" in caplog.text


def test_unknown_position_or_heading_leaves_an_image_out():
    nan = np.nan
    groups = partition([1, nan, 1, 1, 1], [1, 1, nan, 1, 1], [1, 1, 1, nan, np.inf], SMALL)
    assert as_lists(groups) == [[[0]]]


def test_one_class_for_all_headings_needs_no_heading():
    places = PlacesConfig(min_images_per_class=1, heading_deg=360, heading_stride=2)
    assert as_lists(partition([1, 2, 55], [1, 2, 1], [np.nan, 200, 300], places)) == [[[0, 1], [2]]]


def test_regions_never_share_a_class():
    assert as_lists(partition([1, 1, 1], [1, 1, 1], [0, 0, 0], SMALL, region=[2, -1, 2])) == [[[1], [0, 2]]]


@pytest.mark.parametrize(("given_deg", "expected_deg"), [(360.0, 0.0), (-30.0, 330.0), (725.0, 5.0), (-1e-20, 0.0)])
def test_headings_wrap(given_deg, expected_deg):
    assert wrap_heading_deg(np.array([given_deg]))[0] == expected_deg


def test_no_class_is_large_enough():
    pattern = r"places.min_images_per_class = 10 images: the largest of 2 cells .* has 2.*lower places.min"
    with pytest.raises(SourceError, match=pattern):
        partition([1, 2, 500], [1, 2, 500], [0, 0, 0], PlacesConfig())


def test_no_image_has_a_position():
    with pytest.raises(SourceError, match="no image has both a position and a heading"):
        partition([np.nan], [1], [1], SMALL)


def test_fewer_groups_than_asked_is_said(caplog):
    with caplog.at_level(logging.INFO):
        assert partition([0, 10], [0, 0], [0, 0], PlacesConfig(min_images_per_class=1)).num_groups == 2
    assert "fill 2 groups of places; places.groups asks for 8" in caplog.text


def test_a_group_whose_classes_are_all_too_small_does_not_exist():
    groups = partition([0, 10, 10, 20], [0, 0, 0, 0], [0, 0, 0, 0], PlacesConfig(min_images_per_class=2))
    assert as_lists(groups) == [[[1, 2]]]


def test_names_tell_the_cell():
    assert partition([549_876.0], [4_178_123.0], [95.0], SMALL).class_name(0, 0) == "549870 m E, 4178120 m N, 90 deg"


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="one length"):
        partition([1.0, 2.0], [1.0], [1.0], SMALL)


def test_counts_of_cells():
    cells = find_cells([5, 6, -5], [5, 5, 5], [10, 20, 10], SMALL)
    assert cells.class_of_row.tolist() == [1, 1, 0]
    assert cells.sizes.tolist() == [1, 2]
    assert cells.east.tolist() == [-1, 0]


def test_three_hundred_thousand_images_take_moments():
    rng = np.random.default_rng(0)
    east, north, heading = rng.uniform(0, 2000, 300_000), rng.uniform(0, 2000, 300_000), rng.uniform(0, 360, 300_000)
    start = time.perf_counter()
    partition(east, north, heading, PlacesConfig(min_images_per_class=1))
    assert time.perf_counter() - start < 10
