"""From a query's descriptor to a short list of candidates: search, re-rank, similarity gate, suppression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from progeo_edge.config import Config
from progeo_edge.consistency import DrivenPath
from progeo_edge.exclusion import RecentKeyframes
from progeo_edge.index import PlaceIndex
from progeo_edge.index_cache import load_index, save_index
from progeo_edge.map_store import KeyframeInfo, MapStore
from progeo_edge.moments import Moments
from progeo_edge.reranking import appearance_similarity, rerank_scores
from progeo_edge.timing import StageTimer
from progeo_edge.types import Candidate, Descriptor, Keyframe, Status

RANKED = 100
"""References whose cosine is kept for the calibration, which looks for the best one that is another place."""


class CandidateSearch:
    """Holds the searchable part of a map, and the recent past that is not searchable yet."""

    def __init__(
        self,
        map_store: MapStore,
        config: Config,
        path: DrivenPath,
        *,
        current_session: int | None,
        moments: Moments | None = None,
    ) -> None:
        """Args: moments: of the map's keyframes, shared with others; None reads them from the map."""
        self._map_store = map_store
        self._config = config
        self._path = path
        self._recent = RecentKeyframes(config.exclusion)
        self._sessions = {info.id: info.session for info in map_store.infos()}
        self._moments = Moments(map_store.infos()) if moments is None else moments
        self._index = self._load(current_session)
        self._num_of_session = 0
        self.ranked: list[tuple[int, float]] = []
        """Ids and cosines of the last query's nearest references outside the recent past, best first."""

    @property
    def num_of_session(self) -> int:
        """Keyframes of the current session that can be found now."""
        return self._num_of_session

    def __len__(self) -> int:
        """Keyframes that can be found now."""
        return len(self._index)

    @property
    def index(self) -> PlaceIndex:
        """The index, for self-checks and caching."""
        return self._index

    def propose(
        self, query: Keyframe, timer: StageTimer, *, relocalising: bool = False, include_recent: bool = False
    ) -> list[Candidate]:
        """Candidates best first, each either still NOT_VERIFIED or with the reason why it goes no further.

        Args:
            query: Descriptor, stamp, pose and appearance grid of the keyframe asked about.
            timer: Stages "search" and "rerank" are added.
            relocalising: The query is no keyframe; the recent past does not grow older by it.
            include_recent: Search the recent past too.
        """
        with timer.stage("search"):
            if not relocalising:
                self._release(query)
            candidates = self._nearest(query, include_recent=include_recent)
        with timer.stage("rerank"):
            candidates = self._rerank(query, candidates)
        return self._suppress(self._gate(candidates))

    def remember(self, keyframe: Keyframe) -> None:
        """The keyframe is in the map; it becomes searchable when it is old enough."""
        self._sessions[keyframe.id] = keyframe.session
        self._moments.add(keyframe)
        self._wait(keyframe, keyframe.descriptor)

    def save_cache(self) -> None:
        """Keep the HNSW graph, when there is one, for the next time the map is opened."""
        cache = _cache_path(self._map_store)
        if cache is not None:
            save_index(self._index, cache, self._map_store.map_id)

    def _load(self, current_session: int | None) -> PlaceIndex:
        """Earlier sessions are searchable at once; a resumed one goes through the exclusion window again."""
        ids, descriptors = self._map_store.descriptors()
        infos = {info.id: info for info in self._map_store.infos()}
        resumed = np.array([self._sessions[int(i)] == current_session for i in ids], dtype=bool)
        for keyframe_id, descriptor in zip(ids[resumed].tolist(), descriptors[resumed], strict=True):
            self._wait(infos[keyframe_id], descriptor)
        known_ids, known = ids[~resumed], descriptors[~resumed]
        cache = _cache_path(self._map_store)
        if cache is not None:
            return load_index(cache, self._map_store.map_id, known_ids, known, self._config.search)
        index = PlaceIndex(self._map_store.spec.dimension, self._config.search)
        index.add(known_ids, known)
        return index

    def _wait(self, keyframe: Keyframe | KeyframeInfo, descriptor: Descriptor) -> None:
        joins = self._moments.joined(keyframe.id)
        self._recent.push(keyframe.id, descriptor, keyframe.stamp_ns, self._path.at(keyframe.id), joins=joins)

    def _release(self, query: Keyframe) -> None:
        joins = self._moments.would_join(query.session, query.stamp_ns, query.camera)
        released = self._recent.release(query.stamp_ns, self._path.to(query.T_odom_base), joins=joins)
        if released:
            ids, descriptors = zip(*released, strict=True)
            self._index.add(np.array(ids, dtype=np.int64), np.stack(descriptors))
            self._num_of_session += len(ids)

    def _nearest(self, query: Keyframe, *, include_recent: bool) -> list[Candidate]:
        top_k = self._config.search.top_k
        ids, similarities = self._index.search(query.descriptor, max(top_k, RANKED))
        self.ranked = list(zip(ids.tolist(), similarities.tolist(), strict=True))
        candidates = [Candidate(reference_id, similarity) for reference_id, similarity in self.ranked[:top_k]]
        if include_recent:
            candidates += [Candidate(i, float(descriptor @ query.descriptor)) for i, descriptor in self._recent]
            candidates.sort(key=lambda candidate: (-candidate.similarity, candidate.reference_id))
        return candidates[:top_k]

    def _rerank(self, query: Keyframe, candidates: list[Candidate]) -> list[Candidate]:
        if query.appearance is None or not candidates:
            return candidates
        appearances = self._map_store.appearances([c.reference_id for c in candidates])
        if appearances is None:
            return candidates
        similarities = np.array([c.similarity for c in candidates], dtype=np.float32)
        alike = appearance_similarity(query.appearance, appearances)
        scores = rerank_scores(similarities, alike, self._config.search.rerank_weight)
        scored = [replace(c, rerank_score=float(s)) for c, s in zip(candidates, scores, strict=True)]
        order = np.argsort(-scores, kind="stable")
        return [scored[i] for i in order]

    def _gate(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        floor = self._config.gate.min_similarity
        return [c if c.similarity >= floor else replace(c, status=Status.LOW_SIMILARITY) for c in candidates]

    def _suppress(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Non-maximum suppression: the best candidate speaks for the moments around it in the same session."""
        radius = self._config.gate.nms_radius_keyframes
        kept: list[int] = []
        result = []
        for candidate in candidates:
            if candidate.status is Status.NOT_VERIFIED:
                if any(self._are_neighbours(candidate.reference_id, other, radius) for other in kept):
                    candidate = replace(candidate, status=Status.SUPPRESSED)
                else:
                    kept.append(candidate.reference_id)
            result.append(candidate)
        return result

    def _are_neighbours(self, a: int, b: int, radius: int) -> bool:
        near = abs(self._moments.number(a) - self._moments.number(b)) <= radius
        return near and self._sessions[a] == self._sessions[b]


def _cache_path(map_store: MapStore) -> Path | None:
    """Beside the map; None for a map in memory."""
    return None if map_store.path is None else map_store.path.with_name(map_store.path.name + ".hnsw")
