from __future__ import annotations

import csv
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from progeo_edge.config import OdometryConfig
from progeo_edge.constraints import step_covariance
from progeo_edge.errors import ConfigError
from progeo_edge.geometry import invert, make_transform, rotation_exp
from progeo_edge.map_store import KeyframeInfo, MapStore
from progeo_edge.types import Keyframe, PoseKind, Status, Transform
from progeo_ros.adapters.recorder import CLOSURES, G2O, GTSAM, Recorder, default_folder
from progeo_ros.config import NodeConfig, RecorderConfig
from tests.map_samples import SPEC, unit
from tests.ros_bridge.adapters.outcomes import COVARIANCE, closure, outcome, seconds

T_LEFT = make_transform(rotation_exp([0.0, 0.0, np.pi / 2]), [1.0, 2.0, 0.0])


def pose(number: int) -> Transform:
    return make_transform(rotation_exp([0.0, 0.0, 0.1 * number]), [float(number), 0.0, 0.0])


def add_keyframe(store: MapStore, keyframe_id: int, *closures: Any) -> None:
    rng = np.random.default_rng(keyframe_id)
    keyframe = Keyframe(keyframe_id, 0, seconds(keyframe_id), unit(rng), T_odom_base=pose(keyframe_id))
    store.add_keyframe(keyframe, status=Status.ACCEPTED, closures=closures)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with MapStore.create(tmp_path / "drive.progeo", SPEC) as store:
        store.begin_session("run", camera=None, config_yaml="")
        for keyframe_id in range(5):
            add_keyframe(store, keyframe_id)
        add_keyframe(store, 5, closure(5, 0, T_LEFT), closure(5, 1, kind=PoseKind.UP_TO_SCALE))
        yield store


def recorder(store: MapStore, **settings: Any) -> Recorder:
    assert store.path is not None
    return Recorder(NodeConfig(recorder=RecorderConfig(**settings)), store.path)


def tick(adapter: Recorder, at_s: float) -> None:
    list(adapter.on_tick(seconds(at_s)))
    adapter.finish_writing()


def test_files_lie_beside_the_map_and_follow_it_while_it_is_written(store: MapStore) -> None:
    adapter = recorder(store, every_s=10.0)
    assert store.path is not None
    folder = default_folder(store.path)
    assert folder == store.path.parent / "drive.graph" and folder.is_dir()
    tick(adapter, 0)
    list(adapter.on_outcome(outcome(1.0, 5)))
    tick(adapter, 9)
    assert list(folder.iterdir()) == []
    tick(adapter, 10)
    assert sorted(path.name for path in folder.iterdir()) == sorted([G2O, GTSAM, CLOSURES])
    assert (folder / G2O).read_text().count("VERTEX") == 6
    tick(adapter, 30)
    assert adapter.counters() == {"written": 1}, "nothing new"
    add_keyframe(store, 6)
    list(adapter.on_outcome(outcome(31.0, 6)))
    tick(adapter, 32)
    assert (folder / G2O).read_text().count("VERTEX") == 7


def test_close_writes_what_is_new(store: MapStore, tmp_path: Path) -> None:
    adapter = recorder(store, folder=str(tmp_path / "deep" / "folder"))
    adapter.close()
    assert adapter.counters() == {}
    list(adapter.on_outcome(outcome(1.0, None)))
    adapter.close()
    assert adapter.counters() == {}
    list(adapter.on_outcome(outcome(1.0, 5)))
    adapter.close()
    assert adapter.counters() == {"written": 1}
    assert (tmp_path / "deep" / "folder" / GTSAM).stat().st_size > 0


def test_table_of_closures(store: MapStore, tmp_path: Path) -> None:
    adapter = recorder(store, folder=str(tmp_path))
    list(adapter.on_outcome(outcome(1.0, 5)))
    adapter.close()
    with (tmp_path / CLOSURES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["query_id"], row["reference_id"], row["pose_kind"]) for row in rows] == [
        ("5", "0", "METRIC"),
        ("5", "1", "UP_TO_SCALE"),
    ]
    assert int(rows[0]["query_stamp_ns"]) == seconds(5) and float(rows[0]["y"]) == 2.0


def test_gtsam_reads_poses_and_covariances_as_they_are(store: MapStore, tmp_path: Path) -> None:
    gtsam = pytest.importorskip("gtsam", reason="GTSAM has no wheels for this Python")
    adapter = recorder(store, folder=str(tmp_path))
    list(adapter.on_outcome(outcome(1.0, 5)))
    adapter.close()
    graph, values = gtsam.readG2o(str(tmp_path / GTSAM), True)
    factors = {tuple(factor.keys()): factor for factor in (graph.at(i) for i in range(graph.size()))}
    assert factors.keys() == {(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 5)}
    rotation_first = np.ix_([3, 4, 5, 0, 1, 2], [3, 4, 5, 0, 1, 2])
    step = step_covariance(invert(pose(0)) @ pose(1), OdometryConfig())
    for ends, T, covariance in (((0, 5), T_LEFT, COVARIANCE), ((0, 1), invert(pose(0)) @ pose(1), step)):
        factor = factors[ends]
        np.testing.assert_allclose(factor.measured().matrix(), T, atol=1e-9)
        np.testing.assert_allclose(factor.noiseModel().covariance(), covariance[rotation_first], rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(values.atPose3(3).matrix(), pose(3), atol=1e-9)


def test_a_failed_write_keeps_the_old_files_and_is_tried_again(
    store: MapStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = recorder(store, folder=str(tmp_path), every_s=1.0)
    tick(adapter, 0)
    list(adapter.on_outcome(outcome(1.0, 5)))
    tick(adapter, 1)
    before = (tmp_path / G2O).read_text()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    add_keyframe(store, 6)
    with monkeypatch.context() as broken, caplog.at_level(logging.WARNING):
        broken.setattr(os, "fsync", full)
        list(adapter.on_outcome(outcome(2.0, 6)))
        tick(adapter, 10)
    assert adapter.counters() == {"written": 1, "failed": 1} and "No space left" in caplog.text
    assert (tmp_path / G2O).read_text() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".graph")]
    tick(adapter, 20)
    assert (tmp_path / G2O).read_text().count("VERTEX") == 7


def test_simulated_time_that_jumps_back_does_not_stop_the_writing(store: MapStore) -> None:
    adapter = recorder(store, every_s=10.0)
    tick(adapter, 1000)
    list(adapter.on_outcome(outcome(1.0, 5)))
    tick(adapter, 0)
    tick(adapter, 10)
    assert adapter.counters() == {"written": 1}


def test_folder_that_cannot_be_made(store: MapStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"recorder\.folder .* cannot be made"):
        recorder(store, folder=str(tmp_path / "file" / "folder"))


def test_writing_delays_nobody_and_misses_nothing_that_comes_meanwhile(
    store: MapStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = threading.Event(), threading.Event()
    read = MapStore.infos

    def slow(self: MapStore) -> list[KeyframeInfo]:
        infos = read(self)
        reading.set()
        assert go_on.wait(20.0)
        return infos

    monkeypatch.setattr(MapStore, "infos", slow)
    adapter = recorder(store, folder=str(tmp_path), every_s=1.0)
    tick(adapter, 0)
    list(adapter.on_outcome(outcome(1.0, 5)))
    list(adapter.on_tick(seconds(1)))
    assert reading.wait(20.0)
    list(adapter.on_tick(seconds(2)))  # returns while the write goes on
    add_keyframe(store, 6)
    list(adapter.on_outcome(outcome(2.0, 6)))
    go_on.set()
    adapter.close()
    assert adapter.counters() == {"written": 2}
    assert (tmp_path / G2O).read_text().count("VERTEX") == 7


def test_a_large_map_is_written_less_often(store: MapStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = iter([0.0, 2.0, 100.0, 102.0])  # each write takes two seconds
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock_s))
    adapter = recorder(store, every_s=1.0)
    tick(adapter, 0)
    list(adapter.on_outcome(outcome(1.0, 5)))
    tick(adapter, 1)
    list(adapter.on_outcome(outcome(2.0, 5)))
    tick(adapter, 40)
    assert adapter.counters() == {"written": 1}
    tick(adapter, 41)
    assert adapter.counters() == {"written": 2}
