"""Views of a robot that has just woken up, their votes for places, and which votes mean one place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from progeo_edge.config import Config
from progeo_edge.geometry import FloatArray, invert, make_transform, rotation_angle
from progeo_edge.map_store import MapStore
from progeo_edge.relocalisation.place_poses import PlacePoses, Relation
from progeo_edge.types import Candidate, PoseKind, Transform

UNKNOWN_ROTATION_DEG = 45.0
"""How far two views of one place may be turned against each other when the geometry gives no rotation."""
SIGMAS = 3.0
POINTS_PER_RAY = 5


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A frame that was looked up.

    Attributes:
        index: Counted since power-on.
        stamp_ns: Time of the image.
        T_odom_base: By the odometry of the present session, or None.
        accepted: Its verified candidates.
        refused: Its candidates whose verification failed, without that.
    """

    index: int
    stamp_ns: int
    T_odom_base: Transform | None
    accepted: tuple[Candidate, ...]
    refused: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Vote:
    """One verified candidate of one view."""

    view: View
    candidate: Candidate

    @property
    def num_inliers(self) -> int:
        """0 when the profile does not verify."""
        return 0 if self.candidate.verification is None else self.candidate.verification.num_inliers

    @property
    def pose_kind(self) -> PoseKind:
        """NONE when the profile does not verify."""
        return PoseKind.NONE if self.candidate.verification is None else self.candidate.verification.pose_kind

    @property
    def T_reference_base(self) -> Transform:
        """Pose of the base in the reference's base, as far as it is known: without metres at the same spot."""
        verification = self.candidate.verification
        if verification is None or verification.T_reference_query is None:
            return np.eye(4)
        T = verification.T_reference_query
        return T if self.pose_kind is PoseKind.METRIC else make_transform(T[:3, :3], np.zeros(3))

    def positions(self, radius_m: float) -> FloatArray:
        """(K, 3) places in the reference's base frame where the base may be.

        One point, or for UP_TO_SCALE points on the ray that leaves the reference, up to `radius_m`.
        """
        verification = self.candidate.verification
        is_ray = self.pose_kind is PoseKind.UP_TO_SCALE
        if not is_ray or verification is None or verification.T_reference_query is None:
            return self.T_reference_base[None, :3, 3]
        return np.linspace(0.0, radius_m, POINTS_PER_RAY)[:, None] * verification.T_reference_query[:3, 3]


class Agreement:
    """Says which votes mean one place, by the relations between the references of a map."""

    def __init__(self, map_store: MapStore, config: Config) -> None:
        """Args: map_store: the known map. config: of the detector that looks frames up."""
        self._map_store = map_store
        self._config = config
        self._places = PlacePoses(map_store.infos(), map_store.closures())

    def __call__(self, a: Vote, b: Vote) -> bool:
        """Whether both votes mean one place.

        With odometry in both sessions the two poses are compared rigidly, within `relocalisation.agreement_*`, the
        drift of the odometry on both ways, and what the verifications leave open. Without, the references must be
        neighbours in the place graph, as in the sequence check.
        """
        relation = self._relation(a.candidate.reference_id, b.candidate.reference_id)
        if relation is None:
            return False
        T_a_b = motion(a.view, b.view)
        if T_a_b is None or relation.T_a_b is None:
            return relation.num_steps <= self._steps_between(a.view, b.view)
        return self._poses_agree(a, b, T_a_b, relation.T_a_b, relation.path_m)

    def _poses_agree(self, a: Vote, b: Vote, T_a_b: Transform, T_ref_a_ref_b: Transform, path_m: float) -> bool:
        odometry, settings = self._config.odometry, self._config.relocalisation
        way_m = path_m + float(np.linalg.norm(T_a_b[:3, 3]))
        reach_m = settings.agreement_m + SIGMAS * odometry.drift_m_per_m * way_m + self._slack_m(a) + self._slack_m(b)
        reach_deg = settings.agreement_deg + SIGMAS * odometry.drift_deg_per_m * way_m
        reach_deg += UNKNOWN_ROTATION_DEG * sum(vote.pose_kind is PoseKind.NONE for vote in (a, b))
        T_driven, T_seen = a.T_reference_base @ T_a_b, T_ref_a_ref_b @ b.T_reference_base
        if np.degrees(rotation_angle(T_driven[:3, :3].T @ T_seen[:3, :3])) > reach_deg:
            return False
        radius_m = self._config.verification.prior_radius_m
        driven = a.positions(radius_m) + a.T_reference_base[:3, :3] @ T_a_b[:3, 3]
        seen = b.positions(radius_m) @ T_ref_a_ref_b[:3, :3].T + T_ref_a_ref_b[:3, 3]
        gaps_m = np.linalg.norm(driven[:, None] - seen[None], axis=2)
        return float(gaps_m.min()) <= reach_m

    def _slack_m(self, vote: Vote) -> float:
        """What the verification leaves open of the position: without parallax as much as far walls allow."""
        shares = {PoseKind.NONE: 1.0, PoseKind.ROTATION_ONLY: 0.5}
        return shares.get(vote.pose_kind, 0.0) * self._config.verification.prior_radius_m

    def _steps_between(self, a: View, b: View) -> int:
        return self._config.gate.nms_radius_keyframes + self._config.motion.max_step * (1 + abs(a.index - b.index))

    def _relation(self, a: int, b: int) -> Relation | None:
        if a not in self._places or b not in self._places:  # the map grew
            self._places = PlacePoses(self._map_store.infos(), self._map_store.closures())
        return self._places.relation(a, b)


def motion(a: View, b: View) -> Transform | None:
    """T_a_b between the base at both views; None when it is not known."""
    if a.index == b.index:
        return np.eye(4)
    if a.T_odom_base is None or b.T_odom_base is None:
        return None
    return invert(a.T_odom_base) @ b.T_odom_base
