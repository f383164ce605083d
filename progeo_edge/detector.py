"""LoopDetector: one frame in, one Update out. The algorithm of the runtime, readable from top to bottom."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.calibration import Calibration, Calibrator, Gate, MapSizes
from progeo_edge.candidates import CandidateSearch
from progeo_edge.config import Config, config_to_yaml
from progeo_edge.consistency import Agreed, ClosureAgreement, DrivenPath, Drives, FrozenCamera, closure_of
from progeo_edge.encoders import Encoder
from progeo_edge.errors import InputError, MapError
from progeo_edge.frame_check import check_frame
from progeo_edge.geometry import Camera, Cameras, camera_named
from progeo_edge.judge import Judge, Query
from progeo_edge.keyframe_gate import KeyframeGate
from progeo_edge.map_store import MapStore
from progeo_edge.moments import Moments
from progeo_edge.outcome import overall_status
from progeo_edge.reranking import describe_appearance
from progeo_edge.resuming import session_to_resume
from progeo_edge.static_masks import StaticMasks
from progeo_edge.timing import StageTimer
from progeo_edge.types import (
    Candidate,
    Frame,
    Image,
    Keyframe,
    LocalFeatures,
    LoopClosure,
    Status,
    Update,
)
from progeo_edge.verification import FeatureExtractor

RELOCALISATION_QUERY_ID = -1


class LoopDetector:
    """Finds the places a robot has been to before.

    Args:
        encoder: Image -> descriptor; its fingerprint must be the map's.
        map_store: Where keyframes and closures are kept. A read-only map can only be asked by `relocalize`.
        camera: Intrinsics and mounting; of a rig a mapping from the names that `Frame.camera` gives. None gives
            closures without a pose.
        config: Settings; None for the conservative defaults.
        session: Name of this run in the map.
        resume: Continue the last session of the map instead of starting a new one.
        session_id: Continue this session of the map, which need not be the last one.

    Raises:
        MapError: the map belongs to another model, or there is no such session to resume, or its rig is another one.
    """

    def __init__(
        self,
        encoder: Encoder,
        map_store: MapStore,
        camera: Cameras | None = None,
        config: Config | None = None,
        *,
        session: str = "run",
        resume: bool = False,
        session_id: int | None = None,
    ) -> None:
        if map_store.spec.fingerprint != encoder.spec.fingerprint:
            raise MapError(
                f"the map was made by model {map_store.spec.name} ({map_store.spec.fingerprint[:12]}), the encoder is "
                f"{encoder.spec.name} ({encoder.spec.fingerprint[:12]}); descriptors of two models cannot be compared: "
                "use the encoder that made the map, or start a new map"
            )
        self.config = config or Config()
        self.encoder = encoder
        self.map_store = map_store
        self._cameras = camera
        self._lock = threading.Lock()
        self._extractor = FeatureExtractor(self.config.verification)
        self._static_masks = StaticMasks(map_store, self.config.verification)
        self._moments = Moments(map_store.infos())
        self._gates: dict[str, KeyframeGate] = {}
        self._watches: dict[str, FrozenCamera] = {}
        resume = resume or session_id is not None
        self._session = self._resumed_session(session_id) if resume else self._begin_session(session)
        drives = Drives(self.config.odometry, map_store.infos())
        self._path = DrivenPath(self.config.odometry) if self._session is None else drives.of(self._session)
        if resume:
            self._recall_last_keyframes()
        self._search = CandidateSearch(
            map_store, self.config, self._path, current_session=self._session, moments=self._moments
        )
        self._judge = Judge(
            map_store,
            self.config,
            self._path,
            self._search.index,
            current_session=self._session,
            moments=self._moments,
            static_masks=self._static_masks,
        )
        self._agreement = ClosureAgreement(map_store, self.config, drives, current_session=self._session)
        self.calibrator = Calibrator(
            map_store, self.config.calibration, self._judge.graph, self._path.covariance, self._positions_so_far()
        )

    @property
    def session(self) -> int | None:
        """Id of the session that keyframes are added to; None with a read-only map."""
        return self._session

    @property
    def num_searchable(self) -> int:
        """Keyframes that can be found now; the recent past is not among them."""
        return len(self._search)

    # -- the two questions ---------------------------------------------------------------------------------------

    def process(self, frame: Frame) -> Update:
        """Have I been here before? Stores the frame when it is a keyframe, in one transaction with its closures.

        Raises:
            InputError: image or pose of a wrong shape, type or value; nothing was stored.
            MapError: the map cannot be written; everything acknowledged before is kept.
        """
        if self._session is None:
            raise MapError("the map is open read-only; open it for writing to process frames, or use relocalize()")
        with self._lock:
            timer = StageTimer()
            with timer.stage("gate"):
                check_frame(frame)
                camera_named(self._cameras, frame.camera)
                if self._watch_of(frame.camera).is_frozen(frame) and self._has_contrast(frame.image):
                    return _no_keyframe(Status.FROZEN, timer)
                # What one camera of a rig found worth keeping, the others keep too: moments stay whole.
                joins = self._moments.would_join(self._session, frame.stamp_ns, frame.camera)
                gate = self._gate_of(frame.camera)
                if not joins and not gate.has_moved(frame):
                    return _no_keyframe(Status.NOT_A_KEYFRAME, timer)
            features = self._features(frame, timer)
            if features is None:
                return _no_keyframe(Status.UNRECOGNISABLE, timer)
            keyframe = self._keyframe(frame, features, timer)
            if not joins and not gate.view_has_changed(frame, keyframe.descriptor):
                return _no_keyframe(Status.NOT_A_KEYFRAME, timer)

            candidates = self._search.propose(keyframe, timer)
            num_searched = len(self._search)
            candidates = self.calibrator.with_probabilities(candidates, frame.camera, num_searched)
            query = Query(keyframe, features, self._camera_for(frame), self._mask(frame))
            needed = self.calibrator.gate(frame.camera, num_searched)
            candidates = self._judge.decide(query, candidates, timer, needed)
            with timer.stage("consistency"):
                agreed = self._agreement.judge(keyframe, candidates)
            closures = _closures(keyframe.id, agreed.candidates)
            status = overall_status(agreed.candidates)

            with timer.stage("store"):
                self._store(frame, keyframe, status, agreed, closures)
            with timer.stage("calibrate"):
                self._learn(keyframe, agreed.candidates, (*agreed.released, *closures), num_searched)
            return Update(
                keyframe,
                tuple(agreed.candidates),
                closures,
                status,
                timer.timings_ms(),
                min_similarity=self._min_similarity(needed),
                min_motion_score=None if needed is None else needed.min_motion_score,
                released=agreed.released,
                doubtful=agreed.doubtful,
            )

    def relocalize(self, frame: Frame, *, include_recent: bool = True) -> Update:
        """Where in the known map am I? No prior, no memory of earlier frames, nothing is stored.

        Args:
            frame: The image.
            include_recent: Look among the keyframes within the exclusion window too; while mapping they would always
                be the answer.

        Raises:
            InputError: image of a wrong shape, type or value.
        """
        with self._lock:
            timer = StageTimer()
            check_frame(frame)
            features = self._features(frame, timer)
            if features is None:
                return _no_keyframe(Status.UNRECOGNISABLE, timer)
            keyframe = replace(self._keyframe(frame, features, timer), id=RELOCALISATION_QUERY_ID, T_odom_base=None)
            candidates = self._search.propose(keyframe, timer, relocalising=True, include_recent=include_recent)
            candidates = self.calibrator.with_probabilities(candidates, frame.camera, len(self._search))
            query = Query(keyframe, features, self._camera_for(frame), self._mask(frame))
            candidates = self._judge.decide_alone(query, candidates, timer)
            closures = _closures(RELOCALISATION_QUERY_ID, candidates)
            return Update(
                None,
                tuple(candidates),
                closures,
                overall_status(candidates),
                timer.timings_ms(),
                min_similarity=self.config.gate.min_similarity,
            )

    def calibration(self, camera: str = "cam0") -> Calibration | None:
        """What the map has learned about telling its places apart; None before there is enough to learn from."""
        return self.calibrator.calibration(camera)

    def close(self) -> None:
        """Keep beside and in the map what would have to be learned again. The map itself is complete at any time."""
        if self.map_store.read_only:
            return
        self._search.save_cache()
        self.calibrator.save()
        self._static_masks.save()

    def index_report(self) -> dict[str, object]:
        """Kind and size of the index, its recall against exact search, and what an HNSW graph was seen to miss."""
        index = self._search.index
        check = index.self_check()
        return {
            "kind": index.kind,
            "size": len(index),
            "recall_at_1": check.recall_at_1,
            "queries": check.num_queries,
            "watched_queries": index.watch.num_checks,
            "watched_misses": index.watch.num_misses,
        }

    # -- the steps ---------------------------------------------------------------------------------------------------

    def _features(self, frame: Frame, timer: StageTimer) -> LocalFeatures | None:
        """Local features, or None for an image that cannot be told from others (blank, covered, dark)."""
        with timer.stage("features"):
            if not self._has_contrast(frame.image):
                return None
            features = self._extractor.extract(
                frame.image,
                camera=self._camera_for(frame),
                depth_m=frame.depth_m,
                right=frame.right,
                mask=self._mask(frame),
            )
            return features if len(features) >= self.config.recognisable.min_keypoints else None

    def _has_contrast(self, image: Image) -> bool:
        means, deviations = cv2.meanStdDev(image)  # of each colour; NumPy takes ten times as long for all of them
        variance = float(np.mean(deviations**2 + means**2) - np.mean(means) ** 2)
        return max(variance, 0.0) >= self.config.recognisable.min_contrast**2

    def _keyframe(self, frame: Frame, features: LocalFeatures, timer: StageTimer) -> Keyframe:
        with timer.stage("encode"):
            descriptor = self.encoder.encode([frame.image])[0]
        appearance = None
        if self.config.search.rerank:
            with timer.stage("appearance"):
                appearance = describe_appearance(frame.image)
        return Keyframe(
            id=self.map_store.next_keyframe_id(),
            session=-1 if self._session is None else self._session,
            stamp_ns=frame.stamp_ns,
            descriptor=descriptor,
            features=features,
            T_odom_base=frame.T_odom_base,
            name=frame.name,
            camera=frame.camera,
            appearance=appearance,
        )

    def _store(
        self,
        frame: Frame,
        keyframe: Keyframe,
        status: Status,
        agreed: Agreed,
        closures: tuple[LoopClosure, ...],
    ) -> None:
        kept = keyframe if self.config.store.features else replace(keyframe, features=None)
        thumbnail = (
            _thumbnail(frame.image, self.config.store.thumbnail_width_px) if self.config.store.thumbnails else None
        )
        stored = (*agreed.released, *closures)
        self.map_store.add_keyframe(kept, status=status, thumbnail=thumbnail, closures=stored)
        # Only what the map has acknowledged may influence the next frame.
        self._gate_of(frame.camera).keep(frame, keyframe.descriptor)
        self._moments.add(keyframe)
        self._path.add(keyframe.id, keyframe.T_odom_base)
        self._search.remember(keyframe)
        self._judge.remember(keyframe, agreed.candidates, stored)
        self._agreement.remember(keyframe, agreed)
        self._static_masks.add(frame.camera, frame.image)

    def _learn(
        self, keyframe: Keyframe, candidates: Sequence[Candidate], closures: tuple[LoopClosure, ...], num_searched: int
    ) -> None:
        """After the keyframe is acknowledged: what is learned of it decides about the next ones only."""
        sizes = MapSizes(num_searched, self._search.num_of_session)
        motion = self._judge.motion_method(keyframe.camera)
        self.calibrator.observe(keyframe, self._search.ranked, candidates, closures, sizes, motion)

    def _min_similarity(self, gate: Gate | None) -> float:
        floor = self.config.gate.min_similarity
        return floor if gate is None else max(floor, gate.min_similarity)

    def _gate_of(self, camera: str) -> KeyframeGate:
        """Each camera has a gate of its own, so that none is starved by what another one keeps."""
        return self._gates.setdefault(camera, KeyframeGate(self.config.keyframe))

    def _watch_of(self, camera: str) -> FrozenCamera:
        watch = self._watches.get(camera)
        if watch is None:
            watch = self._watches[camera] = FrozenCamera(self.config.recognisable, self.config.keyframe)
        return watch

    def _camera_for(self, frame: Frame) -> Camera | None:
        camera = camera_named(self._cameras, frame.camera)
        if camera is None:
            return None
        height_px, width_px = frame.image.shape[:2]
        if (camera.width_px, camera.height_px) == (width_px, height_px):
            return camera
        if abs(camera.width_px * height_px - camera.height_px * width_px) > 0.01 * camera.width_px * height_px:
            raise InputError(
                f"image of {width_px}x{height_px} px cannot come from the camera calibrated at {camera.width_px}x"
                f"{camera.height_px} px: the aspect differs; give the calibration of this camera"
            )
        return camera.scaled_to(width_px, height_px)

    # -- session --------------------------------------------------------------------------------------------------

    def _begin_session(self, name: str) -> int | None:
        if self.map_store.read_only:
            return None
        return self.map_store.begin_session(name, camera=self._cameras, config_yaml=config_to_yaml(self.config))

    def _resumed_session(self, session_id: int | None) -> int | None:
        return None if self.map_store.read_only else session_to_resume(self.map_store, session_id, self._cameras)

    def _positions_so_far(self) -> dict[int, NDArray[np.float64]]:
        """Positions by odometry of the keyframes of a resumed session."""
        infos = [info for info in self.map_store.infos() if info.session == self._session]
        return {info.id: info.T_odom_base[:3, 3] for info in infos if info.T_odom_base is not None}

    def _recall_last_keyframes(self) -> None:
        """A resumed session compares each camera's first frame with its last keyframe, as if it had never stopped."""
        last = {info.camera: info.id for info in self.map_store.infos() if info.session == self._session}
        for camera, keyframe_id in last.items():
            keyframe = self.map_store.keyframe(keyframe_id)
            self._gate_of(camera).keep(keyframe, keyframe.descriptor)

    def _mask(self, frame: Frame) -> NDArray[np.uint8] | None:
        height_px, width_px = frame.image.shape[:2]
        return self._static_masks.mask(frame.camera, (width_px, height_px))


def _thumbnail(image: Image, max_width_px: int) -> Image:
    height_px, width_px = image.shape[:2]
    if width_px <= max_width_px:
        return image
    size_px = (max_width_px, max(1, round(height_px * max_width_px / width_px)))
    return cast(Image, cv2.resize(image, size_px, interpolation=cv2.INTER_AREA))


def _no_keyframe(status: Status, timer: StageTimer) -> Update:
    return Update(None, status=status, timings_ms=timer.timings_ms())


def _closures(query_id: int, candidates: Sequence[Candidate]) -> tuple[LoopClosure, ...]:
    return tuple(closure_of(query_id, c) for c in candidates if c.status is Status.ACCEPTED)
