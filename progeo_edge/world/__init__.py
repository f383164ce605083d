"""A rendered world with exact poses and depth: the demo's input and the tests' ground truth."""

from progeo_edge.world.lighting import DAY, EVENING, NIGHT, OVERCAST, Lighting
from progeo_edge.world.source import WorldSource, camera_towards, forward_camera
from progeo_edge.world.trajectory import DriftModel, DriveStep, is_same_place, simulate_drive
from progeo_edge.world.world import StreetWorld, World, repetitive_corridor

__all__ = [
    "DAY",
    "EVENING",
    "NIGHT",
    "OVERCAST",
    "DriftModel",
    "DriveStep",
    "Lighting",
    "StreetWorld",
    "World",
    "WorldSource",
    "camera_towards",
    "forward_camera",
    "is_same_place",
    "repetitive_corridor",
    "simulate_drive",
]
