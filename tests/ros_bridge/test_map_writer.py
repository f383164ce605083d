"""One node at a time writes to a map."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from progeo_edge.errors import MapError
from progeo_edge.map_store import MapStore
from progeo_ros.config import MapConfig
from progeo_ros.map_in_use import MapInUse
from progeo_ros.map_writer import MapWriter
from tests.small_world import SPEC

ROOT = Path(__file__).parents[2]
SENTENCE = "is open for writing in a node already; give each node a map of its own"
HOLDER = """
import sys, time
from progeo_ros.map_writer import MapWriter
from pathlib import Path
writer = MapWriter(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "map.progeo"
    MapStore.create(path, SPEC).close()
    return path


def opened(path: Path, **settings: object) -> MapInUse:
    config = MapConfig.model_validate({"path": str(path), **settings})
    return MapInUse.of_settings(config, SPEC, descriptor_dtype="float16")


def test_a_second_writer_is_refused_and_readers_are_not(path):
    first = opened(path)
    with pytest.raises(MapError, match=SENTENCE):
        opened(path)
    opened(path, read_only=True).close()
    first.close()
    opened(path).close()


def test_the_same_file_under_another_name_is_the_same_map(path, tmp_path):
    link = tmp_path / "link.progeo"
    link.symlink_to(path)
    first = opened(path)
    with pytest.raises(MapError, match=SENTENCE):
        opened(link)
    first.close()


def test_nothing_is_left_beside_a_closed_map(path, tmp_path):
    opened(path).close()
    assert [p.name for p in tmp_path.iterdir()] == ["map.progeo"]


def test_a_killed_process_has_no_right_any_more(path):
    paths = [str(ROOT), str(ROOT / "ros_bridge" / "progeo_ros"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(MapError, match=SENTENCE):
            opened(path)
        holder.send_signal(signal.SIGKILL)
    opened(path).close()


def test_a_lock_that_was_taken_away_meanwhile_is_taken_anew(path, monkeypatch):
    """Between opening the file and locking it, who had the right may have given it back and removed the file."""
    first, opening = MapWriter(path), MapWriter._open
    given_back: list[bool] = []

    def open_late(self: MapWriter) -> int | None:
        descriptor = opening(self)
        if not given_back:
            given_back.append(True)
            first.close()
        return descriptor

    monkeypatch.setattr(MapWriter, "_open", open_late)
    second = MapWriter(path)
    with pytest.raises(MapError, match=SENTENCE):
        MapWriter(path)
    second.close()
