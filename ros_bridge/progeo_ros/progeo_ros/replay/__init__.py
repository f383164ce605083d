"""Replays a bag through the conversions and the detector of the node, without ROS, and writes what the node says."""
