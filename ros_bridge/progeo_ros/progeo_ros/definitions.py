"""Where the definitions of progeo_msgs lie: needed to read and write its messages without ROS."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from progeo_edge.errors import SourceError

PACKAGE = "progeo_msgs"


def definitions_folder() -> Path:
    """Folder with `msg/` and `srv/` of progeo_msgs.

    It is looked for beside this package's source, where pip installs it, and in the ROS that is sourced.

    Raises:
        SourceError: it is in none of these.
    """
    candidates = [
        Path(__file__).resolve().parents[2] / PACKAGE,
        Path(sysconfig.get_path("data")) / "share" / "progeo_ros" / "definitions",
        *(Path(prefix) / "share" / PACKAGE for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)),
        *(Path(share) / PACKAGE for share in os.environ.get("ROS_PACKAGE_PATH", "").split(os.pathsep)),
    ]
    for folder in candidates:
        if (folder / "msg" / "LoopClosure.msg").is_file():
            return folder
    raise SourceError(
        f"the definitions of {PACKAGE} are in none of {', '.join(str(folder) for folder in candidates)}; build "
        f"{PACKAGE} with colcon, or install progeo_ros from a checkout of the project"
    )


def message_definitions() -> dict[str, str]:
    """Name ("progeo_msgs/msg/LoopClosure") to text, for all messages."""
    folder = definitions_folder() / "msg"
    return {f"{PACKAGE}/msg/{path.stem}": path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.msg"))}


def service_definitions() -> dict[str, tuple[str, str]]:
    """Name ("progeo_msgs/srv/Query") to the texts of request and response, for all services."""
    folder = definitions_folder() / "srv"
    services = {}
    for path in sorted(folder.glob("*.srv")):
        request, _, response = path.read_text(encoding="utf-8").partition("\n---\n")
        services[f"{PACKAGE}/srv/{path.stem}"] = (request, response)
    return services
