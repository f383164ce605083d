from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from progeo_edge.constraints import Constraint
from progeo_edge.geometry import make_transform
from progeo_edge.truncated_problem import INLIER_CHI2, TruncatedProblem

gtsam = pytest.importorskip("gtsam", reason="GTSAM, of the extra 'graph', is not installed")

RIGHT = Constraint(0, 1, make_transform(np.eye(3), [1.0, 0, 0]), 0.01 * np.eye(6))
WRONG = Constraint(0, 1, make_transform(np.eye(3), [3.0, 0, 0]), 0.01 * np.eye(6))


def problem(*measured: Constraint) -> tuple[TruncatedProblem, Any]:
    """Pose 0 held, pose 1 held loosely where it is, one metre ahead."""
    trusted, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
    for i, sigma in ((0, 1e-3), (1, 0.5)):
        pose = gtsam.Pose3(make_transform(np.eye(3), [float(i), 0, 0]))
        trusted.add(gtsam.PriorFactorPose3(i, pose, gtsam.noiseModel.Isotropic.Sigma(6, sigma)))
        values.insert(i, pose)
    return TruncatedProblem(gtsam, trusted, measured), values


def test_a_closure_costs_its_chi_square_or_the_threshold():
    both, values = problem(RIGHT, WRONG)
    assert both.cost(values, np.array([True, True])) == pytest.approx(2.0**2 / 0.01)
    assert both.cost(values, np.array([True, False])) == pytest.approx(INLIER_CHI2)
    assert both.cost(values, np.array([False, False])) == pytest.approx(2 * INLIER_CHI2)


@pytest.mark.parametrize("solver", ["by_gnc", "by_soft_kernel"])
def test_both_solvers_keep_the_right_one(solver):
    both, values = problem(WRONG, RIGHT)
    result, kept = getattr(both, solver)(values)
    assert kept.tolist() == [False, True]
    np.testing.assert_allclose(result.atPose3(1).translation(), [1, 0, 0], atol=1e-3)


def test_what_was_left_out_too_early_is_taken_back():
    """From a start that is far off nothing fits; the soft kernel finds the way and both right ones are kept."""
    far, values = problem(RIGHT, RIGHT)
    values.update(1, gtsam.Pose3(make_transform(np.eye(3), [8.0, 1, 0])))
    result, kept = far.by_soft_kernel(values)
    assert kept.tolist() == [True, True]
    np.testing.assert_allclose(result.atPose3(1).translation(), [1, 0, 0], atol=1e-3)
