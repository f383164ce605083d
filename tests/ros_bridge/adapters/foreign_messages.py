"""Messages of the SLAM systems that adapters talk to, by the fields of their public definitions, without ROS.

rtabmap_msgs: introlab/rtabmap_ros (branch ros2, 0.22.1). pose_graph_tools_msgs: MIT-SPARK/pose_graph_tools.
cslam_common_interfaces: lajoiepy/cslam_interfaces. voxgraph_msgs: ethz-asl/voxgraph (ROS 1).
"""

from __future__ import annotations

from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from progeo_ros.rosbags_types import RosbagsTypes

RTABMAP = {
    "rtabmap_msgs/msg/Link": "int32 from_id\nint32 to_id\nint32 type\ngeometry_msgs/Transform transform\n"
    "float64[36] information",
    "rtabmap_msgs/msg/MapGraph": "std_msgs/Header header\ngeometry_msgs/Transform map_to_odom\nint32[] poses_id\n"
    "geometry_msgs/Pose[] poses\nLink[] links",
    "rtabmap_msgs/msg/Info": "std_msgs/Header header\nint32 ref_id\nint32 loop_closure_id\n"
    "int32 proximity_detection_id\nint32 landmark_id\ngeometry_msgs/Transform loop_closure_transform\n"
    "int32[] wm_state\nint32[] posterior_keys\nfloat32[] posterior_values\nint32[] likelihood_keys\n"
    "float32[] likelihood_values\nint32[] raw_likelihood_keys\nfloat32[] raw_likelihood_values\n"
    "int32[] weights_keys\nint32[] weights_values\nint32[] labels_keys\nstring[] labels_values\n"
    "string[] stats_keys\nfloat32[] stats_values\nint32[] local_path\nint32 current_goal_id\nMapGraph odom_cache",
    "rtabmap_msgs/msg/GlobalDescriptor": "std_msgs/Header header\nint32 type\nuint8[] info\nuint8[] data",
    "rtabmap_msgs/msg/Point2f": "float32 x\nfloat32 y",
    "rtabmap_msgs/msg/Point3f": "float32 x\nfloat32 y\nfloat32 z",
    "rtabmap_msgs/msg/KeyPoint": "Point2f pt\nfloat32 size\nfloat32 angle\nfloat32 response\nint32 octave\n"
    "int32 class_id",
    "rtabmap_msgs/msg/RGBDImage": "std_msgs/Header header\nsensor_msgs/CameraInfo rgb_camera_info\n"
    "sensor_msgs/CameraInfo depth_camera_info\nsensor_msgs/Image rgb\nsensor_msgs/Image depth\n"
    "sensor_msgs/CompressedImage rgb_compressed\nsensor_msgs/CompressedImage depth_compressed\n"
    "KeyPoint[] key_points\nPoint3f[] points\nuint8[] descriptors\nGlobalDescriptor global_descriptor",
    "rtabmap_msgs/srv/AddLink_Request": "rtabmap_msgs/Link link",
}
POSE_GRAPH = {
    "pose_graph_tools_msgs/msg/PoseGraphNode": "std_msgs/Header header\nint32 robot_id\nuint64 key\n"
    "geometry_msgs/Pose pose",
    "pose_graph_tools_msgs/msg/PoseGraphEdge": "std_msgs/Header header\nuint64 key_from\nuint64 key_to\n"
    "int32 robot_from\nint32 robot_to\nint32 type\nint32 ODOM=0\nint32 LOOPCLOSE=1\ngeometry_msgs/Pose pose\n"
    "float64[36] covariance",
    "pose_graph_tools_msgs/msg/PoseGraph": "std_msgs/Header header\nPoseGraphNode[] nodes\nPoseGraphEdge[] edges",
}
SWARM_SLAM = {
    "cslam_common_interfaces/msg/IntraRobotLoopClosure": "uint32 keyframe0_id\nuint32 keyframe1_id\nbool success\n"
    "geometry_msgs/Transform transform",
    "cslam_common_interfaces/msg/GlobalDescriptor": "uint32 keyframe_id\nuint32 robot_id\nfloat64[] descriptor",
    "cslam_common_interfaces/msg/GlobalDescriptors": "GlobalDescriptor[] descriptors",
    "cslam_common_interfaces/msg/KeyframeOdom": "uint32 id\nnav_msgs/Odometry odom\nsensor_msgs/NavSatFix gps",
}
VOXGRAPH = {
    "voxgraph_msgs/msg/LoopClosure": "time from_timestamp\ntime to_timestamp\ngeometry_msgs/Transform transform\n"
    "float64[36] information",
}


def foreign_types(*packages: dict[str, str], ros1: bool = False) -> RosbagsTypes:
    """Message types of ROS 2 Jazzy, or ROS 1 Noetic, and of some foreign packages."""
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY)
    found: dict[str, Any] = {}
    for package in packages:
        for name, text in package.items():
            as_message = get_types_from_msg(text, name.replace("/srv/", "/msg/"))
            found[name] = as_message[name.replace("/srv/", "/msg/")]
    store.register(found)
    return RosbagsTypes(store)


def through_the_wire(types: RosbagsTypes, message: Any) -> Any:
    """What a receiver gets: the message, serialised and read again; the bytes must not change by that."""
    data = types.to_bytes(message)
    received = types.from_bytes(data, message.__msgtype__)
    assert types.to_bytes(received) == data
    return received
