"""Small maps with every kind of content, and one plain value that says all a map holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import ModelSpec
from progeo_edge.geometry import Camera, make_transform, rotation_exp
from progeo_edge.map_store import MapStore
from progeo_edge.types import (
    Keyframe,
    LocalFeatures,
    LoopClosure,
    PoseKind,
    ScaleSource,
    Status,
    Transform,
    Verification,
)

DIMENSION = 16
SPEC = ModelSpec("sample", DIMENSION, "5a" * 32)
CAMERA = Camera("pinhole", 64, 48, np.array([[50.0, 0, 32], [0, 51, 24], [0, 0, 1]]), np.array([0.1, 0, 0, 0]))


def unit(rng: np.random.Generator, dimension: int = DIMENSION) -> NDArray[np.float32]:
    vector = rng.normal(size=dimension)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def pose(rng: np.random.Generator) -> Transform:
    return make_transform(rotation_exp(rng.normal(size=3)), rng.normal(size=3))


def features(rng: np.random.Generator, count: int = 20, kind: str = "orb", points: bool = True) -> LocalFeatures:
    return LocalFeatures(
        kind,
        (rng.random((count, 2)) * [64, 48]).astype(np.float32),
        (rng.random(count) * 60 + 4).astype(np.float32),
        rng.integers(0, 256, (count, 32 if kind == "orb" else 128), dtype=np.uint8),
        (64, 48),
        rng.normal(size=(count, 3)).astype(np.float32) if points else None,
        ScaleSource.DEPTH if points else ScaleSource.NONE,
    )


def keyframe(id: int, session: int, seed: int = 0) -> Keyframe:
    rng = np.random.default_rng([seed, id])
    return Keyframe(
        id=id,
        session=session,
        stamp_ns=10**18 + id * 10**9,
        descriptor=unit(rng),
        features=features(rng) if id % 4 else None,
        T_odom_base=pose(rng) if id % 3 else None,
        name=f"images/{id:06d}.png",
        appearance=rng.integers(0, 256, 40, dtype=np.uint8) if id % 5 else None,
    )


def closure(query_id: int, reference_id: int, seed: int = 0) -> LoopClosure:
    rng = np.random.default_rng([seed, query_id, reference_id, 7])
    if query_id % 2:
        return LoopClosure(query_id, reference_id, 0.75)
    A = rng.normal(size=(6, 6))
    return LoopClosure(
        query_id,
        reference_id,
        similarity=0.875,
        probability=0.99,
        odom_mahalanobis=3.5,
        verification=Verification(
            status=Status.ACCEPTED,
            T_reference_query=pose(rng),
            covariance=A @ A.T,
            pose_kind=PoseKind.METRIC,
            scale_source=ScaleSource.DEPTH,
            num_matches=20,
            num_inliers=12,
            inlier_ratio=0.6,
            coverage=0.25,
            reprojection_rmse_px=1.25,
            query_px=(rng.random((12, 2)) * 60).astype(np.float32),
            reference_px=(rng.random((12, 2)) * 60).astype(np.float32),
        ),
    )


def fill(store: MapStore, count: int, *, seed: int = 0, session_name: str = "drive", revisit_after: int = 6) -> None:
    """Add a session of `count` keyframes with thumbnails, a closure on every third one, and documents."""
    session = store.begin_session(session_name, camera=CAMERA, config_yaml="profile: conservative\n")
    first = store.next_keyframe_id()
    rng = np.random.default_rng(seed)
    for id in range(first, first + count):
        closures = [closure(id, id - revisit_after, seed)] if id - revisit_after >= first and id % 3 == 0 else []
        thumbnail = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        store.add_keyframe(
            keyframe(id, session, seed),
            status=Status.ACCEPTED if closures else Status.NO_CANDIDATE,
            thumbnail=thumbnail,
            closures=closures,
        )
    store.set_document("calibration", {"slope": 12.5, "seed": seed})
    store.set_blob("static_mask", bytes(range(256)) * 30)


def sample_map(path: Path, count: int = 20, *, seed: int = 0, dtype: str = "float16") -> Path:
    with MapStore.create(path, SPEC, descriptor_dtype=dtype) as store:
        fill(store, count, seed=seed)
    return path


def plain(value: object) -> Any:
    """A value made of dataclasses and arrays as tuples that can be compared."""
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        return tuple((key, plain(item)) for key, item in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(plain(item) for item in value)
    names = getattr(value, "__dataclass_fields__", None)
    if names is not None:
        return tuple((name, plain(getattr(value, name))) for name in names)
    return repr(value)


def content_hash(store: MapStore) -> str:
    """Everything that can be read from a map through its public methods, as one hash."""
    infos = store.infos()
    ids = [info.id for info in infos]
    content = [
        len(store),
        store.next_keyframe_id(),
        store.spec,
        store.map_id,
        store.sessions(),
        infos,
        store.descriptors(),
        [store.keyframe(id) for id in ids],
        [store.features(id) for id in ids],
        [store.appearances([id]) for id in ids],
        [store.thumbnail_jpeg(id) for id in ids],
        store.closures(),
        store.document_keys(),
        [store.document(key) for key in ("calibration", "absent")],
        [store.blob(key) for key in ("static_mask", "absent")],
    ]
    return hashlib.sha256(repr(plain(content)).encode()).hexdigest()
