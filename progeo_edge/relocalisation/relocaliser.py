"""Where in a known map did the robot wake up? A few views vote for places; one answer with a probability, or none.

Every frame is looked up by itself (`LoopDetector.relocalize`). Verified candidates are its votes. Votes belong together
when the robot's own motion between the views fits the way between their references. The place with the strongest
support is the answer, unless another place explains the views as well. docs/relocalisation.md says what the probability
means, and how often it was right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from progeo_edge.detector import RELOCALISATION_QUERY_ID, LoopDetector
from progeo_edge.geometry import check_transform
from progeo_edge.keyframe_gate import KeyframeGate
from progeo_edge.outcome import PROGRESS
from progeo_edge.relocalisation.evidence import log_odds, posterior
from progeo_edge.relocalisation.votes import Agreement, View, Vote, motion
from progeo_edge.types import Descriptor, Frame, LoopClosure, PoseKind, Relocalisation, Status, Update

NO_VOTE = (Status.UNRECOGNISABLE, Status.NO_CANDIDATE)
"""A picture of nothing, and one that could be compared with nothing, speak neither for nor against a place."""


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Votes for one place, at most one per view, the strongest first.

    The other views count against it. When it is a rival of another place, only those do that looked at it and found
    something else: in a corridor of many equal doors no view has the time to verify all of them.
    """

    votes: tuple[Vote, ...]
    log_odds: float
    log_odds_as_rival: float


class Relocaliser:
    """Collects votes since power-on. To be used from one thread.

    Give it frames until `is_finished`. Blank frames and frames of an unchanged view do not vote. The last
    `relocalisation.max_frames` views are remembered.
    """

    def __init__(self, detector: LoopDetector, *, include_recent: bool = True) -> None:
        """Begin as after power-on.

        Args:
            detector: Over the known map, which may be open read-only; its config decides.
            include_recent: As in `LoopDetector.relocalize`: while mapping, the recent past would always be the answer.
        """
        self._detector = detector
        self._include_recent = include_recent
        self._config = detector.config.relocalisation
        self._agree = Agreement(detector.map_store, detector.config)
        self.forget()

    def forget(self) -> None:
        """Begin anew, as after power-on: the robot was carried away."""
        self._views: deque[tuple[View, Status]] = deque(maxlen=self._config.max_frames)
        self._num_views = 0
        self._last: dict[str, Frame] = {}
        self._gates: dict[str, KeyframeGate] = {}
        self._answer = Relocalisation(None, 0.0)

    @property
    def answer(self) -> Relocalisation:
        """What `add` said last; no match before the first frame."""
        return self._answer

    @property
    def is_finished(self) -> bool:
        """Whether there is a match, or as many views as may vote."""
        return self._answer.match is not None or len(self._views) == self._config.max_frames

    def add(self, frame: Frame) -> Relocalisation:
        """Look a frame up, and say what all views so far amount to.

        Args:
            frame: With `T_odom_base` in the odometry frame of the present session where there is odometry.

        Raises:
            InputError: image or pose of a wrong shape, type or value; the answer is unchanged.
        """
        if frame.T_odom_base is not None:
            check_transform(frame.T_odom_base, f"frame {frame.name or frame.stamp_ns}: T_odom_base")
        if self._is_frozen(frame):
            # Whatever this picture voted for, it does not show where the robot is now.
            self.forget()
            self._last[frame.camera] = frame
            self._answer = Relocalisation(None, 0.0, status=Status.FROZEN)
        elif self._is_new_view(frame):
            update = self._detector.relocalize(frame, include_recent=self._include_recent)
            if update.status not in NO_VOTE:
                self._remember(frame, update)
                self._answer = self._decide()
            elif not self._views:
                self._answer = Relocalisation(None, 0.0, status=update.status)
        return self._answer

    # -- views -------------------------------------------------------------------------------------------------------

    def _is_frozen(self, frame: Frame) -> bool:
        """The robot moved since the last vote, and the camera gives the very same numbers: no sensor does that."""
        last = self._last.get(frame.camera)
        if last is None or frame.T_odom_base is None or last.T_odom_base is None:
            return False
        return self._gate_of(frame).has_moved(frame) and np.array_equal(frame.image, last.image)

    def _is_new_view(self, frame: Frame) -> bool:
        """A robot that stands still says the same again; that is no second vote, unless another camera says it."""
        gate = self._gate_of(frame)
        return gate.has_moved(frame) and gate.view_has_changed(frame, self._descriptor(frame))

    def _gate_of(self, frame: Frame) -> KeyframeGate:
        return self._gates.setdefault(frame.camera, KeyframeGate(self._detector.config.keyframe))

    def _descriptor(self, frame: Frame) -> Descriptor:
        """For the comparison with the last view, which only robots without odometry need."""
        if frame.T_odom_base is not None:
            return np.zeros(0, np.float32)
        return cast(Descriptor, self._detector.encoder.encode([frame.image])[0])

    def _remember(self, frame: Frame, update: Update) -> None:
        self._gate_of(frame).keep(frame, self._descriptor(frame))
        self._last[frame.camera] = frame
        accepted = tuple(c for c in update.candidates if c.status is Status.ACCEPTED)
        # The geometry that was refused says nothing of the pose.
        refused = tuple(
            replace(c, verification=None)
            for c in update.candidates
            if c.verification and c.status is not Status.ACCEPTED
        )
        view = View(self._num_views, frame.stamp_ns, frame.T_odom_base, accepted, refused)
        self._views.append((view, update.status))
        self._num_views += 1

    # -- places ------------------------------------------------------------------------------------------------------

    def _decide(self) -> Relocalisation:
        places = self._places()
        if not places:
            furthest = max((status for _, status in self._views), key=PROGRESS.index)
            return Relocalisation(None, 0.0, status=furthest, num_frames=len(self._views))
        probabilities = posterior([places[0].log_odds, *(place.log_odds_as_rival for place in places[1:])])
        if probabilities[0] >= self._config.min_probability:
            return self._match(places[0].votes[0], probabilities[0])
        is_somewhere = sum(probabilities) >= self._config.min_probability
        status = Status.AMBIGUOUS if is_somewhere else Status.FAILED_SEQUENCE
        return Relocalisation(None, probabilities[0], status=status, num_frames=len(self._views))

    def _places(self) -> list[_Place]:
        """Votes grouped by what they mean, the likeliest place first; what touches a likelier place is no rival."""
        votes = [Vote(view, candidate) for view, _ in self._views for candidate in view.accepted]
        agrees = np.array([[self._agree(a, b) for b in votes] for a in votes], dtype=bool)
        is_open = np.ones(len(votes), dtype=bool)
        places = []
        while is_open.any():
            groups = [np.flatnonzero(is_open & agrees[centre]) for centre in np.flatnonzero(is_open)]
            candidates = [self._place([votes[i] for i in group]) for group in groups]
            best = max(range(len(groups)), key=lambda i: candidates[i].log_odds)
            places.append(candidates[best])
            is_open &= ~agrees[groups[best]].any(axis=0)
        return places

    def _place(self, votes: Sequence[Vote]) -> _Place:
        strongest: dict[int, Vote] = {}
        for vote in sorted(votes, key=lambda vote: vote.num_inliers, reverse=True):
            strongest.setdefault(vote.view.index, vote)
        first = next(iter(strongest.values())).candidate
        prior = self._config.prior_probability if first.probability is None else first.probability
        others = [view for view, _ in self._views if view.index not in strongest]
        num_denying = sum(self._denies(view, next(iter(strongest.values()))) for view in others)
        evidence = [log_odds(prior, first.verification, len(strongest) - 1, n) for n in (len(others), num_denying)]
        return _Place(tuple(strongest.values()), *evidence)

    def _denies(self, view: View, vote: Vote) -> bool:
        return any(self._agree(vote, Vote(view, candidate)) for candidate in view.refused)

    # -- the answer --------------------------------------------------------------------------------------------------

    def _match(self, vote: Vote, probability: float) -> Relocalisation:
        c = vote.candidate
        reference = self._detector.map_store.keyframe(c.reference_id)
        newest = self._views[-1][0]
        T_vote_newest = motion(vote.view, newest)
        T_odom_base = None
        if vote.pose_kind is PoseKind.METRIC and reference.T_odom_base is not None:
            T_odom_base = reference.T_odom_base @ vote.T_reference_base
            T_odom_base = T_odom_base if T_vote_newest is None else T_odom_base @ T_vote_newest
        return Relocalisation(
            LoopClosure(RELOCALISATION_QUERY_ID, c.reference_id, c.similarity, c.probability, c.verification),
            probability,
            T_odom_base,
            reference.session,
            Status.ACCEPTED,
            len(self._views),
            vote.view.stamp_ns if T_vote_newest is None else newest.stamp_ns,
            vote.view.stamp_ns,
        )
