"""The service calibrate, and what messages and diagnostics say of what the map has learned."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from progeo_edge.calibration import Calibration, document_key
from progeo_edge.encoders import load_encoder
from progeo_edge.map_store import MapStore
from progeo_ros.health import WARN
from progeo_ros.operation import Operation
from progeo_ros.service_answers import answer, services
from tests.ros_bridge.fake_ros import FakeRos
from tests.ros_bridge.learned import NUM_QUERIES, observations, teach
from tests.ros_bridge.messages import TYPES
from tests.ros_bridge.test_operation import node_config, said, work
from tests.small_world import settings

CALIBRATE = next(service for service in services(TYPES) if service.name == "calibrate")


def learned_map(folder: Path, seen: Any = None) -> Path:
    path = folder / "map.progeo"
    with MapStore.create(path, load_encoder("vlad").spec) as store:
        teach(store, seen)
    return path


@contextmanager
def working(folder: Path, *overrides: str, ros: FakeRos | None = None, **node: Any) -> Iterator[Operation]:
    operation = Operation(
        node_config(folder, **node), settings("keyframe.every_frame=true", *overrides), ros or FakeRos()
    )
    operation.activate()
    try:
        yield operation
    finally:
        operation.close()


def calibrate(operation: Operation | None, rate: float = 0.0) -> Any:
    request = TYPES.make("progeo_msgs/srv/Calibrate_Request", max_false_accepts_per_hour=rate)
    response = TYPES.make("progeo_msgs/srv/Calibrate_Response")
    answer(CALIBRATE, TYPES, operation, request, response)
    return response


def stored(path: Path) -> dict[str, Any] | None:
    with MapStore.open(path, read_only=True) as store:
        return store.document(document_key("cam0"))


def test_the_answer_is_the_threshold_that_keeps_the_promise(tmp_path):
    path = learned_map(tmp_path)
    with working(tmp_path) as operation:
        response = calibrate(operation)
    assert response.success, response.message
    assert (response.verdict, response.num_queries, response.num_pairs) == (response.GOOD, NUM_QUERIES, NUM_QUERIES)
    assert 0.3 < response.min_similarity < 0.9
    assert response.false_per_hour == pytest.approx(1.0, rel=1e-6), "calibration.max_false_per_hour"
    assert 0.0 < response.probability < 1.0
    assert response.same_place_share > 0.5
    assert not response.pairs_verified
    assert response.num_keyframes == 0, "of the map as it is now, not of the drive that was learned from"
    assert "tells the places of this environment apart" in response.message
    document = stored(path)
    assert document is not None
    assert Calibration.from_dict(document).tail.num_queries == NUM_QUERIES


def test_a_higher_rate_gives_a_lower_threshold_and_changes_no_setting(tmp_path):
    learned_map(tmp_path)
    with working(tmp_path) as operation:
        strict, lax = calibrate(operation, 0.5), calibrate(operation, 200.0)
        assert operation.recogniser.config.calibration.max_false_per_hour == 1.0
    assert (strict.false_per_hour, lax.false_per_hour) == (pytest.approx(0.5), pytest.approx(200.0))
    assert strict.min_similarity > lax.min_similarity + 0.02
    assert "200 times an hour" in lax.message


def test_what_was_learned_is_in_force_with_the_next_image(tmp_path):
    learned_map(tmp_path)
    ros = FakeRos()
    ros.listeners.add("loop_candidates")
    with working(tmp_path, ros=ros) as operation:
        work(operation, ros, 1)
        response = calibrate(operation)
        assert response.success, response.message
        work(operation, ros, 2)
        learned = operation.recogniser.learned()
        assert learned is not None
        before, after = ros.sent["loop_candidates"]
        assert before.min_similarity == 0.0
        assert after.min_similarity == learned.gate.min_similarity == response.min_similarity
        assert math.isnan(after.min_motion_score)
        values = said(operation)
    assert values["calibration"] == "GOOD"
    assert 0 <= int(values["calibration learned (s ago)"]) < 100
    assert values["calibration queries"] == str(NUM_QUERIES)
    assert values["gate, similarity"] == f"{response.min_similarity:.3f}"
    assert values["gate, motion score"] == "none"
    assert values["false accepts expected before the geometry (per hour)"] == "1.00"


def test_a_higher_gate_of_the_settings_stays_in_force(tmp_path):
    learned_map(tmp_path)
    ros = FakeRos()
    ros.listeners.add("loop_candidates")
    with working(tmp_path, "gate.min_similarity=0.95", ros=ros) as operation:
        assert calibrate(operation).min_similarity < 0.95
        work(operation, ros)
        assert ros.sent["loop_candidates"][0].min_similarity == 0.95
        values = said(operation)
    assert values["gate, similarity"] == "0.950"
    assert float(values["false accepts expected before the geometry (per hour)"]) < 0.5


def test_places_that_look_alike_are_said_to(tmp_path):
    learned_map(tmp_path, observations(impostor=0.8, same_place=0.75))
    ros = FakeRos()
    with working(tmp_path, ros=ros) as operation:
        response = calibrate(operation)
        assert response.success
        assert response.verdict == response.NONE
        assert "cannot tell the places of this environment apart" in response.message
        work(operation, ros)
        (status,) = operation.tick().status
        assert status.level == WARN
        assert "cannot tell the places" in status.message
        operation.recogniser.clear()
        work(operation, ros, 2)
        values = said(operation)
    assert values["calibration"] == "none yet"
    assert values["gate, similarity"] == "unknown"
    assert "cannot tell the places" not in values["message"]


@pytest.mark.parametrize(
    ("rate", "overrides", "num_queries", "sentence"),
    [
        (0.0, (), 10, "at least 20 are needed: drive further"),
        (0.0, (), 0, "no keyframe was compared with another place yet"),
        (0.0, ("calibration.enabled=false",), NUM_QUERIES, "calibration.enabled is off"),
        (-1.0, (), NUM_QUERIES, "max_false_accepts_per_hour is -1.0; expected a positive number"),
        (math.nan, (), NUM_QUERIES, "max_false_accepts_per_hour is nan"),
    ],
)
def test_without_an_answer_there_is_a_sentence(tmp_path, rate, overrides, num_queries, sentence):
    path = learned_map(tmp_path, observations(num_queries=num_queries))
    with working(tmp_path, *overrides) as operation:
        response = calibrate(operation, rate)
    assert not response.success
    assert sentence in response.message
    assert (response.verdict, response.num_queries) == (response.UNKNOWN, 0)
    assert stored(path) is None


def test_a_read_only_map_is_read_and_not_written(tmp_path):
    path = learned_map(tmp_path)
    before = path.read_bytes()
    with working(tmp_path, map={"path": str(path), "read_only": True}) as operation:
        assert calibrate(operation).success
    assert path.read_bytes() == before


def test_diagnostics_say_how_alike_neighbours_are(tmp_path):
    ros = FakeRos()
    with working(tmp_path, ros=ros) as operation:
        work(operation, ros, 1)
        assert "similarity to the previous keyframe" not in said(operation)
        work(operation, ros, 2)
        values = said(operation)
    assert float(values["similarity to the previous keyframe"]) == pytest.approx(1.0, abs=1e-3)
    assert values["calibration"] == "none yet"


def test_diagnostics_say_when_calibration_is_off(tmp_path):
    with working(tmp_path, "calibration.enabled=false") as operation:
        assert said(operation)["calibration"] == "off"


def test_numbers_are_of_the_types_that_ros_checks(tmp_path):
    learned_map(tmp_path)
    with working(tmp_path) as operation:
        response = calibrate(operation)
    for name, value in vars(response).items():
        assert not isinstance(value, np.generic), name
    assert type(response.pairs_verified) is bool
    again = TYPES.from_bytes(TYPES.to_bytes(response), "progeo_msgs/srv/Calibrate_Response")
    assert again.min_similarity == pytest.approx(response.min_similarity, abs=1e-6)
