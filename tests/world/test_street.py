"""Worlds of one seed are equal, of two seeds differ; look-alike fronts and the corridor really look alike."""

import cv2
import numpy as np
import pytest

from progeo_edge.geometry import make_transform, rotation_exp
from progeo_edge.world import OVERCAST, StreetWorld, forward_camera, repetitive_corridor
from progeo_edge.world.corridor import PERIOD_M
from progeo_edge.world.scene import Quad


def looking(x_m, y_m, yaw_deg):
    return make_transform(rotation_exp([0, 0, np.deg2rad(yaw_deg)]), [x_m, y_m, 0.0])


def size_of(world):
    """Distance between the north-south streets, and between the east-west ones."""
    (w, _), (_, h) = (world.scene.route[i].to_xy for i in (0, 1))
    return w, h


def correlation(a, b):
    a, b = a.astype(float).ravel(), b.astype(float).ravel()
    return float(np.corrcoef(a, b)[0, 1])


def test_one_seed_makes_one_world(street, camera):
    pose = looking(12, -1, 0) @ camera.T_base_camera
    assert np.array_equal(street.render(camera, pose)[0], StreetWorld(0).render(camera, pose)[0])


def test_another_seed_makes_another_world(street, camera):
    other = StreetWorld(1)
    assert size_of(other) != size_of(street)
    pose = looking(12, -1, 0) @ camera.T_base_camera
    assert correlation(street.render(camera, pose)[0][:100], other.render(camera, pose)[0][:100]) < 0.8


def test_look_alike_fronts_are_the_same_at_two_places_far_apart(street):
    w, h = size_of(street)
    by_texture: dict[int, list[Quad]] = {}
    for quad in street.scene.quads:
        if abs(quad.normal[2]) < 0.1 and np.linalg.norm(quad.edge_v_m) > 6:
            by_texture.setdefault(id(quad.texture), []).append(quad)
    twins = [quads for quads in by_texture.values() if len(quads) == 2 and abs(quads[0].normal[0]) > 0.9]
    fronts = [(a, b) for a, b in twins if abs(a.origin_m[0] - b.origin_m[0]) == pytest.approx(2 * w)]
    assert len(fronts) >= 2
    for a, b in fronts:
        np.testing.assert_allclose(a.origin_m[1:], b.origin_m[1:], atol=1e-9)
        np.testing.assert_allclose(a.normal, b.normal, atol=1e-9)
    assert sum(np.linalg.norm(a.edge_u_m) for a, _ in fronts) == pytest.approx(h - 12)


def test_look_alike_fronts_look_alike_from_the_road(street, camera):
    w, h = size_of(street)
    above_cars = make_transform(np.eye(3), [0, 0, 2.3])
    (west, west_m), (east, east_m), (elsewhere, _) = (
        street.render(camera, above_cars @ looking(x, h - 9, -60) @ camera.T_base_camera, OVERCAST)
        for x in (1.8, 2 * w + 1.8, w + 1.8)
    )
    fronts = (np.abs(west_m - east_m) < 0.02) & (west_m > 0)
    fronts[60:] = False
    assert fronts.mean() > 0.15
    assert correlation(west[fronts], east[fronts]) > 0.95
    assert correlation(west[fronts], elsewhere[fronts]) < 0.6


def test_a_drive_sees_hundreds_of_keypoints(street, drive):
    camera = forward_camera()
    for index in (15, 150, 300, 450, 600):
        step = drive[index]
        image, _ = street.render(camera, step.T_world_base @ camera.T_base_camera, step.lighting)
        assert len(cv2.ORB.create(1500).detect(image, None)) > 500


def test_the_corridor_repeats_itself(camera):
    corridor = repetitive_corridor(0)
    here, period_later, half_a_period_later = (
        corridor.render(camera, looking(x, 0, 0) @ camera.T_base_camera)[0] for x in (8, 8 + PERIOD_M, 8 + PERIOD_M / 2)
    )
    assert correlation(here, period_later) > 0.97
    assert correlation(here, half_a_period_later) < 0.95
    assert 60 < here.mean() < 200


def test_corridors_differ_by_seed(camera):
    pose = looking(8, 0, 0) @ camera.T_base_camera
    a, b = (repetitive_corridor(seed, 24.0).render(camera, pose)[0] for seed in (0, 1))
    assert not np.array_equal(a, b)
