"""From a short list of candidates to a decision: motion, geometry, odometry, within a budget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from progeo_edge.calibration import Gate
from progeo_edge.config import Config
from progeo_edge.consistency import DrivenPath, OdometryCheck, Prediction, StuckToTheLens
from progeo_edge.geometry import Camera, FloatArray, camera_named
from progeo_edge.index import PlaceIndex
from progeo_edge.map_store import KeyframeInfo, MapStore
from progeo_edge.moments import Moments
from progeo_edge.motion import Motion, PlaceGraph
from progeo_edge.static_masks import StaticMasks
from progeo_edge.timing import StageTimer
from progeo_edge.types import Candidate, Keyframe, LocalFeatures, LoopClosure, Status, Verification
from progeo_edge.verification import Verifier

CACHED_REFERENCES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """What a keyframe brings to its verification.

    Attributes:
        keyframe: The keyframe asked about.
        features: Its local features.
        camera: Its camera at the size of its image; None without calibration.
        static_mask: (H, W) uint8, 0 where pixels never change; None when unknown.
    """

    keyframe: Keyframe
    features: LocalFeatures
    camera: Camera | None
    static_mask: NDArray[np.uint8] | None


class Judge:
    """Decides about candidates, and remembers what the next decisions depend on.

    Args:
        map_store: Features, poses and closures of the references.
        config: Settings.
        path: The way driven in the current session.
        index: Descriptors of what can be a reference.
        current_session: Session that keyframes are added to; None when there is none.
        moments: Of the map's keyframes, shared with others; None reads them from the map.
        static_masks: Of the cameras of the current session; None knows the query's mask only.
    """

    def __init__(
        self,
        map_store: MapStore,
        config: Config,
        path: DrivenPath,
        index: PlaceIndex,
        *,
        current_session: int | None,
        moments: Moments | None = None,
        static_masks: StaticMasks | None = None,
    ) -> None:
        self._map_store = map_store
        self._config = config
        self._path = path
        self._session = current_session
        self._verifier = Verifier(config.verification)
        self._odometry = OdometryCheck(config)
        self._lenses: dict[str, StuckToTheLens] = {}
        self._moments = Moments(map_store.infos()) if moments is None else moments
        self._static_masks = static_masks
        self._index = index
        self._graph = _place_graph(map_store, self._moments)
        self._motions: dict[str, Motion] = {}
        self._cameras = {session.id: session.camera for session in map_store.sessions()}
        self._session_of = {info.id: info.session for info in map_store.infos()}
        self._camera_names = {info.id: info.camera for info in map_store.infos()}
        self._reference_features: OrderedDict[int, LocalFeatures | None] = OrderedDict()

    @property
    def graph(self) -> PlaceGraph:
        """Which keyframes see one place."""
        return self._graph

    def decide(
        self, query: Query, candidates: Sequence[Candidate], timer: StageTimer, gate: Gate | None = None
    ) -> list[Candidate]:
        """Give every candidate its final status, in the given order.

        What odometry puts out of reach is refused before any geometry. Candidates that pass the calibrated gate are
        verified first, then those that the last keyframes agree on. What is left of the budget goes to the others,
        which are believed only with `motion.strong_inliers` inliers.

        Args:
            query: The keyframe asked about.
            candidates: From the search.
            timer: Stages are added.
            gate: The calibrated gate; None without a calibration.
        """
        candidates = [self._refuse_unreachable(query.keyframe, candidate) for candidate in candidates]
        with timer.stage("motion"):
            candidates = self.with_support(query.keyframe, candidates, gate)
            agreed_on = self._agreed_on(query.keyframe.camera, candidates, gate)
        return self._verify_in_order(query, candidates, timer, agreed_on, unsupported=_status_without(gate))

    def with_support(self, keyframe: Keyframe, candidates: Sequence[Candidate], gate: Gate | None) -> list[Candidate]:
        """The candidates, with what comes before the geometry decided: `motion_score` and `supported`."""
        motion = self._motion_of(keyframe.camera)
        scores = motion.scores(keyframe, candidates)
        result = []
        for candidate in candidates:
            if candidate.reference_id in scores:
                candidate = replace(candidate, motion_score=scores[candidate.reference_id])
            passes = gate.passes if gate is not None else lambda c: motion.passes(c.reference_id)
            if _is_open(candidate) and passes(candidate):
                candidate = replace(candidate, supported=True)
            result.append(candidate)
        return result

    def motion_method(self, camera: str) -> str:
        """What `motion_score` is for the keyframes of a camera; "" before the first one."""
        return self._motion_of(camera).method

    def _agreed_on(self, camera: str, candidates: Sequence[Candidate], gate: Gate | None) -> set[int]:
        """References that the last keyframes agree on; beside a gate that only counts before geometry."""
        config = self._config
        if gate is not None and (config.motion.method == "none" or not config.verification.enabled):
            return set()
        motion = self._motion_of(camera)
        return {c.reference_id for c in candidates if _is_open(c) and motion.passes(c.reference_id)}

    def _motion_of(self, camera: str) -> Motion:
        """Each camera of a rig follows the way with its own pictures, along one graph of places."""
        if camera not in self._motions:
            self._motions[camera] = Motion(self._config, self._index, self._graph)
        return self._motions[camera]

    def decide_alone(self, query: Query, candidates: Sequence[Candidate], timer: StageTimer) -> list[Candidate]:
        """As `decide`, without any memory of earlier keyframes (relocalisation)."""
        candidates = [replace(c, supported=_is_open(c)) for c in candidates]
        return self._verify_in_order(query, candidates, timer, set(), unsupported=Status.LOW_SIMILARITY)

    def remember(self, keyframe: Keyframe, candidates: Sequence[Candidate], closures: Sequence[LoopClosure]) -> None:
        """The keyframe is in the map with these closures."""
        self._session_of[keyframe.id] = keyframe.session
        self._camera_names[keyframe.id] = keyframe.camera
        self._lens_of(keyframe.camera).remember(keyframe.features)
        self._moments.add(keyframe)
        _add_to_graph(self._graph, keyframe, self._moments)
        for closure in closures:
            _tie(self._graph, closure)
        self._motion_of(keyframe.camera).remember(keyframe, candidates)

    def _verify_in_order(
        self,
        query: Query,
        candidates: Sequence[Candidate],
        timer: StageTimer,
        agreed_on: set[int],
        *,
        unsupported: Status,
    ) -> list[Candidate]:
        decided = {c.reference_id: c for c in candidates}
        in_order = [c for c in candidates if _is_open(c)]
        in_order.sort(key=lambda c: (not c.supported, c.reference_id not in agreed_on))
        for rank, candidate in enumerate(in_order):
            needs_more = not candidate.supported and candidate.reference_id not in agreed_on
            if needs_more and not self._may_bypass_gate():
                candidate = replace(candidate, status=unsupported)
            elif rank >= self._config.budget.max_verifications:
                candidate = replace(candidate, status=Status.NOT_VERIFIED)
            elif self._is_late(timer):
                candidate = replace(candidate, status=Status.DEADLINE)
            elif not self._config.verification.enabled:
                candidate = replace(candidate, status=Status.ACCEPTED)
            else:
                candidate = self._verify(query, candidate, timer, unsupported if needs_more else None)
            decided[candidate.reference_id] = candidate
        return [decided[c.reference_id] for c in candidates]

    def _verify(self, query: Query, candidate: Candidate, timer: StageTimer, unsupported: Status | None) -> Candidate:
        """Geometry and odometry; `unsupported` is the status of one that only strong geometry can save, else None."""
        with timer.stage("verify"):
            reference = self._features_of(candidate.reference_id)
            if reference is None:
                return replace(candidate, status=Status.FEW_MATCHES, verification=Verification(Status.FEW_MATCHES))
            session = self._session_of[candidate.reference_id]
            camera_name = self._camera_names[candidate.reference_id]
            static_mask = self._mask_of_reference(query, session, camera_name, reference.image_size_px)
            if static_mask is not None:
                reference = without_static_pixels(reference, static_mask)
            reference_camera = _at_size(camera_named(self._cameras.get(session), camera_name), reference.image_size_px)
            verification = self._verifier.verify(query.features, reference, query.camera, reference_camera)
        candidate = replace(candidate, status=verification.status, verification=verification)
        if candidate.status is not Status.ACCEPTED:
            return candidate
        if self._sticks_to_the_lens(query, verification):
            return replace(candidate, status=Status.DEGENERATE)
        if unsupported is not None and verification.num_inliers < self._config.motion.strong_inliers:
            return replace(candidate, status=unsupported)
        with timer.stage("odometry"):
            return self._compare_with_odometry(query, candidate, verification)

    def _refuse_unreachable(self, query: Keyframe, candidate: Candidate) -> Candidate:
        prediction = self._predict(query, candidate.reference_id) if _is_open(candidate) else None
        if prediction is None or self._odometry.is_reachable(prediction):
            return candidate
        return replace(candidate, status=Status.ODOM_INCONSISTENT)

    def _compare_with_odometry(self, query: Query, candidate: Candidate, verification: Verification) -> Candidate:
        prediction = self._predict(query.keyframe, candidate.reference_id)
        if prediction is None:
            return candidate
        cameras = self._cameras.get(self._session_of[candidate.reference_id])
        reference_camera = camera_named(cameras, self._camera_names[candidate.reference_id])
        status, distance = self._odometry.judge(
            verification, prediction, _lever_m(query.camera), _lever_m(reference_camera)
        )
        return replace(candidate, status=status, odom_mahalanobis=distance)

    def _predict(self, query: Keyframe, reference_id: int) -> Prediction | None:
        """What odometry says; None without it, or for a reference of another session."""
        if not self._config.odometry.enabled or query.T_odom_base is None:
            return None
        if self._session_of[reference_id] != self._session:
            return None
        return self._path.predict(reference_id, query.T_odom_base)

    def _sticks_to_the_lens(self, query: Query, verification: Verification) -> bool:
        """Only for keyframes: relocalisation may ask about the very image that the map holds."""
        if query.keyframe.id < 0:
            return False
        return self._lens_of(query.keyframe.camera).explains(verification, query.features.image_size_px)

    def _lens_of(self, camera: str) -> StuckToTheLens:
        return self._lenses.setdefault(camera, StuckToTheLens())

    def _mask_of_reference(
        self, query: Query, session: int, camera: str, size_px: tuple[int, int]
    ) -> NDArray[np.uint8] | None:
        """Static pixels are known of the cameras of this session only."""
        if session != query.keyframe.session:
            return None
        if camera == query.keyframe.camera:
            return query.static_mask
        return None if self._static_masks is None else self._static_masks.mask(camera, size_px)

    def _features_of(self, reference_id: int) -> LocalFeatures | None:
        """Stored features; the places just looked at are likely to be asked for again."""
        if reference_id not in self._reference_features:
            self._reference_features[reference_id] = self._map_store.features(reference_id)
            if len(self._reference_features) > CACHED_REFERENCES:
                self._reference_features.popitem(last=False)
        self._reference_features.move_to_end(reference_id)
        return self._reference_features[reference_id]

    def _may_bypass_gate(self) -> bool:
        return self._config.verification.enabled and self._config.motion.strong_inliers > 0

    def _is_late(self, timer: StageTimer) -> bool:
        deadline_ms = self._config.budget.deadline_ms
        return deadline_ms > 0 and timer.elapsed_ms > deadline_ms


def without_static_pixels(features: LocalFeatures, mask: NDArray[np.uint8]) -> LocalFeatures:
    """Drop keypoints where the mask is 0; unchanged when the mask belongs to another image size."""
    width_px, height_px = features.image_size_px
    if mask.shape != (height_px, width_px) or len(features) == 0:
        return features
    x = np.clip(features.keypoints_px[:, 0].astype(np.intp), 0, width_px - 1)
    y = np.clip(features.keypoints_px[:, 1].astype(np.intp), 0, height_px - 1)
    keep = mask[y, x] > 0
    return replace(
        features,
        keypoints_px=features.keypoints_px[keep],
        sizes_px=features.sizes_px[keep],
        descriptors=features.descriptors[keep],
        points_m=None if features.points_m is None else features.points_m[keep],
    )


def _lever_m(camera: Camera | None) -> FloatArray:
    return np.zeros(3) if camera is None else camera.T_base_camera[:3, 3]


def _status_without(gate: Gate | None) -> Status:
    """Why a candidate is not believed that neither gate nor sequence supports."""
    return Status.FAILED_SEQUENCE if gate is None else Status.LOW_SIMILARITY


def _is_open(candidate: Candidate) -> bool:
    return candidate.status is Status.NOT_VERIFIED


def _at_size(camera: Camera | None, size_px: tuple[int, int]) -> Camera | None:
    if camera is None or (camera.width_px, camera.height_px) == size_px:
        return camera
    return camera.scaled_to(*size_px)


def _place_graph(map_store: MapStore, moments: Moments) -> PlaceGraph:
    graph = PlaceGraph()
    for info in map_store.infos():
        _add_to_graph(graph, info, moments)
    for closure in map_store.closures():
        _tie(graph, closure)
    return graph


def _add_to_graph(graph: PlaceGraph, keyframe: Keyframe | KeyframeInfo, moments: Moments) -> None:
    moment = moments.number(keyframe.id)
    graph.add_keyframe(keyframe.id, keyframe.session, keyframe.T_odom_base, camera=keyframe.camera, moment=moment)


def _tie(graph: PlaceGraph, closure: LoopClosure) -> None:
    T_reference_query = None if closure.verification is None else closure.verification.T_reference_query
    graph.add_closure(closure.query_id, closure.reference_id, T_reference_query)
