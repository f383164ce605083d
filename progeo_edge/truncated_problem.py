"""A pose graph some of whose closures are wrong: truncated least squares, solved with GTSAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.back_ends import gtsam_factor
from progeo_edge.constraints import Constraint
from progeo_edge.geometry import FloatArray

INLIER_PROBABILITY = 0.999
"""A closure whose residual is beyond this quantile of its own covariance counts as wrong."""
INLIER_CHI2 = 22.46
"""The same as a chi-square with 6 degrees of freedom."""
_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class TruncatedProblem:
    """Truncated least squares: a closure costs its chi-square, or the threshold when it is left out.

    Attributes:
        gtsam: The module.
        trusted: Graph of what is never left out.
        measured: The closures.
    """

    gtsam: Any
    trusted: Any
    measured: Sequence[Constraint]

    def by_gnc(self, values: Any) -> tuple[Any, NDArray[np.bool_]]:  # noqa: ANN401
        """Solution by graduated non-convexity, and which closures it keeps."""
        graph = self._graph(np.ones(len(self.measured), bool))
        parameters = self.gtsam.GncLMParams()
        parameters.setLossType(self.gtsam.GncLossType.TLS)
        parameters.setKnownInliers(list(range(self.trusted.size())))
        optimizer = self.gtsam.GncLMOptimizer(graph, values, parameters)
        optimizer.setInlierCostThresholdsAtProbability(INLIER_PROBABILITY)
        result = optimizer.optimize()
        return result, np.asarray(optimizer.getWeights())[self.trusted.size() :] >= 0.5

    def by_soft_kernel(self, values: Any) -> tuple[Any, NDArray[np.bool_]]:  # noqa: ANN401
        """Solution from a start by the Cauchy kernel, leaving out and taking back until nothing changes."""
        robust = self.gtsam.noiseModel.mEstimator.Cauchy.Create(INLIER_CHI2**0.5)
        result = self._optimise(self._graph(np.ones(len(self.measured), bool), robust), values)
        kept = self._chi2(result) < INLIER_CHI2
        for _ in range(_ROUNDS):
            result = self._optimise(self._graph(kept), result)
            before, kept = kept, self._chi2(result) < INLIER_CHI2
            if np.array_equal(before, kept):
                break
        return result, kept

    def cost(self, values: Any, kept: NDArray[np.bool_]) -> float:  # noqa: ANN401
        """Of a solution: chi-squares of what is trusted and kept, and the threshold for each closure left out."""
        return 2.0 * float(self._graph(kept).error(values)) + INLIER_CHI2 * int((~kept).sum())

    def _chi2(self, values: Any) -> FloatArray:  # noqa: ANN401
        return np.array([2.0 * gtsam_factor(c).error(values) for c in self.measured])

    def _graph(self, kept: NDArray[np.bool_], robust: Any = None) -> Any:  # noqa: ANN401
        graph = self.gtsam.NonlinearFactorGraph(self.trusted)
        for constraint, good in zip(self.measured, kept, strict=True):
            if good:
                graph.add(gtsam_factor(constraint, robust))
        return graph

    def _optimise(self, graph: Any, values: Any) -> Any:  # noqa: ANN401
        return self.gtsam.LevenbergMarquardtOptimizer(graph, values).optimize()
