"""The benchmarks measure the loops themselves, in every precision that a CPU has."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from progeo_edge.sources.images import read_image
from progeo_train.benchmark_data import synthetic_places, write_rendered_images
from progeo_train.cli import main as command
from tests.train.small_training import small_config, write_config


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """Runs `progeo-train bench` in this process and returns the figures."""

    def bench(config, *arguments):
        path, out = write_config(tmp_path / "config.yaml", config), tmp_path / "found.json"
        line = ["progeo-train", "bench", str(path), *arguments, "--json", str(out), "--accelerator", "cpu"]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as end:
            command.main()
        assert end.value.code == 0
        return json.loads(out.read_text())

    return bench


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stage_2(bench, precision):
    config = small_config("resnet", "run.workers=0", f"run.precision={precision}")
    figures = bench(config, "--rounds", "2", "--steps", "2")
    assert figures["images_per_s"] == pytest.approx(1e3 * figures["batch_size"] / figures["step_ms"])
    low, high = figures["share_outside_range"]
    assert low <= figures["share_outside"] <= high < 1
    assert figures["augment_ms"] > 0 < figures["wait_ms"]


def test_stage_1(bench):
    config = small_config("resnet", "stage1.batch_size=20")
    figures = bench(config, "--stage", "1", "--images", "40", "--groups", "2")
    assert (figures["images"], figures["groups"], figures["classes"], figures["steps"]) == (80, 2, 4, 4)
    assert np.isfinite(figures["last_loss"])


def test_rendered_images_have_detail_and_differ(tmp_path):
    table = write_rendered_images(tmp_path, 2, 2, (32, 48))
    images = [read_image(tmp_path / f"{number:04d}_0.jpg") for number in range(2)]
    assert len(table.read_text().splitlines()) == 5
    assert images[0].shape == (32, 48, 3)
    assert images[0].std() > 20
    assert np.abs(images[0].astype(float) - images[1]).mean() > 20


def test_synthetic_places_are_of_equal_size():
    places = synthetic_places(3, 40, 20)
    assert [places.num_classes(group) for group in range(3)] == [2, 2, 2]
    assert [places.num_images(group) for group in range(3)] == [40, 40, 40]
    assert places.members(2, 1).tolist() == list(range(100, 120))
