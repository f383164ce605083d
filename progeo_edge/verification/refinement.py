"""Levenberg-Marquardt on small manifolds: the last step of every pose, and the source of its covariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from progeo_edge.geometry import FloatArray

_CONVERGED = 1e-5
_CAUCHY = 3.0
"""Residuals are whitened to a standard deviation of about one. The loss must forget gross errors: one stereo mismatch
40 cm before the camera turned a street's pose by a degree under Huber's, which grows on with the error."""

State = TypeVar("State")


@dataclass(frozen=True, eq=False)
class Refined(Generic[State]):
    """The optimum.

    Attributes:
        state: The refined state.
        residuals: (N, M) whitened residuals there.
        hessian: (D, D) J^T W J with the robust weights W.
    """

    state: State
    residuals: FloatArray
    hessian: FloatArray


def refine(
    linearise: Callable[[State], tuple[FloatArray, FloatArray]],
    plus: Callable[[State, FloatArray], State],
    state: State,
    iterations: int = 10,
) -> Refined[State]:
    """Minimise the Cauchy loss of whitened residuals (Nocedal and Wright, Numerical Optimization, ch. 10).

    Args:
        linearise: State to (N, M) residuals, one row per observation, and (N, M, D) their derivatives by a step.
        plus: Applies a (D,) step to a state.
        state: Start, near the optimum.
        iterations: Most steps tried.
    """
    damping = 1e-4
    current, jacobian = linearise(state)
    cost = _cost(current)
    hessian, gradient = _normal_equations(current, jacobian)
    for _ in range(iterations):
        damped = hessian + damping * np.diag(np.diag(hessian) + 1e-12)
        candidate = plus(state, np.asarray(-np.linalg.solve(damped, gradient), dtype=np.float64))
        tried, jacobian = linearise(candidate)
        tried_cost = _cost(tried)
        if not tried_cost < cost:
            damping *= 10.0
            continue
        converged = cost - tried_cost < _CONVERGED * cost
        state, current, cost, damping = candidate, tried, tried_cost, damping * 0.1
        hessian, gradient = _normal_equations(current, jacobian)
        if converged:
            break
    return Refined(state, current, hessian)


def _normal_equations(residuals: FloatArray, jacobian: FloatArray) -> tuple[FloatArray, FloatArray]:
    """J^T W J and J^T W r, every observation under its own weight."""
    weights = np.repeat(_weights(residuals), residuals.shape[1])
    flat = jacobian.reshape(len(weights), -1)
    weighted = (flat * weights[:, None]).T
    return weighted @ flat, weighted @ residuals.ravel()


def _weights(residuals: FloatArray) -> FloatArray:
    squared = (residuals**2).sum(axis=1)
    return np.asarray(1.0 / (1.0 + squared / _CAUCHY**2))


def _cost(residuals: FloatArray) -> float:
    squared = (residuals**2).sum(axis=1)
    return float(0.5 * _CAUCHY**2 * np.log1p(squared / _CAUCHY**2).sum())
