"""Encoder, map and detector as one: maps change, settings change, cameras change, and nothing acknowledged is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from progeo_edge.errors import InputError, MapError, ModelError
from progeo_edge.geometry import make_transform
from progeo_edge.map_store import MapStore
from progeo_edge.types import Status
from progeo_ros.config import NodeConfig
from progeo_ros.place_recogniser import PlaceRecogniser
from progeo_ros.running_detector import MAX_CAMERA_CHANGES
from tests.small_world import NUM_POSES, SPEC, camera, encoder, settings, two_passes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def frames():
    return two_passes()[0]


def open_at(path: Path, *overrides: str, **map_settings: object) -> PlaceRecogniser:
    config = NodeConfig.model_validate({"map": {"path": str(path), **map_settings}})
    return PlaceRecogniser.open(config, settings(*overrides), encoder=encoder())


@pytest.fixture
def recogniser(tmp_path):
    recogniser = open_at(tmp_path / "map.progeo")
    yield recogniser
    recogniser.close()


@pytest.fixture(scope="module")
def known_map(frames, tmp_path_factory) -> Path:
    """The first pass, closed."""
    path: Path = tmp_path_factory.mktemp("known") / "known.progeo"
    first = open_at(path)
    for frame in frames[:NUM_POSES]:
        first.process(frame, camera())
    first.close()
    return path


def statuses(recogniser, frames) -> list[Status]:
    return [recogniser.process(frame, camera()).update.status for frame in frames]


# -- opening -----------------------------------------------------------------------------------------------------------


def test_a_failed_opening_leaves_nothing_open(tmp_path):
    class Closable:
        spec = SPEC
        closed = 0

        def close(self) -> None:
            self.closed += 1

    fake = Closable()
    config = NodeConfig.model_validate({"map": {"path": "/nowhere/map.progeo"}})
    with pytest.raises(MapError, match="folder /nowhere"):
        PlaceRecogniser.open(config, settings(), encoder=fake)  # type: ignore[arg-type]
    assert fake.closed == 1
    with pytest.raises(ModelError, match="/nowhere/bundle"):
        PlaceRecogniser.open(NodeConfig.model_validate({"model": {"path": "/nowhere/bundle"}}), settings())


def test_a_map_of_another_model_is_refused(tmp_path):
    MapStore.create(tmp_path / "other.progeo", SPEC).close()
    with pytest.raises(MapError, match="was made by model fake"):
        open_at(tmp_path / "other.progeo")


def test_without_a_path_a_new_map_is_made_under_ros_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_HOME", str(tmp_path))
    paths = set()
    for _ in range(2):
        recogniser = PlaceRecogniser.open(NodeConfig(), settings(), encoder=encoder())
        paths.add(recogniser.map_path)
        recogniser.close()
    assert len(paths) == 2
    assert {path.parent for path in paths if path is not None} == {tmp_path / "progeo"}


def test_opening_and_asking_begin_no_session(recogniser, frames, tmp_path):
    outcome = recogniser.query(frames[0].image)
    assert outcome.update.status is Status.NO_CANDIDATE
    with MapStore.open(tmp_path / "map.progeo", read_only=True) as store:
        assert store.sessions() == []


# -- images ------------------------------------------------------------------------------------------------------------


def test_outcomes_say_where_closures_lead(recogniser, frames):
    outcomes = [recogniser.process(frame, camera(), camera_frame="cam") for frame in frames]
    assert [o.update.status for o in outcomes] == [Status.NO_CANDIDATE] * NUM_POSES + [Status.ACCEPTED] * NUM_POSES
    last = outcomes[-1]
    closure = last.update.closures[0]
    assert last.reference(closure.reference_id).stamp_ns == frames[closure.reference_id].stamp_ns
    assert (last.session, last.session_of(closure.reference_id)) == ("run", "run")
    assert (last.base_frame, last.odom_frame, last.camera_frame) == ("base_link", "odom", "cam")
    assert last.thumbnail_of(closure.reference_id) is not None
    assert recogniser.num_keyframes == 2 * NUM_POSES


def test_closures_that_were_withheld_come_later_from_their_own_keyframe(tmp_path, frames):
    recogniser = open_at(tmp_path / "map.progeo", "consistency.pcm=true")
    outcomes = [recogniser.process(frame, camera()) for frame in frames]
    late = [(outcome, closure) for outcome in outcomes for closure in outcome.update.released]
    assert late
    for outcome, closure in late:
        query = outcome.query(closure)
        assert query is not None
        assert query.id == closure.query_id
        assert query.stamp_ns == frames[closure.query_id].stamp_ns < outcome.frame.stamp_ns
        assert outcome.reference(closure.reference_id).id == closure.reference_id
    recogniser.close()
    told = {(c.query_id, c.reference_id) for outcome in outcomes for c in outcome.closures}
    with MapStore.open(tmp_path / "map.progeo", read_only=True) as store:
        assert told == {(c.query_id, c.reference_id) for c in store.closures()}


def test_a_read_only_map_is_only_asked(known_map, frames):
    before = known_map.read_bytes()
    recogniser = open_at(known_map, read_only=True)
    outcome = recogniser.process(frames[NUM_POSES], camera())
    assert outcome.update.status is Status.ACCEPTED
    assert (outcome.update.keyframe, outcome.update.closures[0].query_id, outcome.session) == (None, -1, "")
    for forbidden in (recogniser.start_session, recogniser.clear, lambda: recogniser.merge_map(str(known_map))):
        with pytest.raises(MapError, match="is open read-only; load it for writing"):
            forbidden()
    recogniser.close()
    assert known_map.read_bytes() == before


def test_relocalising_while_mapping_looks_past_the_last_moments(recogniser, frames):
    for frame in frames[:NUM_POSES]:
        recogniser.process(frame, camera())
    found = recogniser.relocalize(frames[NUM_POSES - 1], camera(), anew=True).relocalisation
    assert (found.match, found.status) == (None, Status.NO_CANDIDATE)
    recogniser.process(frames[NUM_POSES], camera())
    whereabouts = recogniser.relocalize(frames[NUM_POSES], camera(), anew=True)
    found = whereabouts.relocalisation
    assert found.status is Status.ACCEPTED
    assert found.match is not None
    assert found.match.reference_id < NUM_POSES
    assert whereabouts.outcome.update.closures == (found.match,)
    assert whereabouts.outcome.frame.stamp_ns == found.query_stamp_ns


def test_images_of_one_question_vote_together(known_map, frames):
    recogniser = open_at(known_map, "relocalisation.min_probability=0.999999", read_only=True)
    views = [recogniser.relocalize(frame, camera(), anew=i == 0) for i, frame in enumerate(frames[NUM_POSES:])]
    assert [view.relocalisation.num_frames for view in views] == [1, 2, 3, 4, 5, 6]
    probabilities = [view.relocalisation.probability for view in views]
    assert probabilities == sorted(probabilities)
    assert probabilities[0] < probabilities[-1]
    again = recogniser.relocalize(frames[NUM_POSES], camera(), anew=True).relocalisation
    assert again.num_frames == 1
    later = recogniser.relocalize(frames[NUM_POSES + 1], camera(), anew=False, generation=1).relocalisation
    assert later.num_frames == 1, "another run is another question"
    recogniser.close()


def test_a_query_of_another_shape_is_refused_with_a_sentence(recogniser, frames):
    recogniser.process(frames[0], camera())
    with pytest.raises(InputError, match="the aspect differs"):
        recogniser.query(frames[0].image[:100])


# -- sessions and cameras ----------------------------------------------------------------------------------------------


def test_resuming_goes_on_in_the_last_session(known_map, frames, tmp_path):
    path = tmp_path / "resumed.progeo"
    path.write_bytes(known_map.read_bytes())
    recogniser = open_at(path, resume=True)
    assert statuses(recogniser, frames[NUM_POSES:]) == [Status.ACCEPTED] * NUM_POSES
    recogniser.close()
    with MapStore.open(path, read_only=True) as store:
        assert [session.name for session in store.sessions()] == ["run"]
        assert len(store) == 2 * NUM_POSES


def test_resuming_with_another_camera_begins_a_new_session(known_map, frames, tmp_path):
    path = tmp_path / "resumed.progeo"
    path.write_bytes(known_map.read_bytes())
    recogniser = open_at(path, resume=True)
    recogniser.process(frames[0], replace(camera(), K=camera().K * [[1.2], [1.2], [1.0]]))
    assert recogniser.session == "run-2"
    recogniser.close()


def test_resume_works_before_there_is_a_map(tmp_path, frames):
    recogniser = open_at(tmp_path / "new.progeo", resume=True)
    assert recogniser.process(frames[0], camera()).session == "run"
    recogniser.close()


def test_a_camera_that_becomes_known_or_changes_begins_a_new_session(recogniser, frames):
    recogniser.process(frames[0], None)
    recogniser.process(frames[1], camera())
    assert recogniser.session == "run-2"
    trembling = replace(camera(), T_base_camera=camera().T_base_camera @ make_transform(np.eye(3), [0.001, 0, 0]))
    recogniser.process(frames[2], trembling)
    recogniser.process(frames[3], camera().scaled_to(640, 480))
    recogniser.process(frames[4], None)
    assert recogniser.session == "run-2"
    outcome = recogniser.process(frames[NUM_POSES], replace(camera(), K=camera().K * [[1.1], [1.1], [1.0]]))
    assert outcome.session == "run-3"


def test_a_camera_that_never_stands_still_is_refused(recogniser, frames):
    def turned(i: int):
        return replace(camera(), T_base_camera=camera().T_base_camera @ make_transform(np.eye(3), [0.1 * i, 0, 0]))

    for i in range(MAX_CAMERA_CHANGES + 1):
        recogniser.process(frames[i], turned(i))
    with pytest.raises(InputError, match="only a camera fixed to the base is supported"):
        recogniser.process(frames[-1], turned(MAX_CAMERA_CHANGES + 1))


def test_a_time_that_starts_anew_begins_a_new_session(recogniser, frames):
    recogniser.process(frames[0], camera(), generation=0)
    recogniser.process(frames[1], camera(), generation=0)
    assert recogniser.session == "run"
    recogniser.process(frames[0], camera(), generation=1)
    assert recogniser.session == "run-2"


def test_sessions_are_started_by_hand(recogniser, frames):
    assert recogniser.start_session() == "run"
    recogniser.process(frames[0], camera())
    assert recogniser.start_session() == "run-2"
    assert recogniser.process(frames[1], camera()).session == "run-2"


# -- settings ----------------------------------------------------------------------------------------------------------


def test_new_settings_hold_from_the_next_image_in_the_same_session(recogniser, frames):
    statuses(recogniser, frames[:NUM_POSES])
    recogniser.reconfigure(settings("gate.min_similarity=0.999"))
    outcome = recogniser.process(frames[NUM_POSES], camera())
    assert (outcome.update.status, outcome.min_similarity) == (Status.LOW_SIMILARITY, 0.999)
    recogniser.reconfigure(settings())
    assert statuses(recogniser, frames[NUM_POSES + 1 :]) == [Status.ACCEPTED] * (NUM_POSES - 1)
    assert recogniser.session == "run"


def test_settings_that_cannot_be_used_leave_the_old_ones(recogniser, frames, monkeypatch):
    statuses(recogniser, frames[:2])
    before = recogniser.config

    def broken(*args: object, **kwargs: object) -> None:
        raise MapError("the map cannot be read")

    monkeypatch.setattr("progeo_ros.running_detector.LoopDetector", broken)
    with pytest.raises(MapError, match="cannot be read"):
        recogniser.reconfigure(settings("search.top_k=5"))
    assert recogniser.config == before
    assert statuses(recogniser, frames[2:4]) == [Status.NO_CANDIDATE] * 2


def test_keyframes_of_a_slam_system_are_all_kept(tmp_path, frames):
    values = {"map": {"path": str(tmp_path / "map.progeo")}, "input": {"external_keyframes": True}}
    recogniser = PlaceRecogniser.open(NodeConfig.model_validate(values), settings(), encoder=encoder())
    standing = replace(frames[0], stamp_ns=frames[0].stamp_ns + 1)
    assert all(recogniser.process(frame, camera()).update.keyframe for frame in (frames[0], standing))
    recogniser.reconfigure(settings("search.top_k=5"))
    assert recogniser.process(replace(frames[0], stamp_ns=frames[0].stamp_ns + 2), camera()).update.keyframe
    recogniser.close()


# -- maps --------------------------------------------------------------------------------------------------------------


def test_a_saved_map_is_whole_and_replaced_only_on_demand(recogniser, frames, tmp_path):
    statuses(recogniser, frames[:3])
    copy = tmp_path / "copy.progeo"
    assert recogniser.save_map(str(copy)) == 3
    with pytest.raises(MapError, match="exists already; set overwrite"):
        recogniser.save_map(str(copy))
    statuses(recogniser, frames[3:5])
    assert recogniser.save_map(str(copy), overwrite=True) == 5
    with MapStore.open(copy, read_only=True) as store:
        assert len(store) == 5
    with pytest.raises(MapError, match="is the map in use"):
        recogniser.save_map(str(tmp_path / "map.progeo"), overwrite=True)
    for wrong, sentence in [("/nowhere/copy.progeo", "folder /nowhere"), (" ", "the path is empty")]:
        with pytest.raises(MapError, match=sentence):
            recogniser.save_map(wrong)


def test_loading_changes_the_map_and_closes_the_old_one(recogniser, frames, known_map, tmp_path):
    statuses(recogniser, frames[:2])
    loaded = tmp_path / "loaded.progeo"
    loaded.write_bytes(known_map.read_bytes())
    assert recogniser.load_map(str(loaded)) == NUM_POSES
    outcome = recogniser.process(frames[NUM_POSES], camera())
    assert (outcome.update.status, outcome.session) == (Status.ACCEPTED, "run-2")
    assert outcome.session_of(outcome.update.closures[0].reference_id) == "run"
    assert recogniser.map_path == loaded
    assert not (tmp_path / "map.progeo-wal").exists()
    recogniser.load_map(str(known_map), read_only=True)
    assert recogniser.process(frames[NUM_POSES], camera()).update.keyframe is None


def test_a_map_that_cannot_be_loaded_or_merged_leaves_the_one_in_use(recogniser, frames, tmp_path):
    statuses(recogniser, frames[:3])
    garbage = tmp_path / "garbage.progeo"
    garbage.write_bytes(b"no map at all" * 100)
    MapStore.create(tmp_path / "other.progeo", SPEC).close()
    for path in (garbage, tmp_path / "other.progeo", tmp_path / "missing.progeo"):
        for change in (recogniser.load_map, recogniser.merge_map):
            with pytest.raises(MapError):
                change(str(path))
    assert recogniser.map_path == tmp_path / "map.progeo"
    assert recogniser.num_keyframes == 3
    assert statuses(recogniser, frames[3:]) == [Status.NO_CANDIDATE] * 3 + [Status.ACCEPTED] * NUM_POSES


def test_a_map_whose_session_cannot_begin_leaves_the_one_in_use(recogniser, frames, known_map, monkeypatch, tmp_path):
    statuses(recogniser, frames[:3])
    loaded = tmp_path / "loaded.progeo"
    loaded.write_bytes(known_map.read_bytes())

    def full(*args: object, **kwargs: object) -> int:
        raise MapError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(MapStore, "begin_session", full)
        with pytest.raises(MapError, match="disk full"):
            recogniser.load_map(str(loaded))
        with pytest.raises(MapError, match="disk full"):
            recogniser.clear()
    assert recogniser.map_path == tmp_path / "map.progeo"
    assert recogniser.process(frames[3], camera()).session == "run"


def test_merging_makes_another_map_s_places_known_in_the_same_session(recogniser, frames, known_map):
    recogniser.process(frames[NUM_POSES], camera())
    assert recogniser.merge_map(str(known_map)) == NUM_POSES + 1
    outcome = recogniser.process(frames[NUM_POSES + 1], camera())
    assert (outcome.update.status, outcome.session) == (Status.ACCEPTED, "run")
    assert outcome.update.keyframe is not None
    assert (outcome.update.keyframe.id, outcome.update.keyframe.session) == (NUM_POSES + 1, 0)
    assert outcome.reference(outcome.update.closures[0].reference_id).session == 1
    with pytest.raises(MapError, match="both hold the session"):
        recogniser.merge_map(str(known_map))
    recogniser.reconfigure(settings("search.top_k=5"))
    after = recogniser.process(frames[NUM_POSES + 2], camera()).update.keyframe
    assert after is not None
    assert after.session == 0, "not the merged session, which is the last one of the map"


def test_a_merge_that_fails_half_way_leaves_the_map_unchanged(recogniser, frames, known_map, monkeypatch):
    recogniser.process(frames[0], camera())

    def full(*args: object) -> None:
        raise MapError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(MapStore, "add_records", full)
        with pytest.raises(MapError, match="disk full"):
            recogniser.merge_map(str(known_map))
    assert recogniser.merge_map(str(known_map)) == NUM_POSES + 1, "no session of the failed merge is left behind"


def test_clearing_keeps_the_old_map_on_the_disk(recogniser, frames, tmp_path):
    statuses(recogniser, frames[:3])
    path = recogniser.clear()
    assert path.parent == tmp_path
    assert path.name.startswith("map-")
    assert recogniser.num_keyframes == 0
    assert recogniser.process(frames[NUM_POSES], camera()).update.status is Status.NO_CANDIDATE
    with MapStore.open(tmp_path / "map.progeo", read_only=True) as store:
        assert len(store) == 3


# -- threads and sudden death ------------------------------------------------------------------------------------------


def test_images_questions_and_settings_from_several_threads(recogniser, frames):
    errors: list[Exception] = []

    def repeat(act) -> None:
        try:
            for _ in range(5):
                act()
        except Exception as error:
            errors.append(error)

    acts = [
        lambda: recogniser.query(frames[2].image),
        lambda: recogniser.reconfigure(settings()),
        lambda: (recogniser.session, recogniser.num_keyframes, recogniser.index_report()),
    ]
    threads = [threading.Thread(target=repeat, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    found = statuses(recogniser, frames)
    for thread in threads:
        thread.join()
    assert errors == []
    assert found == [Status.NO_CANDIDATE] * NUM_POSES + [Status.ACCEPTED] * NUM_POSES


KILLED = """
import sys
from pathlib import Path
from tests.ros_bridge.test_place_recogniser import open_at
from tests.small_world import camera, two_passes
recogniser = open_at(Path(sys.argv[1]))
for frame in two_passes()[0]:
    outcome = recogniser.process(frame, camera())
    for closure in outcome.update.closures:
        print("closure", closure.query_id, closure.reference_id, flush=True)
    print("keyframe", outcome.update.keyframe.id, flush=True)
"""


@pytest.mark.parametrize("num_lines", [1, 4, 9])
def test_kill_9_loses_nothing_that_was_reported(tmp_path, frames, num_lines):
    path = tmp_path / "map.progeo"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "ros_bridge" / "progeo_ros")])}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    assert process.stdout is not None
    lines = [process.stdout.readline().split() for _ in range(num_lines)]
    process.send_signal(signal.SIGKILL)
    lines += [line.split() for line in process.stdout.read().splitlines()]
    process.stdout.close()
    assert process.wait(10) == -signal.SIGKILL
    with MapStore.open(path, read_only=True) as store:
        assert {int(line[1]) for line in lines if line[0] == "keyframe"} <= {info.id for info in store.infos()}
        stored = {(closure.query_id, closure.reference_id) for closure in store.closures()}
        assert {(int(line[1]), int(line[2])) for line in lines if line[0] == "closure"} <= stored
    again = open_at(path, resume=True)
    assert again.process(frames[-1], camera()).session == "run"
    again.close()
