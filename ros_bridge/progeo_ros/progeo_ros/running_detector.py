"""The detector of a map: made when the camera is known, and made anew when something that it rests on changes."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from progeo_edge.config import Config
from progeo_edge.detector import LoopDetector
from progeo_edge.encoders import Encoder
from progeo_edge.errors import InputError, MapError
from progeo_edge.geometry import Camera
from progeo_edge.map_store import MapStore
from progeo_edge.types import Frame, Update
from progeo_ros.camera_identity import is_same_camera
from progeo_ros.map_in_use import MapInUse

log = logging.getLogger(__name__)

MAX_CAMERA_CHANGES = 5
"""A camera that keeps changing is not fixed to the robot; a session per image would be no map."""


class RunningDetector:
    """A detector with its map and its sessions. Not thread-safe: the caller locks.

    Args:
        encoder: Of the map's model.
        map_in_use: The map; it is closed by `close`.
        config: Settings.
        session: Wished name of new sessions.
        resume: Continue the last session of the map with the first image.
        camera: When it is known already.
    """

    def __init__(
        self,
        encoder: Encoder,
        map_in_use: MapInUse,
        config: Config,
        *,
        session: str,
        resume: bool,
        camera: Camera | None = None,
    ) -> None:
        self.map = map_in_use
        self.config = config
        self.camera = camera
        self._encoder = encoder
        self._wished_session = session
        self._resume = resume
        self._detector: LoopDetector | None = None
        self._camera_changes = 0
        self._generation: int | None = None

    @property
    def generation(self) -> int:
        """Of the last image; 0 before the first."""
        return self._generation or 0

    @property
    def has_begun(self) -> bool:
        """Whether there was an image."""
        return self._detector is not None

    @property
    def session(self) -> str:
        """Name of the session being written; "" before the first image and with a read-only map."""
        detector = self._detector
        return "" if detector is None or detector.session is None else self.map.session_names[detector.session]

    def index_report(self) -> dict[str, object]:
        """As `LoopDetector.index_report`; empty before the first image."""
        return {} if self._detector is None else self._detector.index_report()

    def at(self, camera: Camera | None, generation: int) -> LoopDetector:
        """The detector for an image.

        Args:
            camera: Of the image; None takes the one that is known.
            generation: A new session begins when it changes.

        Raises:
            InputError: the camera changes again and again.
            MapError: a session cannot begin.
        """
        is_same_run = self._generation in (None, generation)
        self._generation = generation
        if self._detector is None:
            self._detector = self._first(camera)
        elif not is_same_run:
            camera = camera or self.camera
            self._detector = self._of_new_session(camera)
        elif camera is not None and not is_same_camera(self.camera, camera):
            self._detector = self._of_changed_camera(camera)
        else:
            return self._detector
        self.camera = camera
        return self._detector

    def ask(self, frame: Frame) -> Update:
        """Where has this image been seen? No session begins because of a question.

        Raises:
            InputError: the image cannot be used.
        """
        if self._detector is not None:
            return self._detector.relocalize(frame)
        if self.map.store.path is None:
            raise MapError("a map in memory cannot be asked before the first image; send an image first")
        with MapStore.open(self.map.store.path, spec=self._encoder.spec, read_only=True) as store:
            return LoopDetector(self._encoder, store, None, self.config).relocalize(frame)

    def begin_session(self) -> str:
        """Begin a session now, or with the first image; returns its name."""
        self._resume = False
        if self._detector is None:
            return self.map.new_session_name(self._wished_session)
        self._detector = self._of_new_session(self.camera)
        self._camera_changes = 0
        return self.session

    def reload(self, config: Config | None = None) -> None:
        """Take over other settings, or what was added to the map, in the same session."""
        config = config or self.config
        if self._detector is not None:
            self._detector.close()
            session_id = self._detector.session
            self._detector = LoopDetector(self._encoder, self.map.store, self.camera, config, session_id=session_id)
        self.config = config

    def close(self) -> None:
        """Close detector and map."""
        try:
            if self._detector is not None:
                self._detector.close()
        finally:
            self._detector = None
            self.map.close()

    def _first(self, camera: Camera | None) -> LoopDetector:
        sessions = [] if self.map.store.read_only else self.map.store.sessions()
        if not self._resume or not sessions:
            return self._of_new_session(camera)
        known = sessions[-1].camera
        if isinstance(known, Mapping) or not is_same_camera(known, camera):
            log.warning("session %r is not resumed: the camera is another one; a new one begins", sessions[-1].name)
            return self._of_new_session(camera)
        return LoopDetector(self._encoder, self.map.store, camera, self.config, session_id=sessions[-1].id)

    def _of_changed_camera(self, camera: Camera) -> LoopDetector:
        if self.camera is not None:
            self._camera_changes += 1
            if self._camera_changes > MAX_CAMERA_CHANGES:
                raise InputError(
                    f"intrinsics or mounting of the camera have changed {self._camera_changes} times; only a camera "
                    "fixed to the base is supported: set frames.base to the camera's own frame, or publish its "
                    "calibration and transform once"
                )
        log.warning("the camera %s; a new session begins", "changed" if self.camera is not None else "became known")
        return self._of_new_session(camera)

    def _of_new_session(self, camera: Camera | None) -> LoopDetector:
        if self._detector is not None:
            self._detector.close()
        name = self.map.new_session_name(self._wished_session)
        detector = LoopDetector(self._encoder, self.map.store, camera, self.config, session=name)
        self.map.read_sessions()
        return detector
