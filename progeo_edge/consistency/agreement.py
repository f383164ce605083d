"""Whether a new closure agrees with the closures before it: a vote of its neighbours, and PCM as an option."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from progeo_edge.config import Config
from progeo_edge.consistency.drift import Drives
from progeo_edge.consistency.measured import NO_LEVER, measured
from progeo_edge.consistency.pairwise import (
    Ends,
    disagreement2,
    floor_covariance,
    largest_clique,
    legs,
    metres_apart,
)
from progeo_edge.geometry import FloatArray, camera_named
from progeo_edge.map_store import MapStore
from progeo_edge.types import Candidate, Keyframe, LoopClosure, Status, Transform

_WITHHELD = (Status.CONTRADICTED, Status.UNCONFIRMED)


@dataclass(frozen=True, slots=True, eq=False)
class Agreed:
    """What became of the closures of a keyframe.

    Attributes:
        candidates: In the given order; what is withheld is no longer ACCEPTED.
        released: Closures of earlier keyframes that were withheld and are confirmed now.
        doubtful: Query and reference id of published closures that are outvoted now.
    """

    candidates: list[Candidate]
    released: tuple[LoopClosure, ...] = ()
    doubtful: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """A closure that takes part in the vote."""

    closure: LoopClosure
    ends: Ends


@dataclass(frozen=True, slots=True, eq=False)
class _Compared:
    """A known closure beside a new one."""

    known: _Known
    agrees: bool
    metres: float


class ClosureAgreement:
    """Remembers the last closures, published and withheld, and lets them vote on new ones.

    Args:
        map_store: Says which closures and cameras there are already.
        config: Limits.
        drives: The way driven in every session.
        current_session: The session whose closures are judged; None with a read-only map.
    """

    def __init__(self, map_store: MapStore, config: Config, drives: Drives, *, current_session: int | None) -> None:
        self._config = config
        self._drives = drives
        self._session = current_session
        self._floor = floor_covariance(config.odometry.floor_m, config.odometry.floor_deg)
        self._cameras = {session.id: session.camera for session in map_store.sessions()}
        self._origins = {info.id: (info.session, info.camera) for info in map_store.infos()}
        self._published: deque[_Known] = deque(maxlen=config.consistency.window)
        self._withheld: deque[_Known] = deque(maxlen=config.consistency.window)
        for closure in map_store.closures():
            if self._origins[closure.query_id][0] == current_session:
                self._published.extend(self._known([closure]))

    def judge(self, keyframe: Keyframe, candidates: Sequence[Candidate]) -> Agreed:
        """Withhold accepted candidates that contradict their neighbours. Changes nothing that the next call sees."""
        config = self._config.consistency
        if not (config.enabled or config.pcm) or keyframe.T_odom_base is None:
            return Agreed(list(candidates))
        decided: list[Candidate] = []
        accepted: list[_Known] = []
        released: list[LoopClosure] = []
        doubtful: list[tuple[int, int]] = []
        for candidate in candidates:
            new = self._known([closure_of(keyframe.id, candidate)], keyframe)
            if candidate.status is Status.ACCEPTED and new:
                outvoted: list[_Known] = []
                if config.enabled:
                    candidate, outvoted = self._vote(candidate, new[0], accepted, keyframe.T_odom_base)
                if candidate.status is Status.ACCEPTED and config.pcm:
                    candidate, freed = self._confirm(candidate, new[0], accepted, keyframe.T_odom_base)
                    released += [k.closure for k in freed if k.closure not in released]
                if candidate.status is Status.ACCEPTED:
                    accepted.append(new[0])
                    doubtful += [(k.ends.query_id, k.ends.reference_id) for k in outvoted]
            decided.append(candidate)
        return Agreed(decided, tuple(released), tuple(dict.fromkeys(doubtful)))

    def remember(self, keyframe: Keyframe, agreed: Agreed) -> None:
        """The keyframe is in the map, with the closures that were accepted and released."""
        self._origins[keyframe.id] = (keyframe.session, keyframe.camera)
        self._published = self._without(self._published, agreed.doubtful)
        self._withheld = self._without(self._withheld, [(c.query_id, c.reference_id) for c in agreed.released])
        published = [c for c in agreed.candidates if c.status is Status.ACCEPTED]
        withheld = [c for c in agreed.candidates if c.status in _WITHHELD]
        self._published.extend(self._known(agreed.released))
        self._published.extend(self._known([closure_of(keyframe.id, c) for c in published]))
        self._withheld.extend(self._known([closure_of(keyframe.id, c) for c in withheld]))

    def _vote(
        self, candidate: Candidate, new: _Known, accepted: Sequence[_Known], T_odom_query: Transform
    ) -> tuple[Candidate, list[_Known]]:
        """The candidate, withheld unless more keyframes agree with it than contradict it; and whom it outvotes.

        Withheld closures vote for a new one, but never against: so a first wrong closure is outvoted in the end, while
        one that was withheld for good reason has no say.
        """
        published = self._compare(new, [*self._published, *accepted], T_odom_query)
        withheld = self._compare(new, self._withheld, T_odom_query)
        against = [c.known for c in published if not c.agrees]
        in_favour = {c.known.ends.query_id for c in [*published, *withheld] if c.agrees and self._is_near(c)}
        contradicted = tuple(sorted({k.ends.query_id for k in against}))
        if contradicted and len(in_favour) <= len(contradicted):
            return replace(candidate, status=Status.CONTRADICTED, contradicts=contradicted), []
        return replace(candidate, contradicts=contradicted), against

    def _confirm(
        self, candidate: Candidate, new: _Known, accepted: Sequence[_Known], T_odom_query: Transform
    ) -> tuple[Candidate, list[_Known]]:
        """The candidate, withheld unless enough closures agree with it and with each other; and those it sets free."""
        pool = [*self._published, *accepted, *self._withheld]
        companions = [c.known for c in self._compare(new, pool, T_odom_query) if c.agrees and self._is_near(c)]
        nodes = [*sorted(companions, key=lambda known: known.ends.query_id), new]
        agree: list[set[int]] = [set() for _ in nodes]
        for i, known in enumerate(nodes):
            later = nodes[i + 1 :]
            for j, other in enumerate(later, start=i + 1):
                T = T_odom_query if other.ends.query_id == new.ends.query_id else None
                compared = self._compare(other, [known], T)
                if compared and compared[0].agrees:
                    agree[i].add(j)
                    agree[j].add(i)
        clique = [nodes[i] for i in sorted(largest_clique(agree, len(nodes) - 1))]
        if len({known.ends.query_id for known in clique}) < self._config.consistency.pcm_required:
            return replace(candidate, status=Status.UNCONFIRMED), []
        waiting = set(map(id, self._withheld))
        return candidate, [known for known in clique if id(known) in waiting]

    def _compare(self, new: _Known, others: Iterable[_Known], T_odom_query: Transform | None) -> list[_Compared]:
        """The new closure beside the nearest of the others, along the odometry that leads to them."""
        apart = [(other, metres_apart(other.ends, new.ends, self._drives, T_odom_query)) for other in others]
        nearest = sorted(((o, metres) for o, metres in apart if metres is not None), key=lambda item: item[1])
        result: list[_Compared] = []
        for other, metres in nearest:
            if len(result) == self._config.consistency.neighbours:
                break
            way = legs(other.ends, new.ends, self._drives, T_odom_query)
            if way is not None:
                distance2 = disagreement2(other.ends.measured, new.ends.measured, *way, self._floor)
                result.append(_Compared(other, distance2 <= self._config.consistency.max_mahalanobis2, metres))
        return result

    def _is_near(self, compared: _Compared) -> bool:
        return compared.metres <= self._config.consistency.max_leg_m

    def _known(self, closures: Iterable[LoopClosure], newest: Keyframe | None = None) -> list[_Known]:
        """The closures that have a pose.

        Args:
            closures: Of keyframes in the map, or of the newest one.
            newest: The keyframe that is not in the map yet.
        """
        origins = self._origins if newest is None else {newest.id: (newest.session, newest.camera)}
        result = []
        for closure in closures:
            query = origins[closure.query_id]
            reference = self._origins[closure.reference_id]
            pose = measured(closure, self._config, self._lever_m(*query), self._lever_m(*reference))
            if pose is not None:
                result.append(
                    _Known(closure, Ends(closure.query_id, closure.reference_id, query[0], reference[0], pose))
                )
        return result

    def _lever_m(self, session: int, camera_name: str) -> FloatArray:
        camera = camera_named(self._cameras.get(session), camera_name)
        return NO_LEVER if camera is None else camera.T_base_camera[:3, 3]

    def _without(self, known: deque[_Known], pairs: Sequence[tuple[int, int]]) -> deque[_Known]:
        kept = [k for k in known if (k.ends.query_id, k.ends.reference_id) not in pairs]
        return deque(kept, maxlen=self._config.consistency.window)


def closure_of(query_id: int, candidate: Candidate) -> LoopClosure:
    """The closure that a candidate is when it is accepted."""
    return LoopClosure(
        query_id,
        candidate.reference_id,
        candidate.similarity,
        candidate.probability,
        candidate.verification,
        candidate.odom_mahalanobis,
    )
