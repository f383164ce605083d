"""The exact derivatives of the refinements against finite differences, and what they are for."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from progeo_edge.config import VerificationConfig
from progeo_edge.geometry import Camera
from progeo_edge.verification import pnp, refinement, two_view
from progeo_edge.verification.correspondences import Correspondences, make_view
from tests.verification.scenes import fisheye, move, pinhole, scattered_points, seen

T_REFERENCE_QUERY = move(0.6, -0.1, 0.4, 2.0, 5.0, -1.0)


def matches(camera: Camera) -> Correspondences:
    rng = np.random.default_rng(0)
    pair = seen(rng, scattered_points(rng, 80), T_REFERENCE_QUERY, camera, camera, points="qr")
    views = []
    for features in pair:
        order = np.argsort(features.descriptors.astype(np.uint64)[:, :4] @ (256 ** np.arange(4, dtype=np.uint64)))
        views.append(make_view(features, order, camera, 640))
    return Correspondences(*views)


def slopes(residuals, plus, state, dof):
    step = 1e-6
    columns = [residuals(plus(state, step * axis)) - residuals(plus(state, -step * axis)) for axis in np.eye(dof)]
    return np.stack(columns, axis=-1) / (2 * step)


@pytest.mark.parametrize("camera", [pinhole(), pinhole((-0.2, 0.05, 0.001, 0.0)), fisheye()])
@pytest.mark.parametrize("into_query", [True, False])
def test_derivatives_of_projections(camera, into_query):
    projection = pnp._projection(matches(camera), into_query, T_REFERENCE_QUERY)
    found = projection.linearise(T_REFERENCE_QUERY)[1]
    expected = slopes(lambda T: projection.linearise(T)[0], pnp._plus, T_REFERENCE_QUERY, 6)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_point_behind_the_observer_pulls_nothing_along_the_axis():
    projection = pnp._projection(matches(pinhole()), False, T_REFERENCE_QUERY)
    points_m = projection.points_m.copy()
    points_m[0, 2] = -5.0
    residuals, jacobian = dataclasses.replace(projection, points_m=points_m).linearise(T_REFERENCE_QUERY)
    assert np.isfinite(residuals).all() and np.isfinite(jacobian).all()


def test_derivatives_of_the_sampson_distance(monkeypatch):
    linearised = []

    def watching(linearise, plus, state, iterations=10):
        linearised.append((linearise, plus, state))
        return refinement.refine(linearise, plus, state, iterations)

    monkeypatch.setattr(two_view, "refine", watching)
    start = T_REFERENCE_QUERY.copy()
    start[:3, 3] /= np.linalg.norm(start[:3, 3])
    refined = two_view._minimise_sampson(matches(pinhole()), start)
    linearise, plus, state = linearised[0]
    expected = slopes(lambda T: linearise(T)[0], plus, state, 5)
    np.testing.assert_allclose(linearise(state)[1], expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(refined.state[:3, 3] - start[:3, 3]).max() < 0.03


def test_refinement_finds_the_minimum():
    def linearise(state):
        return np.array([[state[0] - 3.0, 2.0 * (state[1] + 1.0)]]), np.array([[[1.0, 0.0], [0.0, 2.0]]])

    found = refinement.refine(linearise, lambda state, step: state + step, np.array([2.0, 0.0]))
    np.testing.assert_allclose(found.state, [3.0, -1.0], atol=1e-3)
    np.testing.assert_allclose(found.hessian, np.diag([1.0, 4.0]), atol=1e-2)


def test_few_matches_need_few_samples():
    config = VerificationConfig()
    few, many = (two_view.enough_samples(n, 30, 5, config) for n in (32, 300))
    assert few < 60 and many == config.max_iterations
    share = 30 / 32
    assert few >= math.log(1 - config.confidence) / math.log(1 - share**5)
    assert two_view.enough_samples(30, 30, 5, config) >= 1
