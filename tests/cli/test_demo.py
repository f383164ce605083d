"""progeo-demo, and how it judges a map by the truth."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from progeo_edge import demo
from progeo_edge.cli import demo as demo_command
from progeo_edge.cli.console import EXIT_ERROR
from progeo_edge.detector import LoopDetector
from progeo_edge.map_store import MapStore
from progeo_edge.world import WorldSource, simulate_drive
from tests.small_world import camera, encoder, settings, street, two_passes


@pytest.fixture(scope="module")
def driven() -> MapStore:
    """Both passes in a map."""
    store = MapStore.create(None, encoder().spec)
    detector = LoopDetector(encoder(), store, camera(), settings("budget.max_verifications=1"))
    for frame in two_passes()[0]:
        detector.process(frame)
    return store


def test_true_closures_are_counted_as_true(driven):
    result = demo.judge(driven, two_passes()[1], settings())
    assert (result.num_closures, result.num_false) == (6, 0)
    assert (result.num_revisits, result.num_recognised) == (6, 6)
    assert (result.precision, result.recall) == (1.0, 1.0)
    assert result.translation_error_m < 0.03
    assert result.rotation_error_deg < 0.3
    assert result.odometry_rmse_m < 1e-6, "the odometry of the two passes is the truth"


def test_closures_between_different_places_are_counted_as_false(driven):
    truth = dict(two_passes()[1])
    for stamp_ns in list(truth)[9:]:
        away = np.eye(4)
        away[0, 3] = 200.0
        truth[stamp_ns] = away @ truth[stamp_ns]
    result = demo.judge(driven, truth, settings())
    assert (result.num_closures, result.num_false) == (6, 3)
    assert (result.num_revisits, result.num_recognised) == (3, 3)
    assert result.precision == 0.5


def test_the_command_writes_everything_and_says_what_it_found(monkeypatch, capsys, tmp_path):
    drive = simulate_drive(street(), 0, frame_rate_hz=2.5)[:3]
    source = WorldSource(street(), drive, camera(), depth=True)
    monkeypatch.setattr(demo, "demo_source", lambda seed, max_frames: source)
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "demo"
    monkeypatch.setattr(sys, "argv", ["progeo-demo", "--out", str(out), "--short"])
    with pytest.raises(SystemExit) as exit:
        demo_command.main()
    text = capsys.readouterr().out
    assert exit.value.code == 0
    assert "0 loop closures in 3 keyframes of 3 frames" in text
    assert "precision 100.0 % (0 false of 0)" in text
    told = json.loads((out / "run.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["truth"]["num_closures"] == 0
    assert told["truth"]["translation_error_m"] is None
    assert len(told["truth"]["positions"]) == 3
    assert "precision against the truth" in (out / "report.html").read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as exit:
        demo_command.main()
    assert exit.value.code == EXIT_ERROR
    assert "--force" in capsys.readouterr().err
