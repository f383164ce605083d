"""The table of exports: a refused graph is a row with its figures, a failed model is a row with its reason."""

from __future__ import annotations

import json
import os
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from progeo_edge.bundle import read_manifest
from progeo_export import pipeline, probe_images
from progeo_export.gates import LIMITS, check
from tests.export.probe_samples import small_probe
from tools import export_table

torch.set_num_threads(1)

MODEL = str(Path(__file__).parents[1] / "train" / "tiny_resnet.json")


@pytest.fixture
def table(monkeypatch, tmp_path):
    """Runs the tool in this process; gives the rows of its JSON and its Markdown lines."""
    monkeypatch.setattr(probe_images, "rendered_places", lambda _count: small_probe())
    monkeypatch.setattr(export_table, "in_own_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(export_table, "TIMED_RUNS", 1)

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["export_table", str(tmp_path / "out"), "--opset", "17", *map(str, arguments)])
        export_table.main()
        rows = json.loads((tmp_path / "out" / "export_table.json").read_text())["rows"]
        return rows, (tmp_path / "out" / "export_table.md").read_text().splitlines()

    return call


def refused(figures):
    """A step that writes a graph and is refused with these figures."""

    def step(work, options):
        assert options.calibration is not None
        work.draft("int8").write_bytes(work.paths["fp32"].read_bytes())
        check(figures, LIMITS["int8"], graph="the INT8 graph")

    return step


def test_rows_of_a_model_that_passes(table, tmp_path, capsys):
    rows, lines = table("--model", MODEL)
    assert [(row["precision"], row["verdict"], row["opset"]) for row in rows] == [
        ("fp32", "passed", 17),
        ("fp16", "passed", 17),
    ]
    assert rows[1]["size_mb"] < 0.75 * rows[0]["size_mb"]
    for row, line in zip(rows, lines[2:], strict=True):
        assert row["run_ms"] > 0 and row["export_s"] > 0
        for cell in (f"{row['figures']['min_cosine']:.7f}", f"{row['size_mb']:.1f}", "passed"):
            assert f" {cell} |" in line
    assert capsys.readouterr().out.splitlines() == lines
    bundle = next(path for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert read_manifest(bundle).parity["fp16"] == rows[1]["figures"]


def test_a_refusal_is_a_row_with_its_figures(table, monkeypatch, tmp_path):
    rows, _ = table("--model", MODEL)
    figures = rows[0]["figures"] | {"interplace_loss_mean": 0.4, "interplace_loss_max": 0.9}
    monkeypatch.setattr(pipeline, "add_int8", refused(figures))
    (tmp_path / "images").mkdir()
    monkeypatch.setattr(probe_images, "read_images", lambda *_, **__: iter(small_probe().images[:2]))
    rows, lines = table("--model", MODEL, "--calibration", tmp_path / "images")
    assert [row["verdict"] for row in rows[:2]] == ["passed", "passed"]
    assert "the INT8 graph is refused: interplace_loss_mean" in rows[2]["verdict"]
    assert "is 0.4, the limit is at most 0.15" in lines[4] and "40.000 % (90.000 %)" in lines[4]
    assert rows[2]["figures"] == figures and rows[2]["size_mb"] == rows[0]["size_mb"] and rows[2]["run_ms"] > 0
    bundle = next(path for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert set(read_manifest(bundle).graphs) == {"fp32", "fp16"}


def test_a_model_that_fails_does_not_end_the_others(table):
    rows, lines = table("--model", "RN5O", "--model", MODEL)
    assert rows[0]["model"] == "RN5O" and "failed: 'RN5O' is neither a file nor" in lines[2]
    assert [row["verdict"] for row in rows[1:]] == ["passed", "passed"]


def test_what_is_finished_is_kept_and_what_failed_is_tried_again(table, monkeypatch):
    before = table("--model", "RN5O", "--model", MODEL)
    tried = []
    rows_of = export_table.export_rows

    def export_rows(model, *arguments):
        tried.append(model)
        return rows_of(model, *arguments)

    monkeypatch.setattr(export_table, "export_rows", export_rows)
    assert table("--model", "RN5O", "--model", MODEL) == before
    assert tried == ["RN5O"]
    table("--model", MODEL, "--places", "9")
    assert tried == ["RN5O", MODEL]


def test_a_crash_is_noticed():
    with pytest.raises(BrokenProcessPool):
        export_table.in_own_process(os._exit, 3)
    assert export_table.in_own_process(sum, [1, 2]) == 3
