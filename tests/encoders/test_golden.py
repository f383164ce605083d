"""The figures of a golden run where they are easily wrong; what they decide is tested with the engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from progeo_edge.bundle import Precision, read_manifest
from progeo_edge.encoders.golden import accuracy_limits, find_disagreement, measure_golden
from tests.tiny_encoder import edit_manifest, write_tiny_bundle


def test_golden_rows_that_are_all_alike_forgive_nothing() -> None:
    """Their norm may be above 1 by rounding, and the distance between them so below 0."""
    alike = np.full((2, 3), 0.5774, np.float32)
    assert alike[0] @ alike[1] > 1
    other = alike * np.array([1, 1, 0], np.float32)
    figures = measure_golden(alike, other)
    assert figures["interplace_loss_mean"] > 1e9 and figures["interplace_loss_max"] > 1e9


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_nan_in_every_figure_of_accuracy(value: float) -> None:
    found = np.eye(3, dtype=np.float32)
    found[1, 2] = value
    figures = measure_golden(np.eye(3, dtype=np.float32), found)
    assert all(np.isnan(figures[name]) for name in ("min_cosine", "interplace_loss_mean", "interplace_loss_max"))


def test_fewer_rows_are_judged_by_the_distance_between_all_places() -> None:
    """The first two golden rows are near each other, the third is far from both."""
    reference = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0, 1]], np.float32)
    found = reference[:2].copy()
    found[1] = [0.6, 0.8, 0]
    lost = (1 - 0.96) / (1 - 0.8 / 3)
    figures = measure_golden(reference, found)
    assert figures["interplace_loss_max"] == pytest.approx(lost, rel=1e-5)
    assert figures["interplace_loss_mean"] == pytest.approx(lost / 2, rel=1e-5)
    assert figures["min_cosine"] == pytest.approx(0.96, rel=1e-6)


def test_zero_rows_are_nan_too() -> None:
    assert np.isnan(measure_golden(np.eye(3, dtype=np.float32), np.zeros((3, 3), np.float32))["min_cosine"])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("stated", [{}, {"max_norm_error": 1e-3}, {"recall_at_1_drop": 0.0}])
def test_accuracy_is_always_limited(precision: Precision, stated: dict[str, float], tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    edit_manifest(bundle, lambda values: values.update(tolerances={precision: stated}))
    manifest = read_manifest(bundle)
    assert accuracy_limits(manifest, precision).items() >= stated.items()
    rows = np.eye(4, dtype=np.float32)
    assert find_disagreement(measure_golden(rows, rows), manifest, precision) is None
    assert find_disagreement(measure_golden(rows, rows[::-1]), manifest, precision) is not None
    half = np.full((4, 4), np.nan, np.float32)
    assert "is nan" in str(find_disagreement(measure_golden(rows, half), manifest, precision))


def test_a_stated_accuracy_replaces_the_default(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    edit_manifest(bundle, lambda values: values.update(tolerances={"fp16": {"min_cosine": 0.9}}))
    assert accuracy_limits(read_manifest(bundle), "fp16") == {"min_cosine": 0.9}
