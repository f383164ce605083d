"""Every setting of the runtime, typed and strict; the same dotted names in Python, YAML and ROS parameters.

The reasons for the defaults are in docs/pipeline.md. `progeo-run --help` and `docs/config.md` list them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from progeo_edge import settings
from progeo_edge.errors import ConfigError
from progeo_edge.settings import Section

Profile = Literal["conservative", "balanced", "recall"]


class KeyframeConfig(Section):
    """When a frame becomes a keyframe."""

    min_translation_m: float = Field(0.5, ge=0, description="with odometry: distance to the last keyframe")
    min_rotation_deg: float = Field(15.0, ge=0, description="with odometry: rotation to the last keyframe")
    max_interval_s: float = Field(
        2.0, gt=0, description="with odometry: time after which a creeping robot keeps one too"
    )
    creep_m: float = Field(0.05, ge=0, description="with odometry: less motion than this is standing still")
    min_interval_s: float = Field(1.0, ge=0, description="without odometry: time to the last keyframe")
    max_similarity: float = Field(
        0.95, ge=-1, le=1, description="without odometry: a higher cosine to the last keyframe is standing still"
    )
    every_frame: bool = Field(False, description="keep every frame; for sources that hold keyframes already")


class RecognisableConfig(Section):
    """Images that cannot be told from others of their kind are refused."""

    min_contrast: float = Field(6.0, ge=0, description="standard deviation of the grey image, 0 to 127")
    min_keypoints: int = Field(60, ge=0, description="keypoints outside the static-pixel mask")
    frozen_difference: float = Field(
        0.25, ge=0, description="mean difference in grey levels below which two pictures are one and the same"
    )
    frozen_after_s: float = Field(5.0, ge=0, description="without odometry: how long the very same picture may come")


class ExclusionConfig(Section):
    """The recent past, which is not a revisit."""

    time_s: float = Field(30.0, ge=0, description="a reference must be at least this old")
    distance_m: float = Field(10.0, ge=0, description="with odometry: and this far back along the path")
    keyframes: int = Field(30, ge=0, description="without odometry: and this many keyframes back")


class SearchConfig(Section):
    """Retrieval of candidates."""

    top_k: int = Field(20, ge=1, le=1000, description="candidates per query")
    rerank: bool = Field(True, description="order the candidates by cosine and appearance grid together")
    rerank_weight: float = Field(0.1, ge=0, le=1, description="weight of the appearance grid in that sum")
    hnsw_above: int = Field(300_000, ge=0, description="keyframes above which HNSW replaces exact search")
    hnsw_m: int = Field(16, ge=2, le=128, description="HNSW: neighbours per node")
    hnsw_ef_construction: int = Field(200, ge=8, description="HNSW: breadth of the search at insertion")
    hnsw_ef: int = Field(200, ge=1, description="HNSW: breadth of the search at query time")


class GateConfig(Section):
    """Which candidates are worth a verification."""

    min_similarity: float = Field(0.0, ge=-1, le=1, description="cosine; depends on the model, 0 leaves it to geometry")
    nms_radius_keyframes: int = Field(2, ge=0, description="one candidate per neighbourhood of this many keyframes")


class MotionConfig(Section):
    """The last keyframes must support a candidate, along the place graph."""

    method: Literal["auto", "hmm", "sequence", "k_of_n", "none"] = Field(
        "auto",
        description="how candidates are scored: hmm is a filter over places, sequence aligns the last keyframes, "
        "k_of_n counts them; auto: hmm with odometry, else sequence; none: one keyframe is enough",
    )
    length: int = Field(5, ge=2, le=50, description="sequence: keyframes aligned, the query included")
    max_step: int = Field(
        3, ge=1, le=10, description="neighbours along the place graph that one keyframe may advance, without odometry"
    )
    step_cost: float = Field(
        0.75, ge=0, description="sequence: price of every step more or fewer than one, in spreads of the similarity"
    )
    window: int = Field(5, ge=1, le=50, description="k_of_n: n keyframes looked at, the query included")
    required: int = Field(3, ge=1, le=50, description="k_of_n: k keyframes that must agree, the query included")
    history_top_k: int = Field(3, ge=1, description="k_of_n: best candidates of each earlier keyframe that may agree")
    spread_m: float = Field(1.5, gt=0, description="hmm: standard deviation of where on the way a place is seen from")
    min_log_odds: float = Field(
        -9.0, description="hmm: less than these log odds is no support, whatever the count of keyframes"
    )
    leave_probability: float = Field(
        0.01, gt=0, lt=1, description="hmm: that a keyframe leaves the known way, or comes back to one"
    )
    strong_inliers: int = Field(
        60, ge=0, description="a verification with at least this many inliers needs no support; 0 switches that off"
    )


class CalibrationConfig(Section):
    """Thresholds learned without labels, stated as what a user can judge: false closures per hour."""

    enabled: bool = Field(True, description="off: nothing is learned, and gate.min_similarity and the sequence decide")
    max_false_per_hour: float = Field(
        1.0, gt=0, description="false closures per hour that the gate before the geometry may let through"
    )
    impostor_distance_m: float = Field(
        20.0, gt=0, description="with odometry: keyframes further apart than this, and than its drift, are two places"
    )
    min_queries: int = Field(100, ge=50, description="keyframes with an impostor before a calibration is in force")
    refit_growth: float = Field(0.1, gt=0, le=1, description="share of new keyframes after which it is learned anew")


class VerificationConfig(Section):
    """The geometric test."""

    enabled: bool = Field(True, description="off: closures without a pose, by similarity and motion alone")
    detector: Literal["orb", "sift"] = Field("orb", description="local features; sift finds more and takes longer")
    max_features: int = Field(1500, ge=50, le=20_000, description="keypoints per image")
    working_size_px: int = Field(
        640, ge=64, le=8192, description="longer side of the image that keypoints are found in"
    )
    ratio: float = Field(0.8, gt=0, le=1, description="Lowe's ratio of nearest to second nearest")
    cross_check: bool = Field(True, description="a match must be the nearest in both directions")
    max_error_px: float = Field(3.0, gt=0, description="inlier distance in pixels of the working image")
    confidence: float = Field(
        0.999, gt=0, lt=1, description="RANSAC: probability of having seen a sample without outlier"
    )
    max_iterations: int = Field(1000, ge=10, description="RANSAC: samples drawn at most")
    min_matches: int = Field(30, ge=5, description="fewer matches than this are refused")
    min_inliers: int = Field(30, ge=5, description="fewer inliers than this are refused")
    min_inliers_uncalibrated: int = Field(
        40, ge=5, description="without intrinsics: a fundamental matrix is easily met, aliased corridors reach 36"
    )
    min_inlier_ratio: float = Field(0.30, ge=0, le=1, description="inliers per match")
    min_coverage: float = Field(0.10, ge=0, le=1, description="share of the image area that the inliers occupy")
    max_reprojection_rmse_px: float = Field(3.0, gt=0, description="in pixels of the working image")
    min_parallax_deg: float = Field(1.0, ge=0, description="less median parallax gives ROTATION_ONLY")
    max_translation_m: float = Field(10.0, gt=0, description="METRIC: longest distance between two views of a place")
    prior_radius_m: float = Field(
        2.0, gt=0, description="UP_TO_SCALE: standard deviation stated for the unknown distance"
    )
    both_directions_m: float = Field(0.3, gt=0, description="PnP in both directions must agree within this distance")
    both_directions_deg: float = Field(5.0, gt=0, description="and this angle")
    # Measured on rendered streets with exact poses: the keypoint and depth noise model with these three values gives
    # a NEES of about its expectation. Ten-fold inflation and floors of 5 cm and 0.5 deg gave 0.01.
    covariance_inflation: float = Field(
        1.0, ge=1, description="factor on the computed covariance; raise it when the calibration is doubtful"
    )
    covariance_floor_m: float = Field(0.002, gt=0, description="standard deviation added to every axis")
    covariance_floor_deg: float = Field(0.01, gt=0, description="and to every rotation")
    static_mask: bool = Field(True, description="leave out pixels that never change over the run")
    static_mask_std: float = Field(14.0, ge=0, description="grey levels; below it a pixel counts as static")
    static_mask_frames: int = Field(60, ge=10, description="keyframes seen before the mask is used")
    seed: int = Field(0, ge=0, description="of the random samples of RANSAC")


class OdometryConfig(Section):
    """The drift model against which closures are tested."""

    enabled: bool = Field(True, description="off: closures are not tested against the odometry")
    drift_m_per_m: float = Field(0.02, gt=0, description="standard deviation of translation per metre travelled")
    drift_deg_per_m: float = Field(0.1, gt=0, description="standard deviation of rotation per metre travelled")
    floor_m: float = Field(0.1, gt=0, description="standard deviation of translation at any distance")
    floor_deg: float = Field(1.0, gt=0, description="standard deviation of rotation at any distance")
    max_mahalanobis2: float = Field(22.46, gt=0, description="METRIC closures: chi-square, 6 degrees of freedom, 0.999")
    max_mahalanobis2_rotation: float = Field(
        16.27, gt=0, description="closures without metres: chi-square of the rotation, 3 degrees of freedom, 0.999"
    )
    max_mahalanobis2_direction: float = Field(
        20.52, gt=0, description="UP_TO_SCALE closures with the length left open: 5 degrees of freedom, 0.999"
    )
    direction_deg: float = Field(10.0, gt=0, description="standard deviation of the direction of UP_TO_SCALE closures")
    max_scene_depth_m: float = Field(
        50.0, gt=0, description="what a camera looks at is nearer; bounds how far a ROTATION_ONLY closure reaches"
    )
    heights: bool = Field(True, description="test heights where the drive is level, or gravity_aligned is set")
    max_height_m: float = Field(0.5, gt=0, description="difference of height within one place, closures without metres")
    max_gravity_deg: float = Field(3.0, gt=0, description="roll and pitch that odometry and closure may disagree by")
    gravity_aligned: bool = Field(False, description="odometry's z axis is known to be vertical (IMU)")


class ConsistencyConfig(Section):
    """Closures against each other."""

    enabled: bool = Field(True, description="off: a closure is not compared with those before it")
    window: int = Field(50, ge=1, le=1000, description="closures that are remembered for it")
    neighbours: int = Field(10, ge=1, le=100, description="of these, the nearest along the way that are compared")
    max_leg_m: float = Field(50.0, gt=0, description="way between two closures over which an agreement means anything")
    max_mahalanobis2: float = Field(22.46, gt=0, description="chi-square of the loop over two closures, 0.999")
    pcm: bool = Field(False, description="withhold every closure until others agree with it (pairwise consistency)")
    pcm_required: int = Field(
        2, ge=2, le=20, description="pcm: closures that must agree with each other, itself included"
    )


class BudgetConfig(Section):
    """What one query may cost."""

    max_verifications: int = Field(3, ge=1, description="candidates verified per query")
    deadline_ms: float = Field(150.0, ge=0, description="no verification starts after this time per query; 0 = none")


class RelocalisationConfig(Section):
    """Where in a known map did the robot wake up."""

    max_frames: int = Field(10, ge=1, le=100, description="views that may vote; the last ones when there were more")
    min_probability: float = Field(0.98, gt=0, lt=1, description="less is no match")
    prior_probability: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="without calibration: probability that a candidate is the right place before its geometry is known",
    )
    agreement_m: float = Field(
        1.0, gt=0, description="two votes for one place may lie this far apart, besides the drift between them"
    )
    agreement_deg: float = Field(10.0, gt=0, description="and be turned by this angle")


class EncoderConfig(Section):
    """How an exported encoder uses the CPU."""

    threads: int = Field(0, ge=0, le=1024, description="threads of one inference; 0: one per core")
    spin: bool = Field(
        False, description="ONNX Runtime's threads wait by polling: only for a computer that does nothing else"
    )


class StoreConfig(Section):
    """What the map keeps."""

    descriptor_dtype: Literal["float16", "float32"] = Field("float16", description="of the descriptors in a new map")
    features: bool = Field(True, description="keep local features, so that later runs can verify against this map")
    thumbnails: bool = Field(True, description="keep a small image of every keyframe, for people to look at")
    thumbnail_width_px: int = Field(320, ge=16, le=4096, description="their width at most")


class Config(Section):
    """All settings of a `LoopDetector`."""

    profile: Profile = Field("conservative", description="where the defaults of all others come from")
    encoder: EncoderConfig = Field(default_factory=EncoderConfig)
    keyframe: KeyframeConfig = Field(default_factory=KeyframeConfig)
    recognisable: RecognisableConfig = Field(default_factory=RecognisableConfig)
    exclusion: ExclusionConfig = Field(default_factory=ExclusionConfig)
    search: SearchConfig = Field(default_factory=SearchConfig)
    gate: GateConfig = Field(default_factory=GateConfig)
    motion: MotionConfig = Field(default_factory=MotionConfig)
    calibration: CalibrationConfig = Field(default_factory=CalibrationConfig)
    verification: VerificationConfig = Field(default_factory=VerificationConfig)
    odometry: OdometryConfig = Field(default_factory=OdometryConfig)
    consistency: ConsistencyConfig = Field(default_factory=ConsistencyConfig)
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    relocalisation: RelocalisationConfig = Field(default_factory=RelocalisationConfig)
    store: StoreConfig = Field(default_factory=StoreConfig)


PROFILES: dict[str, dict[str, Any]] = {
    "conservative": {},
    "balanced": {
        "motion": {"strong_inliers": 30},
        "calibration": {"max_false_per_hour": 10.0},
        "verification": {
            "min_inliers": 20,
            "min_inliers_uncalibrated": 30,
            "min_matches": 20,
            "min_coverage": 0.05,
        },
    },
    "recall": {
        "motion": {"method": "none"},
        "calibration": {"max_false_per_hour": 100.0},
        "verification": {"enabled": False},
    },
}
"""What each profile changes against the defaults. Anything set by the user wins."""


def load_config(
    path: str | Path | None = None,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Defaults, then the profile, then the YAML file, then `a.b=c` overrides, later ones winning.

    Args:
        path: YAML file with sections as in `Config`; None for none.
        profile: Name in `PROFILES`; None takes the file's `profile`, else "conservative".
        overrides: Dotted assignments such as "search.top_k=10".
        defaults: What a caller presumes instead of the class defaults, by section.

    Raises:
        ConfigError: unreadable file, unknown key (with the nearest known one), wrong type or range.
    """
    from_file = settings.read_yaml(Path(path)) if path is not None else {}
    from_overrides = settings.read_assignments(overrides)
    name = from_overrides.get("profile") or profile or from_file.get("profile") or "conservative"
    if not isinstance(name, str) or name not in PROFILES:
        raise ConfigError(f"profile {name!r} is unknown; choose one of {', '.join(PROFILES)}")
    merged = settings.merge_layers([defaults or {}, PROFILES[name], from_file, from_overrides])
    return config_from_dict({**merged, "profile": name})


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Validate plain values, as `Config.model_dump()` gives them.

    Raises:
        ConfigError: one line per bad key.
    """
    return settings.validate(Config, values, "docs/config.md")


def config_to_yaml(config: Config) -> str:
    """The effective config as YAML, in the order of the classes."""
    return settings.to_yaml(config)


def known_keys() -> list[str]:
    """Every dotted name, for messages and documentation."""
    return settings.known_keys(Config())
