"""The adapters that a config names, as far as they can work here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from progeo_edge.errors import ConfigError, ProgeoError
from progeo_ros.adapters import Adapter
from progeo_ros.adapters.cuvslam import Cuvslam
from progeo_ros.adapters.pose_graph import PoseGraph
from progeo_ros.adapters.recorder import Recorder
from progeo_ros.adapters.rtabmap_descriptors import Encode, RtabmapDescriptors
from progeo_ros.adapters.rtabmap_links import RtabmapLinks
from progeo_ros.adapters.stamped_pairs import StampedPairs
from progeo_ros.adapters.swarm_slam import SwarmSlam
from progeo_ros.config import NodeConfig
from progeo_ros.message_types import MessageTypes

log = logging.getLogger(__name__)


def open_adapters(
    config: NodeConfig, types: MessageTypes, map_path: Path | None, encode: Encode | None = None
) -> tuple[Adapter, ...]:
    """Open the adapters of the setting `adapters`, in its order, each once.

    One that cannot work here (its messages are not installed, its folder cannot be made) says so in one line of the log
    and is left out, so that a missing consumer never keeps the node from running.

    Args:
        config: Of the node.
        types: Messages that are there.
        map_path: File of the map; None for a map in memory, of which `recorder` can make no files.
        encode: Descriptor of an image, for `rtabmap_descriptors`. It is called from the thread that delivers messages.
    """
    return tuple(_opened(config, types, map_path, encode))


def _opened(config: NodeConfig, types: MessageTypes, map_path: Path | None, encode: Encode | None) -> Iterator[Adapter]:
    makers: dict[str, Callable[[], Adapter]] = {
        "rtabmap_links": lambda: RtabmapLinks(config, types),
        "rtabmap_descriptors": lambda: _rtabmap_descriptors(config, types, encode),
        "cuvslam": lambda: Cuvslam(config, types),
        "pose_graph": lambda: PoseGraph(config, types),
        "swarm_slam": lambda: SwarmSlam(config, types),
        "stamped_pairs": lambda: StampedPairs(config, types),
        "recorder": lambda: _recorder(config, map_path),
    }
    for name in dict.fromkeys(config.adapters):
        try:
            adapter = makers[name]()
            _check_types(adapter, types)
        except ProgeoError as error:
            log.warning("adapter %s is left out: %s", name, error)
        else:
            yield adapter


def _check_types(adapter: Adapter, types: MessageTypes) -> None:
    missing = next((name for name in adapter.required_types if not types.has(name)), None)
    if missing is not None:
        package = missing.split("/")[0]
        raise ConfigError(
            f"{missing} is not there; install the package {package} (apt install ros-$ROS_DISTRO-"
            f"{package.replace('_', '-')}, or build it in the workspace) and source it"
        )


def _rtabmap_descriptors(config: NodeConfig, types: MessageTypes, encode: Encode | None) -> Adapter:
    if encode is None:
        raise ConfigError("it describes every image, and this program gives it no encoder; use it in the node")
    return RtabmapDescriptors(config, types, encode)


def _recorder(config: NodeConfig, map_path: Path | None) -> Adapter:
    if map_path is None:
        raise ConfigError("its files are made from the map, which is in memory; give map.path")
    return Recorder(config, map_path)
