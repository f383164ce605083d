"""Drives: smooth truth, bounded drift, revisits that are revisits and reverse passes that are not."""

from itertools import pairwise

import numpy as np
import pytest

from progeo_edge.geometry import check_transform, invert, make_transform, rotation_angle, rotation_exp
from progeo_edge.world import EVENING, DriftModel, is_same_place, repetitive_corridor, simulate_drive

NO_DRIFT = DriftModel(0.0, 0.0, 0.0, 0.0, 0.0)


def positions(drive):
    return np.array([step.T_world_base[:3, 3] for step in drive])


def indices(drive, label):
    return [i for i, step in enumerate(drive) if step.label == label]


def test_the_demo_has_500_to_700_frames_at_a_steady_rate(drive):
    assert 500 <= len(drive) <= 700
    assert set(np.diff([step.stamp_ns for step in drive])) == {250_000_000}


def test_the_true_path_is_continuous_and_rigid(drive):
    steps = np.linalg.norm(np.diff(positions(drive), axis=0), axis=1)
    assert steps.min() > 0.3
    assert steps.max() < 0.8
    turns = [
        np.rad2deg(rotation_angle(invert(a.T_world_base)[:3, :3] @ b.T_world_base[:3, :3])) for a, b in pairwise(drive)
    ]
    assert max(turns) < 15
    for step in drive:
        check_transform(step.T_world_base, "truth")
        check_transform(step.T_odom_base, "odometry")


def test_the_robot_looks_where_it_drives(drive):
    motion = np.diff(positions(drive), axis=0)
    forward = np.array([step.T_world_base[:3, 0] for step in drive])[:-1]
    cosine = np.sum(motion * forward, axis=1) / np.linalg.norm(motion, axis=1)
    assert cosine.min() > np.cos(np.deg2rad(12))


def test_the_same_seed_drives_the_same_and_another_does_not(street, drive):
    again, other = simulate_drive(street, 0, max_frames=50), simulate_drive(street, 1, max_frames=50)
    assert len(again) == 50
    assert all(np.array_equal(a.T_odom_base, b.T_odom_base) for a, b in zip(drive, again, strict=False))
    assert again[7].lighting == drive[7].lighting
    assert not np.allclose(again[-1].T_odom_base, other[-1].T_odom_base)


def test_odometry_without_drift_is_the_truth(street):
    drive = simulate_drive(street, 0, drift=NO_DRIFT, max_frames=200)
    T_world_odom = drive[0].T_world_base @ invert(drive[0].T_odom_base)
    error = [np.linalg.norm((T_world_odom @ s.T_odom_base)[:2, 3] - s.T_world_base[:2, 3]) for s in drive]
    assert max(error) < 0.15
    assert np.abs(drive[0].T_odom_base[:3, 3]).max() == 0


@pytest.mark.parametrize("seed", range(6))
def test_drift_is_noticeable_but_bounded(street, seed):
    drive = simulate_drive(street, seed)
    T_world_odom = drive[0].T_world_base @ invert(drive[0].T_odom_base)
    error = [np.linalg.norm((T_world_odom @ s.T_odom_base)[:2, 3] - s.T_world_base[:2, 3]) for s in drive]
    travelled = np.linalg.norm(np.diff(positions(drive), axis=0), axis=1).sum()
    assert 1.0 < max(error) < 0.06 * travelled
    assert error[1] < 0.1


def test_revisits_come_back_to_places_seen_before(street, drive):
    corners = np.array([leg.to_xy for leg in street.scene.route[:-1]])
    for label in ("revisit by day", "revisit in the evening"):
        clear = np.linalg.norm(corners - positions(drive)[:, None, :2], axis=2).min(axis=1) > 6
        straight = [i for i in indices(drive, label) if clear[i]]
        assert len(straight) > 12
        for i in straight[::3]:
            before = [drive[j].T_world_base for j in range(i - 100) if drive[j].label == "first pass"]
            assert any(
                is_same_place(drive[i].T_world_base, pose, max_distance_m=2, max_angle_deg=15) for pose in before
            )


def test_evening_revisits_run_half_a_metre_beside_the_first_pass(drive):
    first = positions([drive[i] for i in indices(drive, "first pass")])
    shifted = positions([drive[i] for i in indices(drive, "revisit in the evening")])
    distance = np.linalg.norm(shifted[:, None, :] - first[None], axis=2).min(axis=1)
    assert 0.3 < np.median(distance) < 0.8
    assert {drive[i].lighting.baked_key() for i in indices(drive, "revisit in the evening")} == {EVENING.baked_key()}


def test_the_reverse_pass_is_near_but_looks_the_other_way(drive):
    first = [drive[j].T_world_base for j in indices(drive, "first pass")]
    reverse = indices(drive, "reverse pass")
    assert len(reverse) > 80
    inner = reverse[20:-20]
    straight = [i for i in inner if np.abs(drive[i].T_world_base[:2, 0]).max() > 0.99]
    for i in straight[::5]:
        nearest = min(first, key=lambda pose: np.linalg.norm(pose[:3, 3] - drive[i].T_world_base[:3, 3]))
        assert np.linalg.norm(nearest[:3, 3] - drive[i].T_world_base[:3, 3]) < 4
        assert nearest[:3, 0] @ drive[i].T_world_base[:3, 0] < -0.95
        assert not is_same_place(nearest, drive[i].T_world_base)


def pose_at(x_m, yaw_deg):
    return make_transform(rotation_exp([0, 0, np.deg2rad(yaw_deg)]), [x_m, 0, 0])


@pytest.mark.parametrize(
    ("x_m", "yaw_deg", "same"), [(0, 0, True), (7.9, 44, True), (8.1, 0, False), (0, 46, False), (1, 180, False)]
)
def test_same_place_means_near_and_the_same_way(x_m, yaw_deg, same):
    assert is_same_place(pose_at(0, 0), pose_at(x_m, yaw_deg)) is same
    assert is_same_place(pose_at(x_m, yaw_deg), pose_at(0, 0)) is same


def test_a_straight_route_is_driven_to_its_end():
    drive = simulate_drive(repetitive_corridor(0, 24.0), 0, speed_m_per_s=1.5)
    x = positions(drive)[:, 0]
    assert x[0] == pytest.approx(2, abs=0.2)
    assert x[-1] == pytest.approx(19, abs=0.6)
    assert (np.diff(x) > 0).all()
