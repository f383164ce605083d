"""ROS 1 and ROS 2 bags through rosbags: images with odometry, calibration, depth or a right image beside them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import SourceError
from progeo_edge.geometry import Camera, Cameras
from progeo_edge.sources.bag_camera import (
    baseline_from_right_info,
    camera_from_info,
    info_topic_of,
    is_rectified,
    mounting,
    static_transforms,
)
from progeo_edge.sources.bag_reader import (
    BAG_SUFFIXES,
    Clock,
    Message,
    bag_files,
    deserialize,
    grouped,
    guarded,
    nearest,
    opened,
    read_messages,
)
from progeo_edge.sources.bag_topics import COMPRESSED, BagTopics, choose_topics
from progeo_edge.sources.base import Entry, LazySource, SkippedFrame
from progeo_edge.sources.images import FrameError
from progeo_edge.sources.poses import PoseTrack
from progeo_edge.sources.rig import RigSource, calibration_of
from progeo_edge.sources.ros_images import (
    depth_m_from_compressed,
    depth_m_from_message,
    image_from_compressed,
    image_from_message,
)
from progeo_edge.types import Frame

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

logger = logging.getLogger(__name__)

P = TypeVar("P", np.uint8, np.float32)


def is_bag(path: Path) -> bool:
    """A .bag, .mcap or .db3 file, or a folder with metadata.yaml or such files."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or bool(bag_files(path))
    return path.suffix in BAG_SUFFIXES


def open_bag(
    path: Path,
    *,
    rate_hz: float | None = None,
    camera: Camera | None = None,
    image_topic: str | None = None,
    odom_topic: str | None = None,
    camera_info_topic: str | None = None,
    depth_topic: str | None = None,
    right_topic: str | None = None,
) -> LazySource:
    """Images of one topic of a bag.

    Stamps are those of the headers, or the times of recording where the first header has none. Odometry is
    interpolated to the stamp of the image; it is read beforehand, once, when the source is opened.

    Args:
        path: A .bag, .mcap or .db3 file, a ROS 2 folder, or a folder of .bag files of one recording.
        rate_hz: Keep at most this many images per second; the others are not deserialised.
        camera: Intrinsics and mounting; None takes them from CameraInfo and /tf_static.
        image_topic: Image or CompressedImage; None when there is just one.
        odom_topic: Odometry, PoseStamped or PoseWithCovarianceStamped; None takes the only Odometry topic, "none"
            uses none.
        camera_info_topic: None takes camera_info beside the image topic.
        depth_topic: Depth registered to the image (16UC1 in mm, 32FC1 in m, or compressedDepth), within 20 ms.
        right_topic: Right image of a rectified pair, within 20 ms.

    Raises:
        SourceError: the extra is missing, the bag cannot be read, or a topic is missing or has to be chosen.
    """
    with opened(path) as reader:
        topics = choose_topics(
            reader,
            path,
            image=image_topic,
            odom=odom_topic,
            info=camera_info_topic,
            depth=depth_topic,
            right=right_topic,
        )
        track, base_frame = guarded(path, lambda: _read_track(reader, topics.odom))
        camera = camera or guarded(path, lambda: _read_camera(reader, topics, base_frame))
        num_frames = reader.topics[topics.image].msgcount
    return LazySource(
        f"{path} {topics.image}",
        lambda: _read(path, topics, track),
        camera=camera,
        num_frames=num_frames,
        rate_hz=rate_hz,
    )


def open_rig_bag(
    path: Path,
    *,
    image_topic: Mapping[str, str],
    rate_hz: float | None = None,
    camera: Cameras | None = None,
    odom_topic: str | None = None,
    camera_info_topic: Mapping[str, str] | None = None,
    depth_topic: Mapping[str, str] | None = None,
    right_topic: Mapping[str, str] | None = None,
) -> RigSource:
    """The images of several cameras of a bag; the arguments are those of `open_bag`, topics by the name of the camera.

    Raises:
        SourceError: as `open_bag`; or a topic or a calibration of a camera that has no image topic.
    """
    beside = {
        "camera_info_topic": camera_info_topic or {},
        "depth_topic": depth_topic or {},
        "right_topic": right_topic or {},
    }
    for option, topics in beside.items():
        unknown = [name for name in topics if name not in image_topic]
        if unknown:
            raise SourceError(f"{option} names {unknown[0]}, image_topic {', '.join(image_topic)}; name them alike")
    sources = {
        name: open_bag(
            path,
            rate_hz=rate_hz,
            camera=calibration_of(camera, name, str(path)),
            image_topic=topic,
            odom_topic=odom_topic,
            **{option: topics.get(name) for option, topics in beside.items()},
        )
        for name, topic in image_topic.items()
    }
    return RigSource(str(path), sources)


def _read_track(reader: AnyReader, topic: str | None) -> tuple[PoseTrack | None, str | None]:
    """Odometry, and the frame whose pose it is."""
    if topic is None:
        return None, None
    clock = Clock()
    stamps_ns: list[int] = []
    poses: list[list[float]] = []
    base_frame, num_broken = "", 0
    for raw in read_messages(reader, (topic,)):
        try:
            stamp_ns, message = clock.stamp_ns(raw), deserialize(reader, raw)
        except FrameError:
            num_broken += 1
            continue
        pose = getattr(message.pose, "pose", message.pose)
        p, q = pose.position, pose.orientation
        stamps_ns.append(stamp_ns)
        poses.append([p.x, p.y, p.z, q.x, q.y, q.z, q.w])
        base_frame = base_frame or getattr(message, "child_frame_id", "").lstrip("/")
    if num_broken:
        logger.warning("%s: %d messages cannot be deserialised; left out", topic, num_broken)
    return (PoseTrack(stamps_ns, poses, topic) if poses else None), base_frame or "base_link"


def _read_camera(reader: AnyReader, topics: BagTopics, base_frame: str | None) -> Camera | None:
    info = _first(reader, topics.info)
    if info is None:
        logger.warning("no camera_info for %s: closures get no pose unless a camera is given", topics.image)
        return None
    statics = {}
    for raw in read_messages(reader, ("/tf_static",)):
        statics.update(static_transforms(deserialize(reader, raw)))
    T_base_camera = mounting(statics, base_frame, info.header.frame_id.lstrip("/"))
    camera = camera_from_info(info, rectified=is_rectified(topics.image), T_base_camera=T_base_camera)
    right_info = _first(reader, None if topics.right is None else info_topic_of(topics.right))
    if camera is None or right_info is None:
        return camera
    return replace(camera, baseline_m=baseline_from_right_info(right_info))


def _first(reader: AnyReader, topic: str | None) -> Any:  # noqa: ANN401
    raw = None if topic is None else next(read_messages(reader, (topic,)), None)
    return None if raw is None else deserialize(reader, raw)


def _read(path: Path, topics: BagTopics, track: PoseTrack | None) -> Iterator[Entry | SkippedFrame]:
    others = [topic for topic in (topics.depth, topics.right) if topic is not None]
    with opened(path) as reader:
        messages = read_messages(reader, (topics.image, *others))
        groups = grouped(messages, topics.image) if others else ((message, []) for message in messages)
        clock = Clock()
        index = 0
        while True:
            try:
                image, beside = next(groups)
            except StopIteration:
                return
            except Exception as error:  # as in `guarded`; what came before the damage is kept
                reason = f"the bag cannot be read any further ({type(error).__name__}: {error})"
                logger.error("%s, after %d images: %s", path, index, reason)
                yield SkippedFrame(f"{topics.image}#{index}", reason)
                return
            yield _entry(reader, topics, track, image, beside, clock, f"{topics.image}#{index}")
            index += 1


def _entry(
    reader: AnyReader,
    topics: BagTopics,
    track: PoseTrack | None,
    image: Message,
    beside: list[Message],
    clock: Clock,
    name: str,
) -> Entry | SkippedFrame:
    try:
        stamp_ns = clock.stamp_ns(image)
    except FrameError as error:
        return SkippedFrame(name, str(error))

    def load() -> Frame:
        pixels = _decode(reader, image, image_from_message, image_from_compressed)
        depth = nearest(beside, topics.depth, stamp_ns)
        right = nearest(beside, topics.right, stamp_ns)
        return Frame(
            stamp_ns,
            pixels,
            name,
            None if track is None else track.at(stamp_ns),
            _optional(reader, depth, pixels.shape, depth_m_from_message, depth_m_from_compressed),
            _optional(reader, right, pixels.shape, image_from_message, image_from_compressed),
        )

    return Entry(stamp_ns, name, load)


def _decode(
    reader: AnyReader,
    message: Message,
    from_raw: Callable[[Any], NDArray[P]],
    from_compressed: Callable[[Any], NDArray[P]],
) -> NDArray[P]:
    convert = from_compressed if message.msgtype == COMPRESSED else from_raw
    return convert(deserialize(reader, message))


def _optional(
    reader: AnyReader,
    message: Message | None,
    shape: tuple[int, ...],
    from_raw: Callable[[Any], NDArray[P]],
    from_compressed: Callable[[Any], NDArray[P]],
) -> NDArray[P] | None:
    """Depth or right image; a frame without it is still a frame."""
    if message is None:
        return None
    try:
        pixels = _decode(reader, message, from_raw, from_compressed)
    except FrameError as error:
        logger.warning("%s at %d ns left out: %s", message.topic, message.log_ns, error)
        return None
    if pixels.shape[:2] != shape[:2]:
        logger.warning("%s left out: its shape %s is not that of the image, %s", message.topic, pixels.shape, shape)
        return None
    return pixels
