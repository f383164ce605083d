"""Which session of a map a run goes on with."""

from __future__ import annotations

from collections.abc import Mapping

from progeo_edge.errors import MapError
from progeo_edge.geometry import Cameras
from progeo_edge.map_store import MapStore


def session_to_resume(map_store: MapStore, session_id: int | None, cameras: Cameras | None) -> int:
    """Id of the session to continue.

    Args:
        map_store: The map.
        session_id: Which one; None for the last.
        cameras: What this run has; of a rig its names must be those of the session.

    Raises:
        MapError: there is no such session, or it was begun with other cameras.
    """
    sessions = {session.id: session for session in map_store.sessions()}
    if not sessions:
        raise MapError("the map holds no session to resume; run without resume to start one")
    if session_id is not None and session_id not in sessions:
        raise MapError(f"the map holds no session {session_id} to resume; it has {list(sessions)}")
    resumed = sessions[max(sessions) if session_id is None else session_id]
    before, now = _names(resumed.camera), _names(cameras)
    if before != now:
        raise MapError(
            f"session {resumed.id} was begun with {before or 'one camera or none'}, this run has "
            f"{now or 'one camera or none'}; resume with the same rig, or begin a new session"
        )
    return resumed.id


def _names(cameras: Cameras | None) -> list[str]:
    """Names of a rig's cameras; empty for one camera or none, which serve frames of any name."""
    return sorted(cameras) if isinstance(cameras, Mapping) else []
