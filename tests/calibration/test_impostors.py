"""Who cannot be the same place."""

from __future__ import annotations

import numpy as np

from progeo_edge.calibration.impostors import OdometryRule, best_elsewhere
from progeo_edge.geometry import make_transform

RANKED = [(3, 0.9), (7, 0.8), (9, 0.7)]
POSITIONS = {3: np.array([1.0, 0, 0]), 7: np.array([30.0, 0, 0]), 9: np.array([60.0, 0, 0])}
QUERY = make_transform(np.eye(3), [0.0, 0.0, 0.0])


def rule(sigma_m=0.1, distance_m=20.0):
    return OdometryRule(distance_m, lambda *_: np.diag([sigma_m**2] * 3 + [1e-4] * 3))


def test_odometry_names_the_best_that_is_far_away():
    assert rule().best(RANKED, QUERY, POSITIONS) == (7, 0.8)


def test_what_drift_may_have_moved_is_no_impostor():
    assert rule(sigma_m=11.0).best(RANKED, QUERY, POSITIONS) == (9, 0.7)
    assert rule(sigma_m=25.0).best(RANKED, QUERY, POSITIONS) is None


def test_drift_counts_in_its_worst_direction():
    slanted = OdometryRule(20.0, lambda *_: np.diag([0.01, 121.0, 0.01, 0, 0, 0]))
    assert slanted.best(RANKED, QUERY, POSITIONS) == (9, 0.7)


def test_references_of_other_sessions_or_unknown_drift_teach_nothing():
    assert rule().best(RANKED, QUERY, {}) is None
    assert OdometryRule(20.0, lambda *_: None).best(RANKED, QUERY, POSITIONS) is None


def test_the_robot_cannot_be_in_two_places():
    assert best_elsewhere(RANKED, {3, 7}) == (9, 0.7)
    assert best_elsewhere(RANKED, {3, 7, 9}) is None
