"""Messages as drivers send them, and outcomes as the detector gives them."""

from __future__ import annotations

from typing import Any

import numpy as np

from progeo_edge.geometry import make_transform, quaternion_xyzw, rotation_exp
from progeo_edge.map_rows import KeyframeInfo
from progeo_edge.types import (
    Candidate,
    Frame,
    Keyframe,
    LoopClosure,
    PoseKind,
    Relocalisation,
    ScaleSource,
    Status,
    Transform,
    Update,
    Verification,
)
from progeo_ros.conversions.standard import image_message
from progeo_ros.events import Outcome, Whereabouts
from progeo_ros.message_types import make_header
from progeo_ros.rosbags_types import RosbagsTypes

TYPES = RosbagsTypes()
SECOND = 10**9
IMAGE = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)


def turned(x: float = 0.0, y: float = 0.0, yaw: float = 0.0, pitch: float = 0.0) -> Transform:
    return make_transform(rotation_exp([0.0, 0.0, yaw]) @ rotation_exp([0.0, pitch, 0.0]), [x, y, 0.0])


def same_pose(found: Transform | None, expected: Transform, atol: float = 1e-9) -> None:
    assert found is not None
    np.testing.assert_allclose(found, expected, atol=atol)


def image(stamp_ns: int, pixels: Any = IMAGE, frame_id: str = "cam") -> Any:
    return image_message(TYPES, pixels, stamp_ns, frame_id)


def compressed(stamp_ns: int, data: bytes, image_format: str = "jpeg", frame_id: str = "cam") -> Any:
    header = make_header(TYPES, stamp_ns, frame_id)
    return TYPES.make("sensor_msgs/msg/CompressedImage", header=header, format=image_format, data=data)


def depth(stamp_ns: int, metres: float = 2.0, size: tuple[int, int] = (64, 48)) -> Any:
    pixels = np.full((size[1], size[0]), metres, np.float32)
    return TYPES.make(
        "sensor_msgs/msg/Image",
        header=make_header(TYPES, stamp_ns, "cam"),
        height=size[1],
        width=size[0],
        encoding="32FC1",
        step=4 * size[0],
        data=pixels.tobytes(),
    )


def camera_info(
    fx: float = 50.0, size: tuple[int, int] = (64, 48), model: str = "plumb_bob", baseline: float = 0
) -> Any:
    k = [fx, 0, size[0] / 2, 0, fx, size[1] / 2, 0, 0, 1]
    p = [fx, 0, size[0] / 2, -fx * baseline, 0, fx, size[1] / 2, 0, 0, 0, 1, 0]
    return TYPES.make(
        "sensor_msgs/msg/CameraInfo",
        header=make_header(TYPES, SECOND, "cam"),
        width=size[0],
        height=size[1],
        distortion_model=model,
        d=np.zeros(5),
        k=k,
        p=p,
    )


def pose(T: Transform) -> Any:
    x, y, z, w = quaternion_xyzw(T[:3, :3]).tolist()
    position = TYPES.make("geometry_msgs/msg/Point", **dict(zip("xyz", T[:3, 3].tolist(), strict=True)))
    orientation = TYPES.make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)
    return TYPES.make("geometry_msgs/msg/Pose", position=position, orientation=orientation)


def odometry(stamp_ns: int, T: Transform, child: str = "base_link", parent: str = "odom") -> Any:
    return TYPES.make(
        "nav_msgs/msg/Odometry",
        header=make_header(TYPES, stamp_ns, parent),
        child_frame_id=child,
        pose=TYPES.make("geometry_msgs/msg/PoseWithCovariance", pose=pose(T)),
    )


def transforms(stamp_ns: int, *links: tuple[str, str, Transform]) -> Any:
    """tf of (parent, child, T_parent_child)."""
    stamped = []
    for parent, child, T in links:
        x, y, z = T[:3, 3].tolist()
        translation = TYPES.make("geometry_msgs/msg/Vector3", x=x, y=y, z=z)
        rotation = pose(T).orientation
        stamped.append(
            TYPES.make(
                "geometry_msgs/msg/TransformStamped",
                header=make_header(TYPES, stamp_ns, parent),
                child_frame_id=child,
                transform=TYPES.make("geometry_msgs/msg/Transform", translation=translation, rotation=rotation),
            )
        )
    return TYPES.make("tf2_msgs/msg/TFMessage", transforms=stamped)


def header(stamp_ns: int) -> Any:
    return make_header(TYPES, stamp_ns, "")


# -- outcomes --------------------------------------------------------------------------------------------------------

T_REFERENCE_QUERY = turned(0.3, -0.1, yaw=0.2, pitch=0.1)
COVARIANCE = np.diag([0.01, 0.04, 0.09, 1e-4, 4e-4, 9e-4]) + 1e-5 * np.arange(36).reshape(6, 6)
COVARIANCE = 0.5 * (COVARIANCE + COVARIANCE.T)
PRIOR_M = 2.0


def verification(kind: PoseKind, inliers: int = 80, T: Transform = T_REFERENCE_QUERY) -> Verification:
    covariance = COVARIANCE.copy()
    if kind is not PoseKind.METRIC:
        covariance[:3] = covariance[:, :3] = 0.0
        covariance[:3, :3] = PRIOR_M**2 * np.eye(3)
    return Verification(
        Status.ACCEPTED,
        None if kind is PoseKind.NONE else T,
        None if kind is PoseKind.NONE else covariance,
        kind,
        ScaleSource.DEPTH if kind is PoseKind.METRIC else ScaleSource.NONE,
        num_matches=100,
        num_inliers=inliers,
        inlier_ratio=inliers / 100,
        coverage=0.4,
        reprojection_rmse_px=0.8,
    )


def closure(reference_id: int, checked: Verification | None, query_id: int = 9) -> LoopClosure:
    return LoopClosure(query_id, reference_id, 0.75, 0.9, checked, 1.5)


def outcome(
    *closures: LoopClosure,
    refused: tuple[Candidate, ...] = (),
    released: tuple[LoopClosure, ...] = (),
    doubtful: tuple[tuple[int, int], ...] = (),
    kept: bool = True,
    T_odom_base: Transform | None = None,
    session: int = 1,
    stamp_ns: int = 100 * SECOND + 7,
) -> Outcome:
    """References 0 and 1 are of session 0 ("first"), 2 and 3 of session 1 ("second"); 1 and 3 have no pose."""
    references = {
        i: KeyframeInfo(
            i,
            i // 2,
            (10 + i) * SECOND + i,
            "",
            "cam0",
            turned(float(i), yaw=0.5) if i % 2 == 0 else None,
            Status.ACCEPTED,
        )
        for i in range(4)
    }
    descriptor = np.array([0.6, 0.8, 0.0, 0.0], np.float32)
    keyframe = Keyframe(9, session, stamp_ns, descriptor, None, T_odom_base) if kept else None
    accepted = [
        Candidate(
            c.reference_id, c.similarity, Status.ACCEPTED, None, c.probability, c.verification, c.odom_mahalanobis
        )
        for c in closures
    ]
    return Outcome(
        frame=Frame(stamp_ns, IMAGE, "", T_odom_base),
        update=Update(
            keyframe,
            (*accepted, *refused),
            closures,
            Status.ACCEPTED if closures else Status.NO_CANDIDATE,
            {"encode": 4.0, "search": 0.5, "total": 4.75},
            released=released,
            doubtful=doubtful,
        ),
        references=references,
        session="second" if session else "first",
        session_names={0: "first", 1: "second"},
        model_id="c0ffee",
        min_similarity=0.25,
        base_frame="base_link",
        odom_frame="odom",
        camera_frame="cam",
        latency_ms=12.5,
    )


def whereabouts(kind: PoseKind | None, T_since: Transform | None = None) -> Whereabouts:
    """Answer of a question: a match with a pose of some kind on reference 0, or none (AMBIGUOUS, with probability 0.4).

    `T_since` is the way from the image that was verified to the last one, which came 2 s later.
    """
    if kind is None:
        return Whereabouts(Relocalisation(None, 0.4, status=Status.AMBIGUOUS, num_frames=3), outcome(kept=False))
    checked = verification(kind)
    match = closure(0, checked, query_id=-1)
    said = outcome(match, kept=False)
    T_map_reference = said.reference(0).T_odom_base
    assert T_map_reference is not None
    T_map_base = T_map_reference @ T_REFERENCE_QUERY @ (np.eye(4) if T_since is None else T_since)
    stamp_ns = said.frame.stamp_ns
    relocalisation = Relocalisation(
        match,
        0.99,
        T_map_base if kind is PoseKind.METRIC else None,
        0,
        Status.ACCEPTED,
        3,
        stamp_ns if T_since is None else stamp_ns + 2 * SECOND,
        stamp_ns,
    )
    return Whereabouts(relocalisation, said)
