"""Settings of the node, beside those of the detector: the same dotted names as ROS parameters and in YAML."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from progeo_edge.settings import Section


class ModelConfig(Section):
    """The encoder."""

    path: str = Field("vlad", description="'vlad' (built in, needs no weights), or a bundle of progeo-export")
    backend: Literal["auto", "tensorrt", "openvino", "onnx"] = Field(
        "auto",
        description="auto: TensorRT where its engine is ready, else OpenVINO or ONNX Runtime, the faster one",
    )
    precision: Literal["auto", "fp32", "fp16", "int8"] = Field("auto", description="auto: FP16 where TensorRT runs it")


class MapConfig(Section):
    """The map."""

    path: str = Field("", description="file; empty: a new one under ~/.ros/progeo, named by the time")
    read_only: bool = Field(False, description="only relocalise in it, never write")
    session: str = Field("run", description="name of this run in the map")
    resume: bool = Field(False, description="continue the last session of the map, as after a restart")


class CameraConfig(Section):
    """Where intrinsics and mounting come from."""

    file: str = Field("", description="YAML of the camera; empty: from camera_info")
    rectified: bool = Field(False, description="images are undistorted: use P of camera_info, without distortion")
    wait_s: float = Field(5.0, ge=0, description="how long images wait for camera_info; then closures have no pose")


class FramesConfig(Section):
    """Names of coordinate frames (REP 105)."""

    base: str = Field("base_link", description="all poses are of this frame; its transform to the camera is in tf")
    odom: str = Field("odom", description="frame of the odometry")
    map: str = Field("map", description="frame of relocalisation poses")
    publish_tf: bool = Field(False, description="read-only maps: publish map -> odom; nothing else may publish it")


class InputConfig(Section):
    """What comes in."""

    cameras: tuple[str, ...] = Field(
        (), description="names of the cameras of a rig, whose topics are NAME/image ...; empty: one camera, image ..."
    )
    transport: Literal["raw", "compressed"] = Field("raw", description="image or image/compressed")
    depth: bool = Field(False, description="take depth, registered to the image")
    right: bool = Field(False, description="take right/image of a rectified stereo pair")
    odometry: Literal["topic", "tf", "none"] = Field("topic", description="odom topic, tf (odom -> base), or none")
    external_keyframes: bool = Field(
        False, description="only images whose stamp comes on the topic keyframe are used, and every one of them is kept"
    )
    max_offset_ms: float = Field(20.0, ge=0, description="largest difference of stamps to depth and right image")
    max_rate_hz: float = Field(10.0, gt=0, description="more images per second are dropped before they are decoded")
    stale_s: float = Field(2.0, gt=0, description="without an image for this long, diagnostics warn")


class OutputConfig(Section):
    """What goes out."""

    descriptor_dtype: Literal["float16", "float32"] = Field("float32", description="of the topic global_descriptor")
    match_image_height_px: int = Field(480, ge=32, le=4096, description="height of match_image")


class RelocalizeConfig(Section):
    """The service relocalize."""

    timeout_s: float = Field(5.0, gt=0, description="how long it waits until a place is certain")


class RtabmapConfig(Section):
    """Adapters rtabmap_links and rtabmap_descriptors."""

    namespace: str = Field("rtabmap", description="namespace of its topics info and mapGraph")
    add_link: str = Field(
        "rtabmap/rtabmap/add_link",
        description="its service: namespace and node name in ROS 2 (since mid 2024), rtabmap/add_link in ROS 1",
    )
    max_stamp_offset_ms: float = Field(50.0, ge=0, description="a node of its graph this near stands for a keyframe")
    confirm_s: float = Field(5.0, gt=0, description="how long a link may take to show in its graph")
    max_tries: int = Field(3, ge=1, description="a link that does not show is sent this often")


class CuvslamConfig(Section):
    """Adapter cuvslam."""

    pose_topic: str = Field("/visual_localization/pose", description="where a hint is published")
    trigger_topic: str = Field("/visual_localization/trigger_localization", description="what asks for a hint")
    timeout_s: float = Field(60.0, gt=0, description="a request that cannot be answered for this long lapses")


class PoseGraphConfig(Section):
    """Adapters pose_graph and swarm_slam."""

    robot_id: int = Field(0, ge=0, le=255, description="number of this robot")
    keys: Literal["ids", "stamps"] = Field(
        "ids",
        description="ids: keyframe ids under the robot's number, with nodes and odometry; stamps: closures only, keyed "
        "by nanoseconds, as Hydra takes them",
    )


class RecorderConfig(Section):
    """Adapter recorder."""

    folder: str = Field(
        "", description="where graph.g2o, graph_gtsam.g2o and closures.csv are kept; empty: beside the map, in its name"
    )
    every_s: float = Field(10.0, gt=0, description="how often the files are written anew")


AdapterName = Literal[
    "rtabmap_links", "rtabmap_descriptors", "cuvslam", "pose_graph", "swarm_slam", "stamped_pairs", "recorder"
]


class NodeConfig(Section):
    """All settings of the node; those of the detector (`progeo_edge.config.Config`) stand beside them."""

    model: ModelConfig = ModelConfig()
    map: MapConfig = MapConfig()
    camera: CameraConfig = CameraConfig()
    frames: FramesConfig = FramesConfig()
    input: InputConfig = InputConfig()
    output: OutputConfig = OutputConfig()
    relocalize: RelocalizeConfig = RelocalizeConfig()
    adapters: tuple[AdapterName, ...] = Field((), description="consumers that are served, by name")
    rtabmap: RtabmapConfig = RtabmapConfig()
    cuvslam: CuvslamConfig = CuvslamConfig()
    pose_graph: PoseGraphConfig = PoseGraphConfig()
    recorder: RecorderConfig = RecorderConfig()
