"""The right to write to a map: one node at a time has it, because each numbers the keyframes on its own."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from progeo_edge.errors import MapError

_log = logging.getLogger(__name__)

SUFFIX = ".lock"


class MapWriter:
    """Holds the right until it is closed, or until the process ends, however that ends.

    The lock is on a file beside the map: closing a map that was opened twice would end SQLite's own locks on it.
    """

    def __init__(self, map_path: Path) -> None:
        """Take the right.

        Args:
            map_path: An existing map.

        Raises:
            MapError: another node, or this one, has it.
        """
        path = map_path.resolve()
        self._path = path.with_name(path.name + SUFFIX)
        self._descriptor = self._open()
        while self._descriptor is not None:
            if not _is_free(self._descriptor):
                os.close(self._descriptor)
                raise MapError(
                    f"map {map_path} is open for writing in a node already; give each node a map of its own, or set "
                    f"map.read_only (load_map: read_only) to find places in it only"
                )
            if _is_file(self._descriptor, self._path):
                return
            os.close(self._descriptor)  # who had the right gave it back meanwhile, and took the file away
            self._descriptor = self._open()

    def close(self) -> None:
        """Give the right back; twice is fine."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(descriptor)

    def _open(self) -> int | None:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            _log.warning("lock %s cannot be made (%s); let no second node write to this map", self._path, error)
            return None


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # file systems without locks
        _log.warning("the map's folder knows no locks (%s); let no second node write to this map", error)
    return True


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
