"""Levenberg-Marquardt on small manifolds: the last step of every pose, and the source of its covariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from progeo_edge.geometry import FloatArray

_STEP = 1e-6
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
    residuals: Callable[[State], FloatArray],
    plus: Callable[[State, FloatArray], State],
    state: State,
    dof: int,
    iterations: int = 10,
) -> Refined[State]:
    """Minimise the Cauchy loss of whitened residuals (Nocedal and Wright, Numerical Optimization, ch. 10).

    Args:
        residuals: State to (N, M): one row per observation.
        plus: Applies a (dof,) step to a state.
        state: Start, near the optimum.
        dof: Dimension of a step.
        iterations: Most steps tried.
    """
    damping = 1e-4
    current = residuals(state)
    cost = _cost(current)
    hessian, gradient = _normal_equations(residuals, plus, state, current, dof)
    for _ in range(iterations):
        damped = hessian + damping * np.diag(np.diag(hessian) + 1e-12)
        candidate = plus(state, np.asarray(-np.linalg.solve(damped, gradient), dtype=np.float64))
        tried = residuals(candidate)
        tried_cost = _cost(tried)
        if not tried_cost < cost:
            damping *= 10.0
            continue
        converged = cost - tried_cost < _CONVERGED * cost
        state, current, cost, damping = candidate, tried, tried_cost, damping * 0.1
        hessian, gradient = _normal_equations(residuals, plus, state, current, dof)
        if converged:
            break
    return Refined(state, current, hessian)


def _normal_equations(
    residuals: Callable[[State], FloatArray],
    plus: Callable[[State, FloatArray], State],
    state: State,
    current: FloatArray,
    dof: int,
) -> tuple[FloatArray, FloatArray]:
    columns = [(residuals(plus(state, _STEP * axis)) - current) / _STEP for axis in np.eye(dof)]
    jacobian = np.stack(columns, axis=-1)
    weighted = jacobian * _weights(current)[:, None, None]
    hessian = np.einsum("nmi,nmj->ij", weighted, jacobian)
    return hessian, np.einsum("nmi,nm->i", weighted, current)


def _weights(residuals: FloatArray) -> FloatArray:
    squared = (residuals**2).sum(axis=1)
    return np.asarray(1.0 / (1.0 + squared / _CAUCHY**2))


def _cost(residuals: FloatArray) -> float:
    squared = (residuals**2).sum(axis=1)
    return float(0.5 * _CAUCHY**2 * np.log1p(squared / _CAUCHY**2).sum())
