"""progeo-edge in ROS: conversions, adapters to SLAM systems, a replay of bags, and nodes for ROS 2 and ROS 1.

Only `progeo_ros.ros2` imports rclpy, and only `progeo_ros.ros1` imports rospy: everything else runs without ROS.
"""
