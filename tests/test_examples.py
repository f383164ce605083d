from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import cv2
import pytest

from progeo_edge.pose_graph import has_solver

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not has_solver(), reason="GTSAM, of the extra 'graph', is not installed")
def test_the_wrong_closure_is_named_and_its_harm_undone(tmp_path, monkeypatch, capsys):
    example = load("wrong_closure")
    drive = example.render_drive(101, num_closures=4)
    assert len(drive.closures) == 4
    outcomes = example.solve_all(drive)
    wrong = (drive.wrong.query_id, drive.wrong.reference_id)
    without, believed = outcomes["without it"], outcomes["no kernel"]
    assert without.rmse_m < outcomes["odometry"].rmse_m < 0.3 * believed.rmse_m
    for name in ("Cauchy", "Cauchy, then DCS", "GNC"):
        assert outcomes[name].rejected == (wrong,), name
        assert outcomes[name].rmse_m < 1.2 * without.rmse_m
    # What docs/backends.md warns of: a linear cost still pays, and hard kernels lose the right ones from afar.
    assert outcomes["Huber"].rmse_m > 5 * without.rmse_m
    assert wrong in outcomes["DCS"].rejected and len(outcomes["DCS"].rejected) > 1
    assert outcomes["DCS"].rmse_m < 1.1 * outcomes["odometry"].rmse_m

    monkeypatch.setattr(example, "render_drive", lambda seed: drive)
    monkeypatch.setattr(sys, "argv", ["wrong_closure.py", "--out", str(tmp_path / "plot.png")])
    example.main()
    said = capsys.readouterr().out
    assert f"GNC: {outcomes['GNC'].rmse_m:6.2f} m, weight left to the wrong one 0.000" in said
    assert f"rejected {wrong[0]} -> {wrong[1]}" in said
    picture = cv2.imread(str(tmp_path / "plot.png"))
    assert picture is not None and picture.std() > 10
