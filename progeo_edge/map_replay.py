"""Decide anew about keyframes that are there already: search, calibration, motion and geometry from what a map stores."""

from __future__ import annotations

from collections.abc import Sequence

from progeo_edge.bundle import ModelSpec
from progeo_edge.calibration import Calibration, Calibrator, Gate, MapSizes
from progeo_edge.candidates import CandidateSearch
from progeo_edge.config import Config, config_to_yaml
from progeo_edge.geometry import Camera
from progeo_edge.judge import Judge, Query
from progeo_edge.map_store import MapStore
from progeo_edge.odometry import DrivenPath
from progeo_edge.timing import StageTimer
from progeo_edge.types import Candidate, Keyframe, LocalFeatures, LoopClosure, Status


class ReplayedSession:
    """One session's keyframes, decided about one after the other as `LoopDetector` would, without their images.

    Args:
        spec: The model that made the descriptors.
        config: Settings.
        camera: Camera of the session; None without intrinsics.
        map_store: In-memory map of earlier sessions to go on from; None begins with an empty one.
        verify: Whether candidates are verified; needs stored features. Without, nothing is ever accepted.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: Config,
        camera: Camera | None = None,
        *,
        map_store: MapStore | None = None,
        verify: bool = True,
    ) -> None:
        self.map_store = MapStore.create(None, spec) if map_store is None else map_store
        self._verify = verify
        self._camera = camera
        self.session = self.map_store.begin_session("replay", camera=camera, config_yaml=config_to_yaml(config))
        self._path = DrivenPath(config.odometry)
        self._search = CandidateSearch(self.map_store, config, self._path, current_session=self.session)
        self._judge = Judge(self.map_store, config, self._path, current_session=self.session)
        self.calibrator = Calibrator(
            self.map_store, config.calibration, self._judge.graph, self._path.covariance, positions={}
        )
        self.gate: Gate | None = None
        """The gate that the last keyframe was judged by; None without a calibration."""
        self.num_searched = 0
        """References that the last keyframe could find."""

    @property
    def ranked(self) -> Sequence[tuple[int, float]]:
        """Ids and cosines of the last keyframe's nearest references, best first."""
        return self._search.ranked

    def calibration(self, camera: str) -> Calibration | None:
        """What was learned so far."""
        return self.calibrator.calibration(camera)

    def add(self, keyframe: Keyframe) -> list[Candidate]:
        """Decide about the next keyframe, and remember it; its id and session are given anew."""
        timer = StageTimer()
        keyframe = self._renumbered(keyframe)
        candidates = self._search.propose(keyframe, timer)
        self.num_searched = len(self._search)
        sizes = MapSizes(self.num_searched, self._search.num_of_session)
        candidates = self.calibrator.with_probabilities(candidates, keyframe.camera, sizes.searched)
        self.gate = self.calibrator.gate(keyframe.camera, sizes.searched)
        candidates = self._decided(keyframe, candidates, timer)
        closures = tuple(
            LoopClosure(keyframe.id, c.reference_id, c.similarity, c.probability, c.verification)
            for c in candidates
            if c.status is Status.ACCEPTED
        )
        self.map_store.add_keyframe(keyframe, status=Status.NO_CANDIDATE, closures=closures)
        self._path.add(keyframe.id, keyframe.T_odom_base)
        self._search.remember(keyframe)
        self._judge.remember(keyframe, candidates, closures)
        self.calibrator.observe(keyframe, self._search.ranked, candidates, closures, sizes)
        return candidates

    def _decided(self, keyframe: Keyframe, candidates: list[Candidate], timer: StageTimer) -> list[Candidate]:
        if not self._verify or keyframe.features is None:
            return self._judge.with_support(candidates, self.gate)
        query = Query(keyframe, keyframe.features, self._camera_for(keyframe.features), None)
        return self._judge.decide(query, candidates, timer, self.gate)

    def _renumbered(self, keyframe: Keyframe) -> Keyframe:
        return Keyframe(
            id=self.map_store.next_keyframe_id(),
            session=self.session,
            stamp_ns=keyframe.stamp_ns,
            descriptor=keyframe.descriptor,
            features=keyframe.features,
            T_odom_base=keyframe.T_odom_base,
            name=keyframe.name,
            camera=keyframe.camera,
            appearance=keyframe.appearance,
        )

    def _camera_for(self, features: LocalFeatures) -> Camera | None:
        return None if self._camera is None else self._camera.for_image_size(*features.image_size_px)
