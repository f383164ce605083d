"""Go through keyframes that are there already as the detector would, from what a map stores: no images, no geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from progeo_edge.bundle import ModelSpec
from progeo_edge.calibration import Calibration, Calibrator, Gate, MapSizes
from progeo_edge.candidates import CandidateSearch
from progeo_edge.config import Config, config_to_yaml
from progeo_edge.consistency import DrivenPath
from progeo_edge.judge import Judge
from progeo_edge.map_store import MapStore
from progeo_edge.timing import StageTimer
from progeo_edge.types import Candidate, Keyframe, LoopClosure, Status


class ReplayedSession:
    """One session's keyframes, proposed for and calibrated on one after the other.

    Args:
        spec: The model that made the descriptors.
        config: Settings.
        map_store: In-memory map of the sessions before; None begins with an empty one.
    """

    def __init__(self, spec: ModelSpec, config: Config, map_store: MapStore | None = None) -> None:
        self.map_store = MapStore.create(None, spec) if map_store is None else map_store
        session = self.map_store.begin_session("replay", camera=None, config_yaml=config_to_yaml(config))
        self._session = session
        self._path = DrivenPath(config.odometry)
        self._search = CandidateSearch(self.map_store, config, self._path, current_session=session)
        self._judge = Judge(self.map_store, config, self._path, self._search.index, current_session=session)
        self.calibrator = Calibrator(self.map_store, config.calibration, self._judge.graph, self._path.covariance, {})
        self.gate: Gate | None = None
        """The gate that the last keyframe was judged by; None without a calibration."""
        self.num_searched = 0
        """References that the last keyframe could find."""

    @property
    def ranked(self) -> Sequence[tuple[int, float]]:
        """Ids and cosines of the last keyframe's nearest references, best first."""
        return self._search.ranked

    def next_id(self) -> int:
        """The id that the next keyframe gets."""
        return self.map_store.next_keyframe_id()

    def add(self, keyframe: Keyframe, closures: Sequence[LoopClosure] = ()) -> list[Candidate]:
        """Propose candidates for the next keyframe, decide what comes before the geometry, and learn.

        Args:
            keyframe: With the id of `next_id`; the session is that of the replay.
            closures: Its verified closures, in ids of the replay.

        Returns:
            The candidates, with `supported` and `probability` as the detector would have set them.
        """
        timer = StageTimer()
        keyframe = replace(keyframe, session=self._session, features=None)
        candidates = self._search.propose(keyframe, timer)
        sizes = MapSizes(len(self._search), self._search.num_of_session)
        self.num_searched = sizes.searched
        candidates = self.calibrator.with_probabilities(candidates, keyframe.camera, sizes.searched)
        self.gate = self.calibrator.gate(keyframe.camera, sizes.searched)
        candidates = self._judge.with_support(keyframe, candidates, self.gate)
        self.map_store.add_keyframe(keyframe, status=Status.NO_CANDIDATE, closures=closures)
        self._path.add(keyframe.id, keyframe.T_odom_base)
        self._search.remember(keyframe)
        self._judge.remember(keyframe, candidates, closures)
        motion = self._judge.motion_method(keyframe.camera)
        self.calibrator.observe(keyframe, self._search.ranked, candidates, closures, sizes, motion)
        return candidates


def calibrate_map(
    map_store: MapStore, config: Config, advance: Callable[[], object] = lambda: None
) -> dict[str, Calibration]:
    """Learn from all sessions of a map, whose closures count as verified.

    Args:
        map_store: The map; when it is open for writing, calibrations and observations are stored in it.
        config: Settings.
        advance: Called after every keyframe.

    Returns:
        Calibration by name of the camera.

    Raises:
        CalibrationError: the map holds too little to learn from.
    """
    closures: dict[int, list[LoopClosure]] = {}
    for closure in map_store.closures():
        closures.setdefault(closure.query_id, []).append(closure)
    replayed: MapStore | None = None
    new_ids: dict[int, int] = {}
    session: ReplayedSession | None = None
    infos = map_store.infos()
    for number in [s.id for s in map_store.sessions()]:
        session = ReplayedSession(map_store.spec, config, replayed)
        replayed = session.map_store
        for info in (info for info in infos if info.session == number):
            new_ids[info.id] = session.next_id()
            own = [_renumbered(c, new_ids) for c in closures.get(info.id, ()) if c.reference_id in new_ids]
            session.add(replace(map_store.keyframe(info.id), id=new_ids[info.id]), own)
            advance()
    if session is None or replayed is None:
        return {}
    cameras = sorted({info.camera for info in infos})
    result = {camera: session.calibrator.refit(camera) for camera in cameras}
    session.calibrator.save()
    if not map_store.read_only:
        _copy_calibrations(replayed, map_store)
    return result


def _renumbered(closure: LoopClosure, new_ids: dict[int, int]) -> LoopClosure:
    return replace(closure, query_id=new_ids[closure.query_id], reference_id=new_ids[closure.reference_id])


def _copy_calibrations(source: MapStore, target: MapStore) -> None:
    for key in source.document_keys():
        if key.startswith("calibration"):
            target.set_document(key, source.document(key) or {})
    for key in source.blob_keys():
        if key.startswith("calibration"):
            target.set_blob(key, source.blob(key) or b"")
