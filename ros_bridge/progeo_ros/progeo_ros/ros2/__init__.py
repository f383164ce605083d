"""The lifecycle node for ROS 2 (rclpy); the only part that imports it."""
