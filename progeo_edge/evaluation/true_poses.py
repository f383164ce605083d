"""Ground truth by poses: the same place is where the distance is small, whoever drew the labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError, SourceError
from progeo_edge.evaluation.labelled_run import LabelledRun
from progeo_edge.evaluation.labels import match_names
from progeo_edge.evaluation.recorded_run import RecordedRun
from progeo_edge.sources.listing import parse_stamp_ns, read_listing
from progeo_edge.sources.poses import PoseTrack, read_fields
from progeo_edge.types import Transform

TUM_FIELDS = 8


@dataclass(frozen=True, slots=True)
class Nearness:
    """What counts as the same place.

    Attributes:
        radius_m: Poses at most this far apart, and
        max_angle_deg: turned against each other by at most this angle, are the same place.
        neutral_m: Up to this distance, at any angle, a pair is neither right nor wrong.
    """

    radius_m: float = 10.0
    max_angle_deg: float = 60.0
    neutral_m: float = 20.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InputError: a radius that is not positive, an angle outside 0 to 180, or a neutral band inside the radius.
        """
        if not (self.radius_m > 0 and 0 < self.max_angle_deg <= 180):
            raise InputError(
                f"radius {self.radius_m} m and angle {self.max_angle_deg} deg are not possible; expected a positive "
                "radius and an angle up to 180"
            )
        if self.neutral_m < self.radius_m:
            raise InputError(
                f"the neutral band ends at {self.neutral_m} m, inside the radius of {self.radius_m} m; give it a "
                "distance that is not smaller"
            )


@dataclass(frozen=True, slots=True, eq=False)
class TruePoses:
    """True poses by time or by image name.

    Attributes:
        path: The file, for messages.
        track: Poses by time; None when they are by name.
        by_name: Poses by image name; empty when they are by time.
        nearness: What counts as the same place.
    """

    path: Path
    track: PoseTrack | None = None
    by_name: dict[str, Transform] = field(default_factory=dict)
    nearness: Nearness = field(default_factory=Nearness)

    def of(self, names_and_stamps: dict[str, int | None]) -> dict[str, Transform]:
        """The poses of keyframes; those without one are absent.

        Args:
            names_and_stamps: Stamp in nanoseconds by name; None where it is not known.

        Raises:
            SourceError: a name fits several images of the file.
        """
        if self.track is None:
            partner = match_names(sorted(names_and_stamps), self.by_name)
            return {name: self.by_name[partner[name]] for name in names_and_stamps if name in partner}
        poses = {n: self.track.at(stamp) for n, stamp in names_and_stamps.items() if stamp is not None}
        return {name: T for name, T in poses.items() if T is not None}


def read_true_poses(path: Path, nearness: Nearness | None = None) -> TruePoses:
    """Read true poses: a TUM trajectory, or a list with a header.

    TUM: lines of seconds, position and quaternion. With a header: a column `image` or a time (`time_s`, also _ms, _us,
    _ns), and `x y z qx qy qz qw` or `x_m y_m yaw_rad`.

    Raises:
        SourceError: unreadable, or a file that holds no poses.
    """
    lines = read_fields(path)
    if not lines:
        raise SourceError(f"{path} holds no line; expected a TUM trajectory, or a list with a header and poses")
    nearness = nearness or Nearness()
    if all(_is_number(value) for value in lines[0][1]):
        return TruePoses(path, _tum_track(path, lines), nearness=nearness)
    listing = read_listing(path)
    if not listing.has_poses or not (listing.has_images or listing.has_stamps):
        raise SourceError(
            f"{path} has the columns {', '.join(lines[0][1])}; expected image or time_s, and x,y,z,qx,qy,qz,qw or "
            "x_m,y_m,yaw_rad"
        )
    posed = [(row, row.T_odom_base) for row in listing.rows if row.T_odom_base is not None]
    if listing.has_stamps:
        stamped = [(row.stamp_ns, T) for row, T in posed if row.stamp_ns is not None]
        return TruePoses(path, _track([s for s, _ in stamped], [T for _, T in stamped], path), nearness=nearness)
    return TruePoses(path, None, {row.image: T for row, T in posed}, nearness)


def _tum_track(path: Path, lines: list[tuple[int, list[str]]]) -> PoseTrack:
    stamps_ns, poses = [], []
    for number, fields in lines:
        try:
            if len(fields) != TUM_FIELDS:
                raise ValueError(f"{len(fields)} fields")
            stamps_ns.append(parse_stamp_ns(fields[0], 10**9))
            poses.append([float(value) for value in fields[1:]])
        except ValueError as error:
            raise SourceError(
                f"{path} line {number}: {error}; expected seconds x y z qx qy qz qw, as TUM trajectories have"
            ) from None
    return PoseTrack(stamps_ns, poses, str(path))


def _track(stamps_ns: list[int], poses: list[Transform], path: Path) -> PoseTrack:
    from progeo_edge.geometry import quaternion_xyzw

    rows = [np.concatenate([T[:3, 3], quaternion_xyzw(T[:3, :3])]) for T in poses]
    return PoseTrack(stamps_ns, np.array(rows).reshape(-1, 7), str(path))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def label_by_poses(run: RecordedRun, truth: TruePoses, exclusion_s: float) -> LabelledRun:
    """Label the keyframes of a run by how far apart they really were.

    A reference is positive for a later keyframe when the two are the same place by `truth.nearness` and the exclusion
    has passed. Pairs in the neutral band, near pairs inside the exclusion, and pairs without a true pose are neutral.

    Raises:
        SourceError: not one keyframe has a true pose, or references of an earlier map have none because the file
            knows only times.
    """
    stamps = {keyframe.query: keyframe.stamp_ns for keyframe in run.keyframes}
    asked = [{c.reference for c in keyframe.candidates} for keyframe in run.keyframes]
    row_of = {name: row for row, name in enumerate(stamps)}
    for closure in run.closures:
        if closure.query in row_of:
            asked[row_of[closure.query]].add(closure.reference)
    elsewhere = set().union(*asked) - set(stamps)
    if elsewhere and truth.track is not None:
        raise SourceError(
            f"{run.path} recognised keyframes of an earlier map, such as {min(elsewhere)}, whose times are not in the "
            f"run; give {truth.path.name} by image name, or judge with --matches"
        )
    poses = truth.of({**stamps, **dict.fromkeys(elsewhere)})
    if not poses.keys() & stamps.keys():
        raise SourceError(
            f"none of the {len(stamps)} keyframes of {run.path} has a pose in {truth.path}; check that both have the "
            "same clock, or the same image names"
        )
    return _label(run, truth.nearness, poses, asked, exclusion_s)


def _label(
    run: RecordedRun,
    nearness: Nearness,
    poses: dict[str, Transform],
    asked: list[set[str]],
    exclusion_s: float,
) -> LabelledRun:
    names = [keyframe.query for keyframe in run.keyframes]
    earlier_map = sorted(poses.keys() - set(names))
    known = [*earlier_map, *(name for name in names if name in poses)]
    stamps_s = np.array([keyframe.stamp_ns * 1e-9 for keyframe in run.keyframes])
    stamp_of = dict(zip(names, stamps_s.tolist(), strict=True))
    known_s = np.array([stamp_of.get(name, -np.inf) for name in known])
    T_known = np.stack([poses[name] for name in known])
    positives, neutral, num_excluded = [], [], 0
    for row, name in enumerate(names):
        if name not in poses:
            positives.append(frozenset[str]())
            neutral.append(frozenset(asked[row]))
            continue
        distance_m, angle_deg = _apart(poses[name], T_known)
        same = (distance_m <= nearness.radius_m) & (angle_deg <= nearness.max_angle_deg)
        before = known_s < stamps_s[row]
        old = stamps_s[row] - known_s >= exclusion_s
        right = same & before & old
        doubtful = (distance_m <= nearness.neutral_m) & ~right
        positives.append(frozenset(known[i] for i in np.flatnonzero(right)))
        unknown = {reference for reference in asked[row] if reference not in poses}
        neutral.append(frozenset(known[i] for i in np.flatnonzero(doubtful)) | unknown)
        num_excluded += int(not right.any() and bool((same & before).any()))
    return LabelledRun(
        positives=tuple(positives),
        neutral=tuple(neutral),
        label_names={},
        num_excluded=num_excluded,
        num_unlisted=sum(name not in poses for name in names),
    )


def _apart(T: Transform, others: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances (N,) in metres and angles (N,) in degrees of one pose to (N, 4, 4) others."""
    distance_m = np.linalg.norm(others[:, :3, 3] - T[:3, 3], axis=1)
    cosine = 0.5 * (np.einsum("ij,nij->n", T[:3, :3], others[:, :3, :3]) - 1.0)
    return distance_m, np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
