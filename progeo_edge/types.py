"""The values that travel between the modules: frames in, keyframes stored, candidates judged, closures out.

Frozen dataclasses around arrays. "No closure" is `None` or an empty tuple, never a flag beside a dummy pose.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) BGR as OpenCV gives it, or (H, W) grey; uint8."""

Descriptor: TypeAlias = NDArray[np.float32]
"""(D,) float32 with unit L2 norm."""

Transform: TypeAlias = NDArray[np.float64]
"""(4, 4) rigid transform. `T_a_b` maps points from frame b to frame a: p_a = T_a_b @ p_b."""


REVERSE_DEG = 135.0
"""A base turned by more than this against the reference's passes the place the other way round."""


class Status(str, Enum):
    """The first reason for "no", or ACCEPTED. One per keyframe and one per candidate."""

    ACCEPTED = "ACCEPTED"
    NOT_A_KEYFRAME = "NOT_A_KEYFRAME"
    """The robot has hardly moved since the last keyframe: the frame was not stored and not searched for."""
    UNRECOGNISABLE = "UNRECOGNISABLE"
    """Blank, covered or too dark: too little contrast or too few keypoints to be told from other such images."""
    NO_CANDIDATE = "NO_CANDIDATE"
    """Nothing in the map is old enough to be a revisit."""
    LOW_SIMILARITY = "LOW_SIMILARITY"
    SUPPRESSED = "SUPPRESSED"
    """A better candidate of the same place stands within the non-maximum suppression radius."""
    FAILED_SEQUENCE = "FAILED_SEQUENCE"
    """Too few of the last keyframes pointed to the same place."""
    NOT_VERIFIED = "NOT_VERIFIED"
    """The budget of verifications was spent on better candidates."""
    DEADLINE = "DEADLINE"
    """The time allowed for one query ran out before this candidate was verified."""
    FEW_MATCHES = "FEW_MATCHES"
    FEW_INLIERS = "FEW_INLIERS"
    LOW_INLIER_RATIO = "LOW_INLIER_RATIO"
    LOW_COVERAGE = "LOW_COVERAGE"
    """The inliers crowd on one object instead of covering the image."""
    HIGH_REPROJECTION_ERROR = "HIGH_REPROJECTION_ERROR"
    DEGENERATE = "DEGENERATE"
    """The geometry does not determine a relative pose, or what agrees sticks to the lens and not to a place."""
    TOO_FAR = "TOO_FAR"
    """The metric translation is longer than two views of one place can be apart."""
    INCONSISTENT_POSES = "INCONSISTENT_POSES"
    """Query to reference and reference to query give different relative poses."""
    GRAVITY = "GRAVITY"
    """Roll and pitch of the relative pose contradict the odometry's gravity direction."""
    ODOM_INCONSISTENT = "ODOM_INCONSISTENT"
    """The relative pose contradicts the odometry by more than its drift allows; without a verification: reference and
    query are too far apart by odometry to be one place, so that the geometry was not even tried."""
    CONTRADICTED = "CONTRADICTED"
    """The closure contradicts others nearby, and more of them than agree with it; it is withheld."""
    FROZEN = "FROZEN"
    """The camera delivers the same picture over and over, while the robot moves or for too long."""
    UNCONFIRMED = "UNCONFIRMED"
    """Withheld until other closures agree with it (`consistency.pcm`)."""
    AMBIGUOUS = "AMBIGUOUS"
    """Relocalisation: two places of the map explain the frames about equally well."""


class PoseKind(str, Enum):
    """How much of `T_reference_query` is known."""

    NONE = "NONE"
    """The same place by epipolar geometry without intrinsics: no pose."""
    ROTATION_ONLY = "ROTATION_ONLY"
    """Too little parallax for a direction; the translation is zero and must not be used."""
    UP_TO_SCALE = "UP_TO_SCALE"
    """Rotation and a unit direction of translation; never metres."""
    METRIC = "METRIC"


class ScaleSource(str, Enum):
    """Where the metres of a METRIC pose come from."""

    NONE = "NONE"
    DEPTH = "DEPTH"
    STEREO = "STEREO"
    ODOM = "ODOM"


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One timestamped image with what a source knows beside it.

    Attributes:
        stamp_ns: Time of the image in nanoseconds; any epoch, the same for a whole source.
        image: (H, W, 3) uint8 BGR, or (H, W) uint8 grey.
        name: What the user calls it (file name, or topic and number); "" when it has none.
        T_odom_base: Pose of the robot's base in the odometry frame, or None without odometry.
        depth_m: (H, W) float32 depth along the optical axis, registered to `image`; 0 or NaN where unknown.
        right: Right image of a rectified stereo pair, same size as `image`.
        camera: Name of the camera, for rigs: as in the mapping that `LoopDetector` is given.
    """

    stamp_ns: int
    image: Image
    name: str = ""
    T_odom_base: Transform | None = None
    depth_m: NDArray[np.float32] | None = None
    right: Image | None = None
    camera: str = "cam0"


@dataclass(frozen=True, slots=True, eq=False)
class LocalFeatures:
    """Keypoints and local descriptors of one image, in pixels of the original (not resized) image.

    Attributes:
        kind: "orb" (descriptors (N, 32) uint8, Hamming) or "sift" (descriptors (N, 128) uint8 RootSIFT, Euclidean).
        keypoints_px: (N, 2) float32, x then y.
        sizes_px: (N,) float32, diameter of the neighbourhood that was described, in original pixels.
        descriptors: (N, 32) or (N, 128) uint8.
        points_m: (N, 3) float32 points in the camera's optical frame, NaN where depth is unknown; None without
            depth or stereo.
        point_scale_source: DEPTH or STEREO when `points_m` is set, else NONE.
        image_size_px: Width and height of the original image.
    """

    kind: str
    keypoints_px: NDArray[np.float32]
    sizes_px: NDArray[np.float32]
    descriptors: NDArray[np.uint8]
    image_size_px: tuple[int, int]
    points_m: NDArray[np.float32] | None = None
    point_scale_source: ScaleSource = ScaleSource.NONE

    def __len__(self) -> int:
        """Number of keypoints."""
        return len(self.keypoints_px)


@dataclass(frozen=True, slots=True, eq=False)
class Keyframe:
    """One frame kept in the map.

    Attributes:
        id: Unique in the map, counted up from 0.
        session: Id of the run that made it.
        stamp_ns: Time of the image.
        descriptor: (D,) float32, unit norm.
        features: Local features for verification; None when the profile stores none.
        T_odom_base: Pose of the base in the odometry frame of its session, or None.
        name: As in `Frame`.
        camera: As in `Frame`.
        appearance: (C,) uint8 appearance grid for re-ranking (`progeo_edge.reranking`), or None.
    """

    id: int
    session: int
    stamp_ns: int
    descriptor: Descriptor
    features: LocalFeatures | None = None
    T_odom_base: Transform | None = None
    name: str = ""
    camera: str = "cam0"
    appearance: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """The geometric test of one candidate: its numbers, and the first reason for "no".

    Attributes:
        status: ACCEPTED, or the first gate that refused.
        T_reference_query: Pose of the query's base in the reference's base frame; None when `pose_kind` is NONE or
            the test ended before a pose. For UP_TO_SCALE the camera translation has unit length.
        covariance: (6, 6) of `T_reference_query`, order x y z rx ry rz (REP 103), metres and radians, right
            (body-frame) perturbation `T @ exp(xi)`; None without a pose. For UP_TO_SCALE the translation part states
            the prior revisit radius.
        pose_kind: How much of the pose is known.
        scale_source: Where the metres come from.
        num_matches: Matches after ratio test and cross-check.
        num_inliers: Matches consistent with the geometry.
        inlier_ratio: num_inliers / num_matches, 0 without matches.
        coverage: Share of the image area that the inliers occupy, the smaller one of both images, 0 to 1.
        reprojection_rmse_px: Root mean square error of the inliers in original pixels, NaN before a geometry.
        query_px: (num_inliers, 2) float32 inliers in the query image.
        reference_px: (num_inliers, 2) float32 inliers in the reference image.
    """

    status: Status
    T_reference_query: Transform | None = None
    covariance: NDArray[np.float64] | None = None
    pose_kind: PoseKind = PoseKind.NONE
    scale_source: ScaleSource = ScaleSource.NONE
    num_matches: int = 0
    num_inliers: int = 0
    inlier_ratio: float = 0.0
    coverage: float = 0.0
    reprojection_rmse_px: float = float("nan")
    query_px: NDArray[np.float32] | None = None
    reference_px: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A reference proposed by retrieval, and how far it came.

    Attributes:
        reference_id: Keyframe id of the reference.
        similarity: Cosine of the descriptors, -1 to 1.
        status: ACCEPTED, or the first reason for "no".
        rerank_score: Weighted sum of cosine and appearance similarity that ordered the candidates; None without
            re-ranking.
        probability: Calibrated probability of being the same place; None without calibration.
        verification: Present when the geometry was tried.
        odom_mahalanobis: Distance to the odometry's prediction (6 degrees of freedom when METRIC, 5 when UP_TO_SCALE,
            else the rotation's 3); None without odometry or pose.
        supported: Whether it passed what comes before the geometry: the calibrated gate, or without a calibration the
            sequence. Only strong geometry makes up for its absence.
        motion_score: Support of the last keyframes, higher is better, in the unit of `motion.method`; None where that
            gives none.
        contradicts: Query ids of the closures that it contradicts.
    """

    reference_id: int
    similarity: float
    status: Status = Status.NOT_VERIFIED
    rerank_score: float | None = None
    probability: float | None = None
    verification: Verification | None = None
    odom_mahalanobis: float | None = None
    supported: bool = False
    motion_score: float | None = None
    contradicts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class LoopClosure:
    """An accepted candidate: the query keyframe sees the place of the reference keyframe.

    Attributes:
        query_id: Keyframe id of the query; -1 from `relocalize`, which stores nothing.
        reference_id: Keyframe id of the reference.
        similarity: Cosine of the descriptors.
        probability: Calibrated probability; None without calibration.
        verification: None only when the profile does not verify (recall).
        odom_mahalanobis: As in `Candidate`.
    """

    query_id: int
    reference_id: int
    similarity: float
    probability: float | None = None
    verification: Verification | None = None
    odom_mahalanobis: float | None = None

    @property
    def heading_change_deg(self) -> float | None:
        """Angle by which the robot's base is turned against the reference's, 0 to 180; None without a rotation.

        It is of the bases, not of the cameras: a rear camera that sees what the front camera saw means 180.
        """
        if self.verification is None or self.verification.T_reference_query is None:
            return None
        cosine = 0.5 * (np.trace(self.verification.T_reference_query[:3, :3]) - 1.0)
        return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))

    @property
    def is_reverse(self) -> bool | None:
        """Whether the place was passed the other way round, nearer to opposite than to across; None as above."""
        angle_deg = self.heading_change_deg
        return None if angle_deg is None else angle_deg > REVERSE_DEG


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """Everything a node, a report or a test may want to know about one processed frame.

    Attributes:
        keyframe: The stored keyframe; None when the frame was not kept.
        candidates: Every candidate with its status, best first.
        closures: The accepted ones; empty when there is none.
        status: ACCEPTED when there is a closure, otherwise the reason why there is none.
        timings_ms: Milliseconds per stage, in order of execution.
        min_similarity: Cosine that a candidate had to reach: the calibrated gate, and never less than
            `gate.min_similarity`; None when nothing was searched for.
        min_motion_score: Motion score that makes up for less; None when none is calibrated.
        released: Closures of earlier keyframes that were withheld until now (`consistency.pcm`), `query_id` says
            which; stored together with this keyframe.
        doubtful: Query and reference id of closures published earlier that most others contradict by now.
    """

    keyframe: Keyframe | None
    candidates: tuple[Candidate, ...] = ()
    closures: tuple[LoopClosure, ...] = ()
    status: Status = Status.NO_CANDIDATE
    timings_ms: dict[str, float] = field(default_factory=dict)
    min_similarity: float | None = None
    min_motion_score: float | None = None
    released: tuple[LoopClosure, ...] = ()
    doubtful: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Relocalisation:
    """Where a robot woke up in a known map, as far as its first frames tell.

    Attributes:
        match: The vote that the answer rests on: its reference, similarity and verification, `query_id` -1; None when
            there is no match. Its `probability` is that of its appearance alone.
        probability: Of `match` being the right place; without a match that of the best place, 0 when there is none.
        T_odom_base: Pose of the base at `stamp_ns` in the odometry frame of the reference's session; None without a
            match, without a pose in metres, or when the map was made without odometry.
        session: Session of the reference; None without a match.
        status: ACCEPTED; AMBIGUOUS when several places explain the frames; FAILED_SEQUENCE when the frames support one
            place too little; FROZEN when the robot moved and the picture did not; otherwise how far the best candidate
            came.
        num_frames: Views that voted. Blank frames and unchanged views do not count.
        stamp_ns: Time of the image that `T_odom_base` belongs to: the last view, or without odometry the one that
            `match` verified. None without a match.
        query_stamp_ns: Time of the image that `match` verified; None without a match.
    """

    match: LoopClosure | None
    probability: float
    T_odom_base: Transform | None = None
    session: int | None = None
    status: Status = Status.NO_CANDIDATE
    num_frames: int = 0
    stamp_ns: int | None = None
    query_stamp_ns: int | None = None
