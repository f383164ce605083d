"""The geometric test of a candidate: local features, static pixels, matching, relative pose, scale, covariance."""

from progeo_edge.verification.features import FeatureExtractor
from progeo_edge.verification.static_mask import StaticPixelMask
from progeo_edge.verification.verifier import Verifier

__all__ = ["FeatureExtractor", "StaticPixelMask", "Verifier"]
