"""Encoder, map and detector as one thing that can change its map, session and settings while it runs; no ROS."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

from progeo_edge.calibration import Calibration
from progeo_edge.config import Config, EncoderConfig
from progeo_edge.encoders import Encoder, load_encoder
from progeo_edge.errors import ConfigError
from progeo_edge.geometry import Cameras
from progeo_edge.map_store import MapStore
from progeo_edge.types import Descriptor, Frame, Image, Update
from progeo_ros.assembled import ONE_CAMERA
from progeo_ros.config import NodeConfig
from progeo_ros.events import Outcome, Whereabouts
from progeo_ros.map_in_use import MapInUse, user_path
from progeo_ros.outcomes import Origin, outcome_of
from progeo_ros.running_detector import Learned, RunningDetector


class PlaceRecogniser:
    """What every node and the replay do with images. Its methods may be called from any thread.

    The detector is made with the first image, when the camera is known. A change of the camera starts a new session.

    Attributes:
        encoder: Image -> descriptor.
        node_config: Settings of the node.
    """

    def __init__(self, encoder: Encoder, map_in_use: MapInUse, node_config: NodeConfig, config: Config) -> None:
        """Take over an encoder and a map of its model; use `open` to open them."""
        self.encoder = encoder
        self.node_config = node_config
        self._lock = threading.RLock()
        self._running = self._detector_of(map_in_use, _for_node(config, node_config), resume=node_config.map.resume)

    @classmethod
    def open(
        cls,
        node_config: NodeConfig,
        detector_config: Config,
        camera: Cameras | None = None,
        *,
        encoder: Encoder | None = None,
    ) -> PlaceRecogniser:
        """Open encoder and map. After an error nothing stays open.

        Args:
            node_config: Model, map and session.
            detector_config: Settings of the detector.
            camera: When it is known already; the detector is then made at once.
            encoder: Instead of the one of `model.path`; it is closed by `close`, or when this fails.

        Raises:
            ModelError: the model cannot be used.
            MapError: the map cannot be used, or is of another model.
        """
        encoder = encoder or open_encoder(node_config, detector_config.encoder)
        try:
            dtype = detector_config.store.descriptor_dtype
            map_in_use = MapInUse.of_settings(node_config.map, encoder.spec, descriptor_dtype=dtype)
        except BaseException:
            encoder.close()
            raise
        recogniser = cls(encoder, map_in_use, node_config, detector_config)
        try:
            if camera is not None:
                recogniser._running.at(camera, 0)
        except BaseException:
            recogniser.close()
            raise
        return recogniser

    def close(self) -> None:
        """Close detector, map and encoder (which frees the GPU). Every keyframe that was reported is in the map."""
        with self._lock:
            try:
                self._running.close()
            finally:
                self.encoder.close()

    # -- what the map is ---------------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """Settings of the detector in force."""
        return self._running.config

    @property
    def map_path(self) -> Path | None:
        """File of the map in use; None for a map in memory."""
        return self._map.store.path

    @property
    def read_only(self) -> bool:
        """Whether images are only relocalised."""
        return self._map.store.read_only

    @property
    def num_keyframes(self) -> int:
        """Keyframes in the map in use."""
        return len(self._map.infos)

    @property
    def session(self) -> str:
        """Name of the session being written; "" before the first image and with a read-only map."""
        with self._lock:
            return self._running.session

    def index_report(self) -> dict[str, object]:
        """As `LoopDetector.index_report`; empty before the first image. Takes milliseconds: not for every image."""
        with self._lock:
            return self._running.index_report()

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names of the cameras in the map; one where there is no rig."""
        return self.node_config.input.cameras or (ONE_CAMERA,)

    def learned(self, camera: str = "") -> Learned | None:
        """What the map has learned about telling its places apart; None before the first image and until it is enough.

        Raises:
            CalibrationError: what the map holds cannot be read.
        """
        with self._lock:
            return self._running.learned(self._camera_called(camera))

    # -- images ------------------------------------------------------------------------------------------------------

    def process(
        self,
        frame: Frame,
        camera: Cameras | None,
        *,
        camera_frame: str = "",
        base_frame: str | None = None,
        odom_frame: str | None = None,
        generation: int = 0,
        arrival_ns: int | None = None,
    ) -> Outcome:
        """Detect loops; in a read-only map relocalise. When this returns, the keyframe survives the death of the node.

        Args:
            frame: The image.
            camera: Its camera; None while it is unknown, which gives closures without pose.
            camera_frame: frame_id of the image.
            base_frame: Frame that poses are of; None for the one of the settings.
            odom_frame: Frame of the odometry; None for the one of the settings.
            generation: A new session starts when it changes (see `Pending`).
            arrival_ns: When the image arrived, by `time.monotonic_ns`; None for now.

        Raises:
            InputError: image, pose or camera that cannot be used; nothing was stored.
            MapError: the map cannot be written; everything acknowledged before is kept.
        """
        where = self._origin(camera_frame, base_frame, odom_frame, arrival_ns)
        with self._lock:
            detector = self._running.at(camera, generation)
            update = detector.relocalize(frame) if self._map.store.read_only else detector.process(frame)
            if update.keyframe is not None:
                self._map.learn(update.keyframe, update.status)
            return self._outcome(frame, update, where)

    def relocalize(
        self,
        frame: Frame,
        camera: Cameras | None,
        *,
        anew: bool,
        camera_frame: str = "",
        base_frame: str | None = None,
        odom_frame: str | None = None,
        generation: int = 0,
        arrival_ns: int | None = None,
    ) -> Whereabouts:
        """Where in the map is the robot, the recent past aside? Nothing is stored.

        The image votes together with those before it, unless it is the first of a question (`anew`). The other
        arguments and the errors are as in `process`.
        """
        where = self._origin(camera_frame, base_frame, odom_frame, arrival_ns)
        with self._lock:
            found = self._running.relocaliser(camera, generation, anew=anew).add(frame)
            update = Update(None, (), () if found.match is None else (found.match,), found.status)
            stamp_ns = frame.stamp_ns if found.query_stamp_ns is None else found.query_stamp_ns
            return Whereabouts(found, self._outcome(replace(frame, stamp_ns=stamp_ns), update, where))

    def query(self, image: Image, *, stamp_ns: int = 0, camera_frame: str = "", camera: str = "") -> Outcome:
        """Where has this image been seen? Nothing is stored, and no earlier image plays a part.

        Raises:
            InputError: the image cannot be used.
            ConfigError: there is no camera of this name.
        """
        name = self._camera_called(camera)
        frame, where = Frame(stamp_ns, image, camera=name), self._origin(camera_frame, None, None, None)
        with self._lock:
            return self._outcome(frame, self._running.ask(frame), where)

    def calibrate(self, camera: str = "") -> Calibration:
        """Learn now, from everything seen so far, how well places are told apart; in force from the next image on.

        Args:
            camera: Name of a rig's camera; empty for the first one.

        Returns:
            For the size that the map has now.

        Raises:
            CalibrationError: too little was seen.
            ConfigError: calibration is off, or there is no such camera.
        """
        with self._lock:
            return self._running.calibrate(self._camera_called(camera))

    def encode(self, image: Image) -> Descriptor:
        """(D,) descriptor of an image, for consumers with images of their own. Waits for the image at work."""
        with self._lock:
            return cast(Descriptor, self.encoder.encode([image])[0])

    # -- the map and its sessions ------------------------------------------------------------------------------------

    def save_map(self, path: str, *, overwrite: bool = False) -> int:
        """Write a copy of the map in use, whole or not at all.

        Returns:
            Number of keyframes.

        Raises:
            MapError: the file exists and `overwrite` is false, or it cannot be written.
        """
        with self._lock:
            self._map.copy_to(user_path(path), overwrite=overwrite)
            return self.num_keyframes

    def load_map(self, path: str, *, read_only: bool = False) -> int:
        """Change to another map of the same model, and start a session in it. The map in use is then closed.

        Returns:
            Number of keyframes.

        Raises:
            MapError: it cannot be used; the map in use stays in use.
        """
        with self._lock:
            self._change_map(MapStore.open(user_path(path), spec=self.encoder.spec, read_only=read_only))
            return self.num_keyframes

    def merge_map(self, path: str) -> int:
        """Add the sessions of another map of the same model to the map in use, whose keyframes keep their ids.

        Returns:
            Number of keyframes afterwards.

        Raises:
            MapError: it cannot be read, is of another model, or is there already; the map in use is unchanged.
        """
        with self._lock:
            self._map.append(user_path(path))
            self._running.reload()
            return self.num_keyframes

    def start_session(self) -> str:
        """Let the keyframes from now on belong to a new session, as after the robot was carried elsewhere.

        Returns:
            Its name; that of the session which the first image will start, before there was one.

        Raises:
            MapError: the map is read-only or cannot be written.
        """
        with self._lock:
            self._map.refuse_read_only("start a session")
            return self._running.begin_session()

    def clear(self) -> Path | None:
        """Go on with a new, empty map beside the one in use, which stays on the disk as it is.

        Returns:
            The new file; None for a map in memory.

        Raises:
            MapError: the map in use is read-only, or the new one cannot be written.
        """
        with self._lock:
            self._map.refuse_read_only("clear it")
            path = self._map.path_beside()
            dtype = self.config.store.descriptor_dtype
            self._change_map(MapStore.create(path, self.encoder.spec, descriptor_dtype=dtype))
            return path

    def reconfigure(self, detector_config: Config) -> None:
        """Use other settings from the next image on, in the same session.

        Raises:
            MapError: the map cannot be read; the old settings stay in force.
        """
        with self._lock:
            self._running.reload(_for_node(detector_config, self.node_config))

    def _camera_called(self, name: str) -> str:
        if name and name not in self.camera_names:
            raise ConfigError(f"there is no camera {name!r}; input.cameras has {', '.join(self.camera_names)}")
        return name or self.camera_names[0]

    @property
    def _map(self) -> MapInUse:
        return self._running.map

    def _detector_of(
        self, map_in_use: MapInUse, config: Config, *, resume: bool, camera: Cameras | None = None
    ) -> RunningDetector:
        session = self.node_config.map.session
        return RunningDetector(self.encoder, map_in_use, config, session=session, resume=resume, camera=camera)

    def _change_map(self, store: MapStore) -> None:
        """Use another map, with a session when there was one; on failure the old one stays in use."""
        old = self._running
        new = self._detector_of(MapInUse(store), old.config, resume=False, camera=old.camera)
        try:
            if old.has_begun:
                new.at(old.camera, old.generation)
        except BaseException:
            new.close()
            raise
        self._running = new
        old.close()

    # -- outcomes ----------------------------------------------------------------------------------------------------

    def _outcome(self, frame: Frame, update: Update, where: Origin) -> Outcome:
        floor = self.config.gate.min_similarity
        model_id = self.encoder.spec.fingerprint
        return outcome_of(frame, update, where, self._map, session=self.session, model_id=model_id, floor=floor)

    def _origin(
        self, camera_frame: str, base_frame: str | None, odom_frame: str | None, arrival_ns: int | None
    ) -> Origin:
        frames = self.node_config.frames
        arrival_ns = arrival_ns or time.monotonic_ns()
        return Origin(camera_frame, base_frame or frames.base, odom_frame or frames.odom, arrival_ns)


def open_encoder(config: NodeConfig, cpu: EncoderConfig) -> Encoder:
    """The encoder of the settings.

    Args:
        config: Which model, by which backend.
        cpu: How it uses the CPU.

    Raises:
        ModelError: it cannot be used.
    """
    model = config.model
    path = model.path if model.path == "vlad" else user_path(model.path)
    precision = None if model.precision == "auto" else model.precision
    return load_encoder(path, backend=model.backend, precision=precision, threads=cpu.threads, spin=cpu.spin)


def _for_node(config: Config, node_config: NodeConfig) -> Config:
    """When the SLAM system says which images are keyframes, every one of them is kept."""
    if not node_config.input.external_keyframes:
        return config
    return config.model_copy(update={"keyframe": config.keyframe.model_copy(update={"every_frame": True})})
