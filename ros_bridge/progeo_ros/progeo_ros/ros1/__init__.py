"""The node for ROS 1 (rospy); the only part that imports it."""
