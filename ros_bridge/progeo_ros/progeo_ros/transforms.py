"""Poses of the last seconds, and the tree of frames (tf), asked for the stamp of an image."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Generic, TypeVar

import numpy as np

from progeo_edge.geometry import invert
from progeo_edge.sources.poses import MAX_GAP_NS, interpolate_pose
from progeo_edge.types import Transform
from progeo_ros.conversions.incoming import StampedTransform

P = TypeVar("P")

KEEP_NS = 20 * 10**9
"""How far back poses are kept."""
RESTART_NS = 10**9
"""Stamps that go back by more than this come from a bag or a simulation that was started anew."""


class PoseHistory(Generic[P]):
    """Stamped poses of one frame in another, for the last 20 s.

    Args:
        transform: Makes a transform of what is kept, when it is asked for.
    """

    def __init__(self, transform: Callable[[P], Transform]) -> None:
        self._transform = transform
        self._stamps_ns: list[int] = []
        self._poses: list[P] = []

    def __len__(self) -> int:
        """Number of poses kept."""
        return len(self._stamps_ns)

    def add(self, stamp_ns: int, pose: P) -> None:
        """Keep a pose; of equal stamps the first. A stamp that jumps back by more than 1 s forgets all before."""
        if self._stamps_ns and stamp_ns < self._stamps_ns[-1] - RESTART_NS:
            self._stamps_ns, self._poses = [], []
        place = bisect_left(self._stamps_ns, stamp_ns)
        if place < len(self._stamps_ns) and self._stamps_ns[place] == stamp_ns:
            return
        self._stamps_ns.insert(place, stamp_ns)
        self._poses.insert(place, pose)
        old = bisect_left(self._stamps_ns, self._stamps_ns[-1] - KEEP_NS)
        if old > len(self._stamps_ns) // 2:  # in bulk: deleting one at a time would move the whole list each time
            del self._stamps_ns[:old], self._poses[:old]

    def forget_after(self, stamp_ns: int) -> None:
        """Drop what lies more than 1 s after a stamp: time was set back to it."""
        place = bisect_left(self._stamps_ns, stamp_ns + RESTART_NS)
        del self._stamps_ns[place:], self._poses[place:]

    def reaches(self, stamp_ns: int) -> bool:
        """Whether a later pose cannot change what `at` says."""
        return bool(self._stamps_ns) and self._stamps_ns[-1] >= stamp_ns

    def at(self, stamp_ns: int) -> Transform | None:
        """Pose at a stamp, interpolated; None outside what is kept and in a gap of more than 0.5 s."""
        after = bisect_left(self._stamps_ns, stamp_ns)
        if after == len(self._stamps_ns):
            return None
        if self._stamps_ns[after] == stamp_ns:
            return self._transform(self._poses[after])
        if after == 0:
            return None
        start_ns, end_ns = self._stamps_ns[after - 1], self._stamps_ns[after]
        if end_ns - start_ns > MAX_GAP_NS:
            return None
        share = (stamp_ns - start_ns) / (end_ns - start_ns)
        T_start, T_end = (self._transform(pose) for pose in self._poses[after - 1 : after + 1])
        return interpolate_pose(T_start, T_end, share)


class TransformTree:
    """The frames of tf: every frame has one parent, to which it stands still or moves."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}
        self._statics: dict[str, Transform] = {}
        self._histories: dict[str, PoseHistory[StampedTransform]] = {}

    def add(self, transforms: Iterable[StampedTransform], *, is_static: bool) -> None:
        """Take over usable transforms of tf_static or tf; a frame that gets another parent leaves the former one."""
        for transform in transforms:
            child = transform.child
            if self._parents.get(child) != transform.parent:
                self._parents[child] = transform.parent
                self._statics.pop(child, None)
                self._histories.pop(child, None)
            if is_static:
                self._statics[child] = transform.T_parent_child
                self._histories.pop(child, None)
            elif child not in self._statics:
                self._history(child).add(transform.stamp_ns, transform)

    def forget_after(self, stamp_ns: int) -> None:
        """Time was set back: what moves is forgotten where it lies more than 1 s after a stamp."""
        for history in self._histories.values():
            history.forget_after(stamp_ns)

    def is_connected(self, a: str, b: str) -> bool:
        """Whether there is a chain of transforms between two frames, at any time."""
        return self._branches(a, b) is not None

    def reaches(self, a: str, b: str, stamp_ns: int) -> bool:
        """Whether a later transform cannot change what `at` says."""
        histories = [self._histories[child] for child in self._between(a, b) if child in self._histories]
        return self.is_connected(a, b) and all(history.reaches(stamp_ns) for history in histories)

    def at(self, a: str, b: str, stamp_ns: int) -> Transform | None:
        """T_a_b at a stamp; None when the frames are not connected, or a moving part is not known for that time."""
        branches = self._branches(a, b)
        if branches is None:
            return None
        T_top_a, T_top_b = (self._up(branch, stamp_ns) for branch in branches)
        return None if T_top_a is None or T_top_b is None else invert(T_top_a) @ T_top_b

    def _history(self, child: str) -> PoseHistory[StampedTransform]:
        if child not in self._histories:
            self._histories[child] = PoseHistory(attrgetter("T_parent_child"))
        return self._histories[child]

    def _up(self, branch: list[str], stamp_ns: int) -> Transform | None:
        """T_top_frame along the frames from the lowest one upwards, without the top itself."""
        T: Transform = np.eye(4)
        for child in branch:
            T_parent_child = self._statics.get(child)
            if T_parent_child is None and child in self._histories:
                T_parent_child = self._histories[child].at(stamp_ns)
            if T_parent_child is None:
                return None
            T = T_parent_child @ T
        return T

    def _between(self, a: str, b: str) -> list[str]:
        branches = self._branches(a, b)
        return [] if branches is None else [*branches[0], *branches[1]]

    def _branches(self, a: str, b: str) -> tuple[list[str], list[str]] | None:
        """Frames from a, and from b, up to below the nearest frame above both; None when there is none."""
        above_a, above_b = self._ancestors(a), self._ancestors(b)
        top = next((frame for frame in above_a if frame in above_b), None)
        return None if top is None else (above_a[: above_a.index(top)], above_b[: above_b.index(top)])

    def _ancestors(self, frame: str) -> list[str]:
        """The frame and all above it; a loop, which tf forbids, ends where it closes."""
        chain = [frame]
        while (parent := self._parents.get(chain[-1])) is not None and parent not in chain:
            chain.append(parent)
        return chain
