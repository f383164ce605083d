"""The drive as a source of frames, with the contract of all sources."""

import numpy as np
import pytest

from progeo_edge.errors import InputError
from progeo_edge.sources import Source
from progeo_edge.world import WorldSource, forward_camera


def test_frames_carry_stamps_poses_depth_and_truth(street, drive, camera):
    source: Source = WorldSource(street, drive[:4], camera, depth=True)
    frames = list(source)
    assert source.num_frames == len(frames) == 4
    assert source.camera is camera
    assert source.skipped == []
    assert [frame.stamp_ns for frame in frames] == [step.stamp_ns for step in drive[:4]]
    assert [frame.name for frame in frames] == ["000000", "000001", "000002", "000003"]
    for frame, step in zip(frames, drive, strict=False):
        assert frame.image.shape == (150, 200, 3)
        assert frame.depth_m is not None
        assert frame.depth_m.shape == (150, 200)
        assert frame.T_odom_base is step.T_odom_base
        assert frame.right is None


def test_truth_and_labels_are_found_by_stamp(street, drive, camera):
    source = WorldSource(street, drive, camera)
    assert len(source.truth) == len(drive)
    assert np.array_equal(source.truth[drive[9].stamp_ns], drive[9].T_world_base)
    assert source.labels[drive[-1].stamp_ns] == "revisit in the evening"


def test_the_frame_is_the_view_from_the_mounted_camera(street, drive, camera):
    (frame,) = WorldSource(street, drive[40:41], camera)
    expected, _ = street.render(camera, drive[40].T_world_base @ camera.T_base_camera, drive[40].lighting)
    assert np.array_equal(frame.image, expected)


def test_a_source_can_be_iterated_again(street, drive, camera):
    source = WorldSource(street, drive[:2], camera)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(source, source, strict=True))


def test_depth_and_odometry_can_be_left_out(street, drive, camera):
    (frame,) = WorldSource(street, drive[:1], camera, odometry=False)
    assert frame.depth_m is None
    assert frame.T_odom_base is None


def test_stereo_gives_a_right_image_that_differs(street, drive):
    camera = forward_camera(120, 90, baseline_m=0.4)
    (frame,) = WorldSource(street, drive[:1], camera, stereo=True)
    assert frame.right is not None
    assert frame.right.shape == frame.image.shape
    assert np.abs(frame.right.astype(int) - frame.image).mean() > 5


def test_stereo_without_a_baseline_is_refused(street, drive, camera):
    with pytest.raises(InputError, match="baseline_m"):
        next(iter(WorldSource(street, drive[:1], camera, stereo=True)))
