"""The drive as a source of frames, with the contract of all sources."""

import numpy as np
import pytest

from progeo_edge.errors import InputError
from progeo_edge.sources import Source
from progeo_edge.world import WorldSource, camera_towards, forward_camera


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


# -- rigs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("heading_deg", "looks"), [(0, [1, 0, 0]), (90, [0, 1, 0]), (180, [-1, 0, 0])])
def test_a_camera_looks_where_it_is_turned_from_that_side_of_the_robot(heading_deg, looks):
    mounting = camera_towards(heading_deg, 200, 150).T_base_camera
    axis = mounting[:3, :3] @ [0, np.sin(np.deg2rad(4)), np.cos(np.deg2rad(4))]  # 4 degrees below where it points
    assert np.allclose(axis, looks, atol=1e-12)
    assert np.allclose(mounting[:3, 3], [0.3 * looks[0], 0.3 * looks[1], 1.2])


def test_every_step_gives_a_frame_of_each_camera(street, drive, camera):
    rig = {"front": camera, "rear": camera_towards(180, 100, 75)}
    source: Source = WorldSource(street, drive[40:42], rig, depth=True)
    frames = list(source)
    assert source.num_frames == 4
    assert source.camera is rig
    assert [frame.camera for frame in frames] == ["front", "rear"] * 2
    assert [frame.name for frame in frames[:2]] == ["front/000000", "rear/000000"]
    assert [frame.stamp_ns for frame in frames] == [step.stamp_ns for step in drive[40:42] for _ in range(2)]
    assert frames[1].image.shape == (75, 100, 3)
    (alone, _) = WorldSource(street, drive[40:42], camera)
    assert np.array_equal(frames[0].image, alone.image)


def test_cameras_do_not_share_their_noise(street, drive, camera):
    twins = {"one": camera, "other": camera}
    one, other = WorldSource(street, drive[40:41], twins)
    assert not np.array_equal(one.image, other.image)
    assert np.abs(one.image.astype(int) - other.image).mean() < 10
