"""Where in a known map did the robot wake up?"""

from progeo_edge.relocalisation.relocaliser import Relocaliser

__all__ = ["Relocaliser"]
