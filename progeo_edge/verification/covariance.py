"""Information of the refinement -> covariance of the pose between the bases: inflated, floored, never singular."""

from __future__ import annotations

import numpy as np

from progeo_edge.config import VerificationConfig
from progeo_edge.geometry import FloatArray, adjoint
from progeo_edge.types import Transform


def metric_covariance(
    hessian: FloatArray, rmse: float, T_base_camera_query: Transform, config: VerificationConfig
) -> FloatArray:
    """(6, 6) covariance of T_reference_query between bases, right perturbation, x y z rx ry rz, metres and radians.

    Sigma = s^2 (J^T W J)^-1 with s at least one (the noise model is never beaten), moved into the base frame by the
    adjoint, times the inflation, plus the floors in quadrature.

    Args:
        hessian: (6, 6) J^T W J of the camera pose in units of the noise model.
        rmse: Of the whitened residuals.
        T_base_camera_query: Mounting of the query's camera.
        config: Inflation and floors.
    """
    scaled = max(rmse, 1.0) ** 2 * _inverse(hessian)
    A = adjoint(T_base_camera_query)
    return _floored(config.covariance_inflation * A @ scaled @ A.T, config)


def scaleless_covariance(
    rotation_hessian: FloatArray, rmse_px: float, T_base_camera_query: Transform, config: VerificationConfig
) -> FloatArray:
    """(6, 6) covariance of a pose without metres: the translation part states the prior revisit radius.

    Args:
        rotation_hessian: (3, 3) information of the camera's rotation, unit pixel noise.
        rmse_px: Of the inliers, in working pixels.
        T_base_camera_query: Mounting of the query's camera.
        config: Inflation, floors and prior radius.
    """
    R = T_base_camera_query[:3, :3]
    rotation = max(rmse_px, 1.0) ** 2 * R @ _inverse(rotation_hessian) @ R.T
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = config.prior_radius_m**2 * np.eye(3)
    covariance[3:, 3:] = config.covariance_inflation * rotation
    return _floored(covariance, config)


def _inverse(hessian: FloatArray) -> FloatArray:
    """Inverse of a positive semi-definite matrix; directions without information get a very large variance."""
    values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
    values = np.maximum(values, 1e-4)
    return np.asarray((vectors / values) @ vectors.T)


def _floored(covariance: FloatArray, config: VerificationConfig) -> FloatArray:
    floor = np.repeat([config.covariance_floor_m, np.radians(config.covariance_floor_deg)], 3)
    floored = covariance + np.diag(floor**2)
    return np.asarray(0.5 * (floored + floored.T))
