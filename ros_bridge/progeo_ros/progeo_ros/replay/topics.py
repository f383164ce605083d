"""Which topics of a bag stand for the topics that the node listens to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from progeo_edge.errors import ConfigError, SourceError
from progeo_edge.sources.bag_topics import CAMERA_INFO, ODOMETRY, BagTopics, choose_topics
from progeo_ros.config import NodeConfig

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

OF_A_CAMERA = ("right/image", "right/camera_info", "image", "camera_info", "depth")
"""Topics that every camera of a rig has, below its name: "front/image"."""
NAMES = (*OF_A_CAMERA, "odom", "keyframe", "tf", "tf_static")
"""Topics of the node that can be named."""
HEADER = "std_msgs/msg/Header"
TF = "tf2_msgs/msg/TFMessage"
LEGACY_TF = "tf/msg/tfMessage"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Topics of the bag, by the node's names; None for what is not there or not wanted."""

    image: str
    camera_info: str | None
    depth: str | None
    right: str | None
    right_info: str | None
    odom: str | None
    keyframe: str | None
    tf: str | None
    tf_static: str | None

    def names(self) -> set[str]:
        """All that are read."""
        values = (getattr(self, name) for name in self.__slots__)
        return {value for value in values if value is not None}


def read_remaps(remaps: Sequence[str]) -> dict[str, str]:
    """A table of what is written as "image=/camera/image_raw".

    Raises:
        ConfigError: no assignment, or a name that the node does not have.
    """
    table = {}
    for item in remaps:
        ours, separator, theirs = (part.strip() for part in item.partition("="))
        if not separator or not theirs or (ours not in NAMES and not _camera_of(ours)):
            raise ConfigError(
                f"--topic {item!r} is none; write NAME=/topic/of/the/bag with NAME in {', '.join(NAMES)}, or "
                "CAMERA/image and so on for the cameras of a rig"
            )
        table[ours] = theirs
    return table


def implied_settings(remaps: Mapping[str, str]) -> list[str]:
    """Who names a topic wants it used; assignments as of `--set`."""
    switches = {
        "depth": "input.depth=true",
        "right/image": "input.right=true",
        "keyframe": "input.external_keyframes=true",
    }
    cameras = list(dict.fromkeys(filter(None, map(_camera_of, remaps))))
    named = {name.removeprefix(f"{_camera_of(name)}/") for name in remaps}
    rig = [f"input.cameras=[{', '.join(cameras)}]"] if cameras else []
    return [*rig, *(setting for name, setting in switches.items() if name in named)]


def _camera_of(name: str) -> str:
    """The camera front of front/image and front/right/image; "" for a name without a camera."""
    if name in NAMES:
        return ""
    return next((name.removesuffix(f"/{topic}") for topic in OF_A_CAMERA if name.endswith(f"/{topic}")), "")


def choose_rig(reader: AnyReader, path: Path, remaps: Mapping[str, str], config: NodeConfig) -> dict[str, Inputs]:
    """Topics by what stands before their names: "" for one camera, "front/" for the camera "front" of a rig.

    Raises:
        SourceError: as `choose_inputs`, or the images of a camera are not named.
    """
    if not config.input.cameras:
        return {"": choose_inputs(reader, path, remaps, config)}
    rig = {}
    for camera in config.input.cameras:
        prefix = f"{camera}/"
        if f"{prefix}image" not in remaps:
            raise SourceError(
                f"the images of camera {camera} in bag {path} are not named; give --topic {prefix}image=..."
            )
        shared = {name: topic for name, topic in remaps.items() if name in NAMES and name not in OF_A_CAMERA}
        own = {name.removeprefix(prefix): topic for name, topic in remaps.items() if _camera_of(name) == camera}
        rig[prefix] = choose_inputs(reader, path, {**shared, **own}, config)
    return rig


def choose_inputs(reader: AnyReader, path: Path, remaps: Mapping[str, str], config: NodeConfig) -> Inputs:
    """Named topics, and where none is named the only one of its type.

    Raises:
        SourceError: a topic is missing, is of another type, or has to be chosen.
    """
    for name, wanted in (("depth", config.input.depth), ("right/image", config.input.right)):
        if wanted and name not in remaps:
            raise SourceError(
                f"{name} is switched on, but its topic in bag {path} is not named; give --topic {name}=..."
            )
    chosen = choose_topics(
        reader,
        path,
        image=remaps.get("image"),
        odom=remaps.get("odom") if config.input.odometry == "topic" else "none",
        info=remaps.get("camera_info"),
        depth=remaps.get("depth") if config.input.depth else None,
        right=remaps.get("right/image") if config.input.right else None,
        odom_types=(ODOMETRY,),
        image_option="--topic image=...",
        odom_option="--topic odom=...",
    )
    return Inputs(
        image=chosen.image,
        camera_info=chosen.info,
        depth=chosen.depth,
        right=chosen.right,
        right_info=_right_info(reader, path, remaps, chosen),
        odom=chosen.odom,
        keyframe=_keyframes(reader, path, remaps, config),
        tf=_named_or_there(reader, path, remaps, "tf", (TF, LEGACY_TF)),
        tf_static=_named_or_there(reader, path, remaps, "tf_static", (TF, LEGACY_TF)),
    )


def _right_info(reader: AnyReader, path: Path, remaps: Mapping[str, str], chosen: BagTopics) -> str | None:
    if chosen.right is None:
        return None
    beside = f"{chosen.right.rpartition('/')[0]}/camera_info"
    return _named_or_there(reader, path, remaps, "right/camera_info", (CAMERA_INFO,), beside)


def _keyframes(reader: AnyReader, path: Path, remaps: Mapping[str, str], config: NodeConfig) -> str | None:
    if not config.input.external_keyframes:
        return None
    topic = _named_or_there(reader, path, remaps, "keyframe", (HEADER,))
    if topic is None:
        raise SourceError(
            f"input.external_keyframes is on, but bag {path} has no topic /keyframe of std_msgs/Header; give "
            "--topic keyframe=..., or switch it off"
        )
    return topic


def _named_or_there(
    reader: AnyReader, path: Path, remaps: Mapping[str, str], name: str, kinds: tuple[str, ...], default: str = ""
) -> str | None:
    """The named topic, which must be there, or the usual one, which may be."""
    topic = remaps.get(name, default or f"/{name}")
    kind = str(reader.topics[topic].msgtype) if topic in reader.topics else "missing"
    if kind in kinds:
        return topic
    if name in remaps:
        raise SourceError(f"topic {topic} of bag {path}, named for {name}, is {kind}; expected {kinds[0]}")
    return None
