"""progeo-edge: visual place recognition and loop closure on the robot's own computer, without torch."""

__version__ = "0.1.0"
