"""Thresholds and probabilities learned without labels: the user states false closures per hour, not a cosine."""

from progeo_edge.calibration.calibration import Calibration, Histogram, Separability
from progeo_edge.calibration.calibrator import Calibrator, Gate, MapSizes, document_key
from progeo_edge.calibration.tail import ImpostorTail, fit_tail

__all__ = [
    "Calibration",
    "Calibrator",
    "Gate",
    "Histogram",
    "ImpostorTail",
    "MapSizes",
    "Separability",
    "document_key",
    "fit_tail",
]
