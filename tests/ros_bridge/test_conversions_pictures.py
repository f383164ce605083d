"""Pictures and markers of closures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from progeo_edge.types import PoseKind
from progeo_ros.conversions.pictures import (
    GAP_PX,
    INLIER_BGR,
    METRIC_RGBA,
    OTHER_RGBA,
    closure_line,
    loop_markers,
    match_picture,
)
from progeo_ros.events import Thumbnail
from tests.ros_bridge.messages import SECOND, TYPES, closure, turned, verification

DARK = np.full((60, 80, 3), 20, np.uint8)
QUERY_PX = np.array([[16, 48], [40, 30], [64, 54]], np.float32)
REFERENCE_PX = np.array([[20, 48], [44, 30], [70, 54]], np.float32)


def with_inliers(query_px=QUERY_PX, reference_px=REFERENCE_PX):
    checked = replace(verification(PoseKind.METRIC), query_px=query_px, reference_px=reference_px)
    return closure(2, checked)


@pytest.mark.parametrize("height_px", [32, 240, 481])
@pytest.mark.parametrize("grey", [False, True])
def test_the_picture_has_the_height_asked_for(height_px, grey):
    query = DARK[:, :, 0] if grey else DARK
    picture = match_picture(query, Thumbnail(DARK[:30, :40], (80, 60)), with_inliers(), height_px)
    assert picture.shape == (height_px, 2 * round(80 * height_px / 60) + GAP_PX, 3)
    assert picture.dtype == np.uint8


def green(picture):
    """Where lines are drawn."""
    return np.abs(picture.astype(int) - INLIER_BGR).max(axis=2) < 60


@pytest.mark.parametrize("original", [(80, 60), (160, 120)])
def test_inliers_are_joined_at_their_places(original):
    factor = original[0] / 80
    one = with_inliers(QUERY_PX[:1], REFERENCE_PX[:1] * factor)
    picture = match_picture(DARK, Thumbnail(DARK[::4, ::4], original), one, 240)
    rows, columns = np.nonzero(green(picture))
    assert abs(rows - 4 * 48).max() <= 2
    assert abs(columns.min() - 4 * 16) <= 4
    assert abs(columns.max() - (320 + GAP_PX + 4 * 20)) <= 4


def test_without_a_thumbnail_the_half_is_grey_and_nothing_is_joined():
    picture = match_picture(DARK, None, with_inliers(), 240)
    assert not green(picture).any()
    assert (picture[120:, 320 + GAP_PX :] == 90).all()


def test_the_numbers_are_written_above():
    plain = match_picture(DARK, Thumbnail(DARK, None), closure(2, None), 240)
    said = match_picture(DARK, Thumbnail(DARK, None), closure(2, verification(PoseKind.METRIC)), 240)
    assert (plain[40:] == said[40:]).all()
    assert (plain[:20] != said[:20]).any()
    assert (plain[:20] > 200).any()


def test_the_query_itself_is_not_painted():
    query = DARK.copy()
    match_picture(query, Thumbnail(query, None), with_inliers(), 60)
    np.testing.assert_array_equal(query, DARK)


def test_markers_are_lines_between_the_places():
    lines = [
        closure_line(closure(2, verification(PoseKind.METRIC)), turned(1.0), turned(2.0, 3.0)),
        closure_line(closure(0, verification(PoseKind.UP_TO_SCALE)), turned(4.0), turned(5.0)),
        closure_line(closure(0, None), turned(4.0), turned(5.0)),
    ]
    message = loop_markers(TYPES, [line for line in lines if line is not None], SECOND, "odom")
    (marker,) = message.markers
    assert (marker.header.frame_id, marker.type, marker.action) == ("odom", marker.LINE_LIST, marker.ADD)
    assert [(p.x, p.y) for p in marker.points] == [(1, 0), (2, 3), (4, 0), (5, 0), (4, 0), (5, 0)]
    assert [c.r for c in marker.colors] == [METRIC_RGBA[0]] * 2 + [OTHER_RGBA[0]] * 4
    assert marker.scale.x > 0 and marker.pose.orientation.w == 1.0
    assert TYPES.to_bytes(message)


def test_a_closure_without_odometry_has_no_line():
    assert closure_line(closure(2, None), None, turned()) is None
    assert closure_line(closure(2, None), turned(), None) is None
