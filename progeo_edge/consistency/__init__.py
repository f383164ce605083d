"""What must agree before a closure is believed: odometry, the closures before it, and the camera with itself."""

from progeo_edge.consistency.agreement import Agreed, ClosureAgreement, closure_of
from progeo_edge.consistency.drift import DrivenPath, Drives, Prediction
from progeo_edge.consistency.frozen import FrozenCamera
from progeo_edge.consistency.lens import StuckToTheLens
from progeo_edge.consistency.odometry import OdometryCheck

__all__ = [
    "Agreed",
    "ClosureAgreement",
    "DrivenPath",
    "Drives",
    "FrozenCamera",
    "OdometryCheck",
    "Prediction",
    "StuckToTheLens",
    "closure_of",
]
