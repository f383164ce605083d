"""Pure functions between ROS messages and the types of progeo_edge; no ROS is imported here."""
