"""The map that the node writes to or looks places up in, and what is kept of it in memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

from progeo_edge.atomic import replacing
from progeo_edge.bundle import ModelSpec
from progeo_edge.errors import MapError
from progeo_edge.map_opening import plain_errors, refuse_in_use
from progeo_edge.map_rows import KeyframeInfo
from progeo_edge.map_store import MapStore
from progeo_edge.map_tools import append_map
from progeo_edge.types import Keyframe, Status
from progeo_ros.config import MapConfig
from progeo_ros.map_writer import MapWriter

SUFFIX = ".progeo"


class MapInUse:
    """An open map with its table of contents, so that no image needs to read it again.

    Attributes:
        store: The map.
        infos: Every keyframe without its arrays, by id.
        session_names: Name of every session, by id.
    """

    def __init__(self, store: MapStore) -> None:
        """Read the contents of a map, and keep other nodes from writing to it; when that fails, the map is closed.

        Raises:
            MapError: another node writes to it, or it cannot be read.
        """
        self.store = store
        self._writer: MapWriter | None = None
        try:
            if store.path is not None and not store.read_only:
                self._writer = MapWriter(store.path)
            self.read_contents()
        except BaseException:
            self.close()
            raise

    @classmethod
    def of_settings(cls, config: MapConfig, spec: ModelSpec, *, descriptor_dtype: str) -> MapInUse:
        """Open the map of the settings, or create it when it does not exist and may be written.

        Args:
            config: Where, and how.
            spec: The model; a map of another one is refused.
            descriptor_dtype: Of a new map.

        Raises:
            MapError: unreadable, of another model, in use by another node, or not there and read-only.
        """
        path = user_path(config.path) if config.path else _default_path()
        if config.read_only or path.exists():
            return cls(MapStore.open(path, spec=spec, read_only=config.read_only))
        if not config.path:
            with plain_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
        return cls(MapStore.create(path, spec, descriptor_dtype=descriptor_dtype))

    def close(self) -> None:
        """Close the map; twice is fine."""
        self.store.close()
        if self._writer is not None:
            self._writer.close()

    def read_contents(self) -> None:
        """Read keyframes and sessions, after something other than `learn` changed them."""
        self.infos: dict[int, KeyframeInfo] = {info.id: info for info in self.store.infos()}
        self.read_sessions()

    def read_sessions(self) -> None:
        """Read the sessions, after one began."""
        self.session_names: dict[int, str] = {session.id: session.name for session in self.store.sessions()}

    def learn(self, keyframe: Keyframe, status: Status) -> None:
        """A keyframe was stored."""
        self.infos[keyframe.id] = KeyframeInfo(
            keyframe.id,
            keyframe.session,
            keyframe.stamp_ns,
            keyframe.name,
            keyframe.camera,
            keyframe.T_odom_base,
            status,
        )

    def refuse_read_only(self, what: str) -> None:
        """Make sure that the map may be written.

        Raises:
            MapError: it is read-only.
        """
        if self.store.read_only:
            raise MapError(f"map {self.store.path} is open read-only; load it for writing to {what}")

    def new_session_name(self, wished: str) -> str:
        """A name that no session has yet: the wished one, or a numbered one."""
        taken = set(self.session_names.values())
        name, number = wished, 2
        while name in taken:
            name, number = f"{wished}-{number}", number + 1
        return name

    def copy_to(self, path: Path, *, overwrite: bool) -> None:
        """Write a copy, whole or not at all.

        Raises:
            MapError: the file is in use, or exists and may not be replaced, or cannot be written.
        """
        with plain_errors(path):
            self._refuse_overwriting(path, overwrite)
            with replacing(path) as temporary:
                self.store.copy_to(temporary)

    def _refuse_overwriting(self, path: Path, overwrite: bool) -> None:
        if self.store.path is not None and path.resolve() == self.store.path.resolve():
            raise MapError(f"{path} is the map in use, which is on the disk already; choose another name for a copy")
        if path.exists() and not overwrite:
            raise MapError(f"{path} exists already; set overwrite to replace it, or choose another name")
        if not path.parent.is_dir():
            raise MapError(f"folder {path.parent} for the map does not exist; create it first")
        refuse_in_use(path)

    def append(self, path: Path) -> None:
        """Add the sessions of another map, as `append_map`.

        Raises:
            MapError: it cannot be read or is there already; this map is unchanged.
        """
        self.refuse_read_only("merge into it")
        append_map(self.store, path)
        self.read_contents()

    def path_beside(self) -> Path | None:
        """A new file beside this map, named after it and by the time; None for a map in memory."""
        path = self.store.path
        return None if path is None else _unused(path.parent, path.stem)


def user_path(path: str) -> Path:
    """A path as a user writes it.

    Raises:
        MapError: it is empty.
    """
    if not path.strip():
        raise MapError("the path is empty; give the file of a map")
    return Path(path).expanduser()


def _default_path() -> Path:
    """A new file under ROS_HOME (~/.ros when that is not set), named by the time."""
    home = Path(os.environ.get("ROS_HOME") or "~/.ros").expanduser()
    return _unused(home / "progeo", "map")


def _unused(folder: Path, name: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path, number = folder / f"{name}-{stamp}{SUFFIX}", 2
    while path.exists():
        path, number = folder / f"{name}-{stamp}-{number}{SUFFIX}", number + 1
    return path
