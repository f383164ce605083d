"""A map written out as plain files, for notebooks and other programs."""

from __future__ import annotations

import csv
import io
import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from progeo_edge.atomic import write_text
from progeo_edge.camera_file import cameras_to_dict
from progeo_edge.errors import MapError
from progeo_edge.geometry import quaternion_xyzw
from progeo_edge.map_opening import plain_errors
from progeo_edge.map_rows import KeyframeInfo
from progeo_edge.map_store import MapStore
from progeo_edge.types import LoopClosure, Transform

SUMMARY = "map.json"
"""File by which an earlier export is recognised before it is replaced."""

_AXES = ("x", "y", "z", "rx", "ry", "rz")
_POSE_COLUMNS = ("x_m", "y_m", "z_m", "qx", "qy", "qz", "qw")
_COVARIANCE_COLUMNS = tuple(f"cov_{a}_{b}" for i, a in enumerate(_AXES) for b in _AXES[i:])


def export_map(
    source: Path, out_dir: Path, *, force: bool = False, advance: Callable[[], object] = lambda: None
) -> None:
    """Write descriptors.npy, keyframes.csv, closures.csv, thumbnails/, trajectory_*.txt (TUM) and map.json.

    Row n of descriptors.npy, (N, D) float32 with unit rows, belongs to row n of keyframes.csv. The folder is filled
    under another name and then moved to its place.

    Args:
        source: The map; only read.
        out_dir: Folder to make.
        force: Replace `out_dir` when it is an earlier export or empty; any other folder is never touched.
        advance: Called once per keyframe.

    Raises:
        MapError: the map cannot be read, or the folder exists or cannot be written.
    """
    with MapStore.open(source, read_only=True) as store, plain_errors(source):
        _refuse_folder(out_dir, force=force)
        temporary = out_dir.with_name(f".{out_dir.name}.{uuid.uuid4().hex}")
        try:
            (temporary / "thumbnails").mkdir(parents=True)
            _write_all(store, temporary, advance)
            if out_dir.exists():
                shutil.rmtree(out_dir)
            temporary.rename(out_dir)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _refuse_folder(out_dir: Path, *, force: bool) -> None:
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise MapError(f"{out_dir} is a file; choose a folder for the export")
    if any(out_dir.iterdir()):
        if not (out_dir / SUMMARY).is_file():
            raise MapError(f"folder {out_dir} holds other files than an export; choose a new folder")
        if not force:
            raise MapError(f"folder {out_dir} holds an earlier export; replace it with --force, or choose another")


def _write_all(store: MapStore, folder: Path, advance: Callable[[], object]) -> None:
    infos = store.infos()
    _, descriptors = store.descriptors()
    np.save(folder / "descriptors.npy", descriptors, allow_pickle=False)
    for info in infos:
        jpeg = store.thumbnail_jpeg(info.id)
        if jpeg is not None:
            (folder / "thumbnails" / f"{info.id:06d}.jpg").write_bytes(jpeg)
        advance()
    header = ("id", "session", "stamp_ns", "name", "camera", "status", *_POSE_COLUMNS)
    write_text(folder / "keyframes.csv", _csv(header, map(_keyframe_columns, infos)))
    write_text(folder / "closures.csv", _csv(_CLOSURE_COLUMNS, map(_closure_columns, store.closures())))
    for session in store.sessions():
        lines = [_tum_line(info) for info in infos if info.session == session.id and info.T_odom_base is not None]
        if lines:
            write_text(folder / f"trajectory_{session.id}.txt", "".join(lines))
    write_text(folder / SUMMARY, json.dumps(_summary(store), indent=2) + "\n")


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _keyframe_columns(info: KeyframeInfo) -> Sequence[object]:
    pose = _pose_columns(info.T_odom_base)
    return (info.id, info.session, info.stamp_ns, info.name, info.camera, info.status.value, *pose)


_CLOSURE_COLUMNS = (
    "query_id",
    "reference_id",
    "similarity",
    "probability",
    "odom_mahalanobis",
    "pose_kind",
    "scale_source",
    "num_matches",
    "num_inliers",
    "inlier_ratio",
    "coverage",
    "reprojection_rmse_px",
    *_POSE_COLUMNS,
    *_COVARIANCE_COLUMNS,
)


def _closure_columns(closure: LoopClosure) -> Sequence[object]:
    head = (
        closure.query_id,
        closure.reference_id,
        closure.similarity,
        closure.probability,
        closure.odom_mahalanobis,
    )
    v = closure.verification
    if v is None:
        return (*head, *[None] * (len(_CLOSURE_COLUMNS) - len(head)))
    numbers = (v.num_matches, v.num_inliers, v.inlier_ratio, v.coverage, v.reprojection_rmse_px)
    empty = [None] * len(_COVARIANCE_COLUMNS)
    covariance = empty if v.covariance is None else v.covariance[np.triu_indices(6)].tolist()
    return (*head, v.pose_kind.value, v.scale_source.value, *numbers, *_pose_columns(v.T_reference_query), *covariance)


def _pose_columns(T: Transform | None) -> Sequence[object]:
    if T is None:
        return [None] * len(_POSE_COLUMNS)
    return [*T[:3, 3].tolist(), *quaternion_xyzw(T[:3, :3]).tolist()]


def _tum_line(info: KeyframeInfo) -> str:
    numbers = " ".join(f"{value:.9f}" for value in _pose_columns(info.T_odom_base))
    return f"{info.stamp_ns // 10**9}.{info.stamp_ns % 10**9:09d} {numbers}\n"


def _summary(store: MapStore) -> dict[str, object]:
    sessions = [
        {
            "id": session.id,
            "name": session.name,
            "started_ns": session.started_ns,
            "num_keyframes": session.num_keyframes,
            "camera": None if session.camera is None else cameras_to_dict(session.camera),
            "config": session.config_yaml,
        }
        for session in store.sessions()
    ]
    return {
        "map_id": store.map_id,
        "model": asdict(store.spec),
        "descriptor_dtype": store.descriptor_dtype,
        "num_keyframes": len(store),
        "sessions": sessions,
        "documents": {key: store.document(key) for key in store.document_keys()},
    }
