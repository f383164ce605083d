"""The live view writes a recording of what was processed."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from progeo_edge.detector import LoopDetector
from progeo_edge.errors import ConfigError
from progeo_edge.live_view import open_live_view
from progeo_edge.map_store import MapStore
from tests.small_world import camera, encoder, settings, two_passes


def test_a_recording_is_written_with_closures(tmp_path):
    pytest.importorskip("rerun", reason="rerun is not installed (extra viz)")
    path = tmp_path / "run.rrd"
    store = MapStore.create(None, encoder().spec)
    show = open_live_view(str(path), store)
    detector = LoopDetector(encoder(), store, camera(), settings("budget.max_verifications=1"))
    frames = two_passes()[0][:7]
    grey = replace(frames[0], image=frames[0].image[:, :, 1].copy())
    updates = []
    for frame in (grey, *frames[1:]):
        updates.append(detector.process(frame))
        show(frame, updates[-1])
    assert updates[-1].closures
    del show
    assert path.read_bytes()[:4] == b"RRF2"
    assert path.stat().st_size > 50_000


@pytest.mark.parametrize("target", ["rviz", "run.bag", ""])
def test_an_unknown_target_is_refused(target):
    pytest.importorskip("rerun", reason="rerun is not installed (extra viz)")
    with pytest.raises(ConfigError, match=r"\.rrd"):
        open_live_view(target, MapStore.create(None, encoder().spec))


def test_without_rerun_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ConfigError, match=r"progeo-edge\[viz\]"):
        open_live_view("rerun", MapStore.create(None, encoder().spec))
