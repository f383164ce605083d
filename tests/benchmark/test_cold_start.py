from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from progeo_edge.benchmark.cold_start import PARTS, measure_cold_start
from progeo_edge.benchmark.series import SeriesBook
from progeo_edge.errors import ModelError

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_the_parts_of_a_start_add_up():
    book, ticks = SeriesBook(), []
    measure_cold_start("vlad", IMAGE, book, repeats=2, steps=lambda name, total: lambda: ticks.append(total))
    series = book.as_json()
    assert ticks == [3, 3, 3], "the first process fills the cache and is not counted"
    assert all(len(values["rounds"]) == 2 for values in series.values())
    for number in range(2):
        parts = {part: series[f"cold_start.{part}"]["rounds"][number] for part in PARTS}
        assert all(value > 0 for value in parts.values())
        accounted = sum(value for part, value in parts.items() if part != "total")
        # What is left is reading the picture and asking for the memory.
        assert 0.5 * parts["total"] < accounted <= parts["total"]
    assert 10 < series["resident.after_import"]["rounds"][0] <= series["resident.after_first"]["rounds"][0]


def test_a_model_that_does_not_open_says_why(tmp_path: Path):
    with pytest.raises(ModelError, match=r"fresh process could not encode .*is not there; expected a bundle folder"):
        measure_cold_start(str(tmp_path / "none"), IMAGE, SeriesBook(), repeats=1)
