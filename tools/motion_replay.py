"""Recordings as descriptors, poses and labels, and their replay through search and motion without any image.

Geometry is played by the labels: the first right one of the three best candidates becomes a closure of the place graph,
as a verification would make it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.config import Config, load_config
from progeo_edge.encoders import Encoder
from progeo_edge.evaluation.labels import read_matches
from progeo_edge.exclusion import RecentKeyframes
from progeo_edge.index import PlaceIndex
from progeo_edge.motion import Motion, PlaceGraph
from progeo_edge.types import Candidate, Keyframe, LoopClosure
from progeo_edge.world import StreetWorld, WorldSource, forward_camera, simulate_drive

RIGHT_M, RIGHT_DEG = 8.0, 45.0
NEUTRAL_M = 16.0
VERIFIED = 3


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Keyframes in order of time.

    Attributes:
        name: For the table.
        descriptors: (N, D) float32.
        stamps_ns: N times.
        poses: (N, 4, 4) T_odom_base; None without odometry.
        sessions: Session of each; what earlier sessions saw is searchable at once.
        labels: (N, N) int8 of query and reference: 1 right, -1 wrong, 0 neutral.
        settings: What the exclusion window must be.
    """

    name: str
    descriptors: NDArray[np.float32]
    stamps_ns: list[int]
    poses: NDArray[np.float64] | None
    sessions: list[int]
    labels: NDArray[np.int8]
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The best candidate of every keyframe that had one.

    Attributes:
        has_right: (Q,) bool, whether the index held a right one.
        verdicts: (Q,) int8 of the best candidate: 1 right, -1 wrong, 0 neutral.
        scores: (Q,) float64 of the best candidate.
        passes: (Q,) bool, whether the uncalibrated rule supports it.
    """

    has_right: NDArray[np.bool_]
    verdicts: NDArray[np.int8]
    scores: NDArray[np.float64]
    passes: NDArray[np.bool_]


def replay(recording: Recording, settings: Sequence[str], *, ordered_by_motion: bool) -> Outcome:
    """Search, motion and closures of one recording.

    Args:
        recording: The keyframes.
        settings: Dotted assignments, as of `motion.method`.
        ordered_by_motion: The best candidate is the one with the best motion score, not with the best similarity, and
            that is its score.
    """
    config = load_config(overrides=(*recording.settings, *settings))
    index = PlaceIndex(recording.descriptors.shape[1], config.search)
    graph = PlaceGraph()
    motion, session = Motion(config, index, graph), None
    rows = []
    for query in _as_they_become_searchable(recording, config, index):
        if session is not None and query.session != session:
            motion = Motion(config, index, graph)
        session = query.session
        candidates = _nearest(index, query, config)
        scores = motion.scores(query, candidates)
        if candidates:
            labels = recording.labels[query.id]
            best = _best(candidates, scores if ordered_by_motion else None, config)
            score = scores[best.reference_id] if ordered_by_motion else best.similarity
            verdict = labels[best.reference_id]
            rows.append((bool((labels[index.ids] == 1).any()), verdict, score, motion.passes(best.reference_id)))
        verified = _verified(recording, query.id, candidates)
        graph.add_keyframe(query.id, query.session, query.T_odom_base)
        for closure in verified:
            graph.add_closure(closure.query_id, closure.reference_id)
        motion.remember(query, candidates)
    has_right, verdicts, scored, passes = zip(*rows, strict=True)
    return Outcome(np.array(has_right), np.array(verdicts, np.int8), np.array(scored), np.array(passes))


def _as_they_become_searchable(recording: Recording, config: Config, index: PlaceIndex) -> Iterator[Keyframe]:
    """Each keyframe in turn, with the index as it is when that one asks."""
    recent = RecentKeyframes(config.exclusion)
    driven_m = None if recording.poses is None else _driven_m(recording.poses)
    for row, session in enumerate(recording.sessions):
        way_m = None if driven_m is None else float(driven_m[row])
        starts = row > 0 and session != recording.sessions[row - 1]
        released = recent.drain() if starts else recent.release(recording.stamps_ns[row], way_m)
        if released:
            ids, descriptors = zip(*released, strict=True)
            index.add(np.array(ids), np.stack(descriptors))
        descriptor = recording.descriptors[row]
        pose = None if recording.poses is None else recording.poses[row]
        yield Keyframe(row, session, recording.stamps_ns[row], descriptor, T_odom_base=pose)
        recent.push(row, descriptor, recording.stamps_ns[row], way_m)


def _nearest(index: PlaceIndex, query: Keyframe, config: Config) -> list[Candidate]:
    ids, similarities = index.search(query.descriptor, config.search.top_k)
    return [Candidate(int(i), float(s)) for i, s in zip(ids, similarities, strict=True)]


def _best(candidates: Sequence[Candidate], scores: dict[int, float] | None, config: Config) -> Candidate:
    """The first candidate, or the one with the best score among those that no better neighbour speaks for."""
    if scores is None:
        return candidates[0]
    kept: list[Candidate] = []
    for candidate in candidates:
        radius = config.gate.nms_radius_keyframes
        if all(abs(candidate.reference_id - other.reference_id) > radius for other in kept):
            kept.append(candidate)
    return max(kept, key=lambda candidate: scores[candidate.reference_id])


def _verified(recording: Recording, query_id: int, candidates: Sequence[Candidate]) -> list[LoopClosure]:
    right = [c for c in candidates[:VERIFIED] if recording.labels[query_id, c.reference_id] == 1]
    return [LoopClosure(query_id, c.reference_id, c.similarity) for c in right[:1]]


def _driven_m(poses: NDArray[np.float64]) -> NDArray[np.float64]:
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


# -- the development sets --------------------------------------------------------------------------------------------


def corridor(dev: Path, encoder: Encoder, *, laps: int) -> Recording:
    """The corridor, driven twice: with `laps` 1 the second drive asks for the first alone, with 2 also for itself."""
    folder = dev / "vprbench_corridor"
    names = [sorted((folder / part).iterdir()) for part in ("database", "queries")]
    rows = {f"{path.parent.name}/{path.name}": row for row, path in enumerate([*names[0], *names[1]])}
    num_first = len(names[0])
    labels = np.full((len(rows), len(rows)), -1, np.int8)
    labels[_within_keyframes(len(rows), 15)] = 0
    labels[num_first:, :num_first] = _labels_of(folder / "matches.csv", rows)[num_first:, :num_first]
    own = ("exclusion.time_s=100000",) if laps == 1 else ("exclusion.time_s=30", "exclusion.keyframes=30")
    descriptors = _described(encoder, [*names[0], *names[1]])
    sessions = [0] * num_first + [1] * len(names[1])
    title = "corridor, second drive in the first" if laps == 1 else "corridor, two laps"
    return Recording(title, descriptors, _seconds(len(rows)), None, sessions, labels, own)


def donkeycar(dev: Path, encoder: Encoder) -> Recording:
    """Laps in a hall. What is near a labelled pair in both images, but is none itself, is neutral."""
    folder = dev / "donkeycar_room_laps"
    with (folder / "keyframes.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    rows = {line["image"]: row for row, line in enumerate(table)}
    labels = _labels_of(folder / "matches.csv", rows)
    near = _grown(labels == 1, 2)
    labels[near & (labels == -1)] = 0
    descriptors = _described(encoder, [folder / line["image"] for line in table])
    stamps_ns = [round(float(line["time_s"]) * 1e9) for line in table]
    window = ("exclusion.time_s=5", "exclusion.keyframes=3")
    return Recording("donkeycar", descriptors, stamps_ns, None, [0] * len(rows), labels, window)


def meiji(dev: Path, encoder: Encoder) -> Recording:
    """One loop round a campus, with poses; it has one revisit only."""
    folder = dev / "meiji_campus_poses"
    with (folder / "poses.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    poses = np.tile(np.eye(4), (len(table), 1, 1))
    for pose, line in zip(poses, table, strict=True):
        cosine, sine = np.cos(float(line["yaw_rad"])), np.sin(float(line["yaw_rad"]))
        pose[:2, :2] = [[cosine, -sine], [sine, cosine]]
        pose[:2, 3] = [float(line["x_m"]), float(line["y_m"])]
    descriptors = _described(encoder, [folder / line["image"] for line in table])
    stamps_ns = [3 * stamp_ns for stamp_ns in _seconds(len(table))]
    return Recording("meiji", descriptors, stamps_ns, poses, [0] * len(table), _labels_of_poses(poses))


def world(seed: int, encoder: Encoder, cache: Path, *, with_odometry: bool) -> Recording:
    """A rendered street: first pass, the way back, revisits by day and in the evening; 2.5 keyframes per second.

    What was rendered and described once is kept in the folder `cache`.
    """
    file = cache / f"{encoder.spec.name}-{seed}.npz"
    if not file.exists():
        _render(seed, encoder, file)
    kept = np.load(file, allow_pickle=False)
    poses = kept["T_odom_base"] if with_odometry else None
    stamps_ns = kept["stamps_ns"].tolist()
    name = "worlds, with odometry" if with_odometry else "worlds, without odometry"
    labels = _labels_of_poses(kept["T_world_base"])
    return Recording(name, kept["descriptors"], stamps_ns, poses, [0] * len(stamps_ns), labels)


def _render(seed: int, encoder: Encoder, file: Path) -> None:
    street = StreetWorld(seed)
    drive = simulate_drive(street, seed, frame_rate_hz=2.5)
    images = WorldSource(street, drive, forward_camera(320, 240))
    np.savez(
        file,
        descriptors=np.concatenate([encoder.encode([frame.image]) for frame in images]),
        stamps_ns=np.array([step.stamp_ns for step in drive]),
        T_odom_base=np.stack([step.T_odom_base for step in drive]),
        T_world_base=np.stack([step.T_world_base for step in drive]),
    )


def _labels_of_poses(poses: NDArray[np.float64]) -> NDArray[np.int8]:
    """Right within RIGHT_M and RIGHT_DEG, neutral within NEUTRAL_M."""
    distances_m = np.linalg.norm(poses[:, None, :3, 3] - poses[None, :, :3, 3], axis=2)
    forward = poses[:, :3, 0]
    alike = forward @ forward.T >= np.cos(np.radians(RIGHT_DEG))
    return np.where((distances_m <= RIGHT_M) & alike, 1, np.where(distances_m <= NEUTRAL_M, 0, -1)).astype(np.int8)


def _labels_of(path: Path, rows: dict[str, int]) -> NDArray[np.int8]:
    labels = np.full((len(rows), len(rows)), -1, np.int8)
    matches = read_matches(path)
    for pairs, label in ((matches.positive, 1), (matches.ignored, 0)):
        for query, reference in pairs:
            labels[rows[query], rows[reference]] = label
    return labels


def _within_keyframes(count: int, radius: int) -> NDArray[np.bool_]:
    numbers = np.arange(count)
    return np.asarray(np.abs(numbers[:, None] - numbers[None, :]) <= radius)


def _grown(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel) > 0)


def _described(encoder: Encoder, paths: Sequence[Path]) -> NDArray[np.float32]:
    return np.concatenate([encoder.encode([np.asarray(cv2.imread(str(path)), np.uint8)]) for path in paths])


def _seconds(count: int) -> list[int]:
    return [number * 10**9 for number in range(count)]
