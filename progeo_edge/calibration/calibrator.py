"""Learns while the robot drives: what impostors score, what the same place scores, and what the gate must be."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from progeo_edge.calibration.calibration import Calibration
from progeo_edge.calibration.impostors import ImpostorMaximum, OdometryRule, Ranked, best_elsewhere
from progeo_edge.calibration.observations import CalibrationKey, Observations
from progeo_edge.config import CalibrationConfig
from progeo_edge.errors import CalibrationError
from progeo_edge.geometry import FloatArray, rotation_angle
from progeo_edge.map_store import MapStore
from progeo_edge.motion import PlaceGraph
from progeo_edge.types import Candidate, Keyframe, LoopClosure, Transform

logger = logging.getLogger(__name__)

SAVED_EVERY = 50
"""Keyframes between two writes of the observations; a killed run forgets no more than so many."""
PLACE_STEPS = 3
"""Keyframes along the place graph that may still show the place of a candidate."""
HINT_INLIERS = 15
"""A candidate with so many inliers may be the same place although it was refused: it is no impostor."""
NEIGHBOUR_M = (0.2, 3.0)
NEIGHBOUR_DEG = 30.0
NEIGHBOUR_S = (0.5, 3.0)
CALIBRATED_MOTION = ("hmm", "sequence")
"""Methods whose score is a number worth extrapolating; a count of keyframes is not."""
_NEIGHBOURS_KEPT = 6


@dataclass(frozen=True, slots=True)
class Gate:
    """What a candidate must reach to be believed on similarity alone, at the promised rate.

    Attributes:
        min_similarity: Cosine.
        min_motion_score: Motion score; None when none is calibrated.
    """

    min_similarity: float
    min_motion_score: float | None

    def passes(self, candidate: Candidate) -> bool:
        """Whether the cosine or the motion score is high enough."""
        if candidate.similarity >= self.min_similarity:
            return True
        score = candidate.motion_score
        return self.min_motion_score is not None and score is not None and score >= self.min_motion_score


@dataclass(frozen=True, slots=True)
class MapSizes:
    """Keyframes that can be found, and those of them that are of the current session."""

    searched: int
    of_session: int


class Calibrator:
    """Calibrations of one map, one per camera, learned online and stored in it.

    Args:
        map_store: Where calibrations and observations are kept; a read-only map is only read.
        config: Settings.
        graph: Which keyframes see one place.
        drift: (6, 6) covariance of odometry from a reference of the current session to a pose; None when unknown.
        positions: (3,) positions by odometry of the current session's keyframes so far.
    """

    def __init__(
        self,
        map_store: MapStore,
        config: CalibrationConfig,
        graph: PlaceGraph,
        drift: Callable[[int, Transform], FloatArray | None],
        positions: Mapping[int, FloatArray],
    ) -> None:
        self._map_store = map_store
        self._config = config
        self._graph = graph
        self._odometry_rule = OdometryRule(config.impostor_distance_m, drift)
        self._motion: dict[str, str] = {}
        self._observations: dict[str, Observations] = {}
        self._calibrations: dict[str, Calibration | None] = {}
        self._next_fit: dict[str, int] = {}
        self._positions = dict(positions)
        self._last: dict[str, deque[Keyframe]] = {}

    # -- what is known -----------------------------------------------------------------------------------------------

    def calibration(self, camera: str) -> Calibration | None:
        """The calibration in force for a camera; None before there is one."""
        if not self._config.enabled:
            return None
        if camera not in self._calibrations:
            self._calibrations[camera] = self._stored(camera)
        return self._calibrations[camera]

    def gate(self, camera: str, num_keyframes: int) -> Gate | None:
        """The gate for a map of so many keyframes; None without a calibration.

        Cosine and motion share the promised rate, since a candidate may pass by either, and so do the cameras of a rig.
        """
        calibration = self.calibration(camera)
        if calibration is None:
            return None
        rate = self._config.max_false_per_hour / max(1, len(self._last))
        if calibration.motion_tail is None or calibration.motion != self._motion.get(camera, ""):
            return Gate(calibration.min_similarity(num_keyframes, rate), None)
        return Gate(
            calibration.min_similarity(num_keyframes, rate / 2.0),
            calibration.min_motion_score(num_keyframes, rate / 2.0),
        )

    def with_probabilities(self, candidates: Sequence[Candidate], camera: str, num_keyframes: int) -> list[Candidate]:
        """The candidates with their probability of being the same place; unchanged without a calibration."""
        calibration = self.calibration(camera)
        if calibration is None:
            return list(candidates)
        similarities = np.array([c.similarity for c in candidates])
        probabilities = calibration.curve.probability(similarities, num_keyframes)
        return [replace(c, probability=float(p)) for c, p in zip(candidates, probabilities, strict=True)]

    # -- learning ----------------------------------------------------------------------------------------------------

    def observe(
        self,
        keyframe: Keyframe,
        ranked: Sequence[tuple[int, float]],
        candidates: Sequence[Candidate],
        closures: Sequence[LoopClosure],
        sizes: MapSizes,
        motion: str = "",
    ) -> None:
        """Learn from one keyframe, when everything about it is decided and stored.

        Args:
            keyframe: The query.
            ranked: References with their cosine, best first; more of them than there are candidates.
            candidates: What became of the candidates.
            closures: The accepted ones.
            sizes: How many keyframes could be found.
            motion: The method that gave the candidates their motion score; "" for none.
        """
        if not self._config.enabled:
            return
        observations = self._observations_of(keyframe.camera)
        self._observe_neighbours(keyframe, observations)
        observations.set_map_size(sizes.searched)
        verified = [closure for closure in closures if closure.verification is not None]
        if verified:
            observations.add_revisit()
        for closure in verified:
            observations.add_verified(closure.similarity)
        if keyframe.T_odom_base is None and not _is_verifying(candidates, observations):
            return
        same_place, is_known = self._place_of(candidates, verified, ranked)
        maximum = self._maximum(keyframe, ranked, same_place, is_known, sizes)
        if maximum is not None:
            observations.add_impostor(maximum)
        if motion in CALIBRATED_MOTION:
            self._follow_motion(keyframe.camera, motion, observations)
            scored = [(c.reference_id, c.motion_score) for c in candidates if c.motion_score is not None]
            scored.sort(key=lambda item: -item[1])
            motion_maximum = self._maximum(keyframe, scored, same_place, is_known, sizes)
            if motion_maximum is not None:
                observations.add_motion_impostor(motion_maximum)
        if keyframe.T_odom_base is not None:
            self._positions[keyframe.id] = keyframe.T_odom_base[:3, 3]
        self._refit_when_due(keyframe.camera, observations)

    def refit(self, camera: str) -> Calibration:
        """Learn from everything observed so far, now, and store it.

        Raises:
            CalibrationError: too little was observed.
        """
        observations = self._observations_of(camera)
        key = CalibrationKey(self._map_store.spec.fingerprint, camera, self._motion.get(camera, ""))
        calibration = observations.fit(key)
        self._calibrations[camera] = calibration
        if not self._map_store.read_only:
            self._map_store.set_document(document_key(camera), calibration.to_dict())
        return calibration

    def save(self) -> None:
        """Keep the observations in the map."""
        for camera, observations in self._observations.items():
            self._map_store.set_blob(_observations_key(camera), observations.to_bytes())

    # -- the steps ---------------------------------------------------------------------------------------------------

    def _place_of(
        self, candidates: Sequence[Candidate], verified: Sequence[LoopClosure], ranked: Sequence[tuple[int, float]]
    ) -> tuple[set[int], bool]:
        """Keyframes that may show the query's place, and whether that place is verified."""
        centres = {closure.reference_id for closure in verified}
        is_known = bool(centres)
        centres |= {
            c.reference_id
            for c in candidates
            if c.verification is not None and c.verification.num_inliers >= HINT_INLIERS
        }
        if not centres and ranked:
            centres = {ranked[0][0]}
        place: set[int] = set()
        for centre in centres:
            place |= self._graph.within(centre, PLACE_STEPS).keys()
        return place, is_known

    def _maximum(
        self, keyframe: Keyframe, ranked: Ranked, same_place: set[int], is_known: bool, sizes: MapSizes
    ) -> ImpostorMaximum | None:
        """By odometry, else by elimination. With odometry that rules nothing out the query teaches nothing."""
        if keyframe.T_odom_base is not None:
            found = self._odometry_rule.best(ranked, keyframe.T_odom_base, self._positions)
            return None if found is None else ImpostorMaximum(found[1], sizes.of_session, False)
        found = best_elsewhere(ranked, same_place)
        return None if found is None else ImpostorMaximum(found[1], sizes.searched, not is_known)

    def _follow_motion(self, camera: str, motion: str, observations: Observations) -> None:
        """Scores of two methods cannot be compared: a change of method begins anew."""
        calibration = self.calibration(camera)
        if calibration is not None and calibration.motion not in ("", motion) and camera not in self._motion:
            observations.forget_motion()
        self._motion[camera] = motion

    def _observe_neighbours(self, keyframe: Keyframe, observations: Observations) -> None:
        last = self._last.setdefault(keyframe.camera, deque(maxlen=_NEIGHBOURS_KEPT))
        if last and last[-1].session != keyframe.session:
            last.clear()
        if last:
            observations.add_interval((keyframe.stamp_ns - last[-1].stamp_ns) * 1e-9)
        for earlier in last:
            if _are_neighbours(earlier, keyframe):
                observations.add_neighbour(float(earlier.descriptor @ keyframe.descriptor))
        last.append(replace(keyframe, features=None, appearance=None))

    def _refit_when_due(self, camera: str, observations: Observations) -> None:
        if observations.num_queries % SAVED_EVERY == 0 and observations.num_queries:
            self._map_store.set_blob(_observations_key(camera), observations.to_bytes())
        due = self._next_fit.setdefault(camera, self._config.min_queries)
        if observations.num_queries < due:
            return
        self._next_fit[camera] = observations.num_queries + max(
            self._config.min_queries // 10, int(self._config.refit_growth * min(observations.num_queries, 5000))
        )
        try:
            self.refit(camera)
        except CalibrationError as error:
            logger.info("camera %s is not calibrated yet: %s", camera, error)

    def _observations_of(self, camera: str) -> Observations:
        if camera not in self._observations:
            stored = self._map_store.blob(_observations_key(camera))
            self._observations[camera] = Observations() if stored is None else Observations.from_bytes(stored)
        return self._observations[camera]

    def _stored(self, camera: str) -> Calibration | None:
        document = self._map_store.document(document_key(camera))
        if document is None:
            return None
        calibration = Calibration.from_dict(document)
        return calibration if calibration.model == self._map_store.spec.fingerprint else None


def _is_verifying(candidates: Sequence[Candidate], observations: Observations) -> bool:
    """Whether geometry has a say. Without it and without odometry nothing ties the laps of one place together."""
    return observations.num_revisits > 0 or any(c.verification is not None for c in candidates)


def document_key(camera: str) -> str:
    """Name of the map's document that holds the calibration of a camera."""
    return f"calibration:{camera}"


def _observations_key(camera: str) -> str:
    return f"calibration_observations:{camera}"


def _are_neighbours(earlier: Keyframe, later: Keyframe) -> bool:
    """Close enough in space, or without odometry in time, to show one place, and not the same picture twice."""
    if earlier.T_odom_base is None or later.T_odom_base is None:
        return NEIGHBOUR_S[0] <= (later.stamp_ns - earlier.stamp_ns) * 1e-9 <= NEIGHBOUR_S[1]
    distance_m = float(np.linalg.norm(later.T_odom_base[:3, 3] - earlier.T_odom_base[:3, 3]))
    turned_deg = np.degrees(rotation_angle(earlier.T_odom_base[:3, :3].T @ later.T_odom_base[:3, :3]))
    return NEIGHBOUR_M[0] <= distance_m <= NEIGHBOUR_M[1] and bool(turned_deg <= NEIGHBOUR_DEG)
