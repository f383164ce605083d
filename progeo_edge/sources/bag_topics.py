"""Which topics of a bag are used: those that are named, and where nothing is named the only one of a type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from progeo_edge.errors import SourceError
from progeo_edge.sources.bag_camera import info_topic_of

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
ODOMETRY = "nav_msgs/msg/Odometry"
POSES = (ODOMETRY, "geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/PoseWithCovarianceStamped")


@dataclass(frozen=True)
class BagTopics:
    """Topics that are read, by what they are for; None for what is not there or not wanted."""

    image: str
    odom: str | None
    info: str | None
    depth: str | None
    right: str | None


def choose_topics(
    reader: AnyReader,
    path: Path,
    *,
    image: str | None = None,
    odom: str | None = None,
    info: str | None = None,
    depth: str | None = None,
    right: str | None = None,
    odom_types: tuple[str, ...] = POSES,
    image_option: str = "image_topic",
    odom_option: str = "odom_topic",
) -> BagTopics:
    """Find out what to read.

    Args:
        reader: The open bag.
        path: For messages.
        image: Image or CompressedImage; None when there is just one.
        odom: One of `odom_types`; None takes the only Odometry topic, "none" uses none.
        info: None takes camera_info beside the image topic.
        depth: Depth images.
        right: Right images.
        odom_types: What odometry may be.
        image_option: How the caller's user names the image topic, for messages.
        odom_option: How the caller's user names the odometry topic.

    Raises:
        SourceError: a topic is missing, is of another type, or has to be chosen.
    """
    have = {name: (str(topic.msgtype), topic.msgcount) for name, topic in reader.topics.items()}
    images = [name for name, (kind, _) in have.items() if kind in (IMAGE, COMPRESSED)]
    if image is None:
        if len(images) != 1:
            found = "several image topics" if images else "no image topic"
            raise SourceError(f"bag {path} has {found}; name one ({image_option}). {_list_topics(have)}")
        image = images[0]
    odoms = [name for name, (kind, _) in have.items() if kind == ODOMETRY]
    if odom is None and len(odoms) > 1:
        raise SourceError(
            f"bag {path} has several odometry topics; name one, or none ({odom_option}). {_list_topics(have)}"
        )
    if odom is None:
        odom = odoms[0] if odoms else "none"
    sibling = info_topic_of(image)
    topics = BagTopics(
        image=image,
        odom=None if odom == "none" else odom,
        info=info or (sibling if have.get(sibling, ("", 0))[0] == CAMERA_INFO else None),
        depth=depth,
        right=right,
    )
    wanted = [
        (topics.image, (IMAGE, COMPRESSED)),
        (topics.odom, odom_types),
        (topics.info, (CAMERA_INFO,)),
        (topics.depth, (IMAGE, COMPRESSED)),
        (topics.right, (IMAGE, COMPRESSED)),
    ]
    for name, kinds in wanted:
        if name is not None and (name not in have or have[name][0] not in kinds):
            is_what = f"is a {have[name][0]}" if name in have else "does not exist"
            raise SourceError(f"topic {name} of bag {path} {is_what}; expected {kinds[0]}. {_list_topics(have)}")
    return topics


def _list_topics(have: dict[str, tuple[str, int]]) -> str:
    lines = [f"{name} ({kind.replace('/msg/', '/')}, {count})" for name, (kind, count) in sorted(have.items())]
    return f"Topics: {', '.join(lines) or 'none'}"
