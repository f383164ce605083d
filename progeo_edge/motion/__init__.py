"""Motion: what the last keyframes say about a candidate, along the graph of places."""

from progeo_edge.motion.motion import Motion
from progeo_edge.motion.place_graph import PlaceGraph

__all__ = ["Motion", "PlaceGraph"]
