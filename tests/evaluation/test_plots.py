from __future__ import annotations

import cv2
import numpy as np
import pytest

from progeo_edge.errors import SourceError
from progeo_edge.evaluation.bootstrap import Interval
from progeo_edge.evaluation.counts import rate
from progeo_edge.evaluation.curves import precision_recall
from progeo_edge.evaluation.loops_result import CurveResult, LoopsResult
from progeo_edge.evaluation.plots import draw_rates, draw_reliability, plot_curves, plot_recall, svg
from progeo_edge.evaluation.promise import FalseRates
from progeo_edge.evaluation.reliability import judge_probabilities
from progeo_edge.evaluation.retrieval import RetrievalResult


def _retrieval(value):
    recall = {n: Interval(value, value - 0.1, min(1.0, value + 0.1)) for n in (1, 5, 10, 20)}
    return RetrievalResult(recall, 100, 3, 400, ())


def _loops(with_closures):
    curve = precision_recall(np.linspace(1, 0, 50), np.where(np.arange(50) % 7 == 6, -1, 1).astype(np.int8), 60)
    known, none = Interval(0.8, 0.7, 0.9), Interval(None, None, None)
    band = np.tile(np.array([[0.7], [1.0]]), (1, 101))
    band[:, 80:] = np.nan
    judged = CurveResult("similarity", curve, known, known, 0.5, known, 0.6, known, band, 0)
    accepted = known if with_closures else none
    return LoopsResult(80, 60, 0, 0, 30.0, 9, 0, accepted, accepted, (), 4, accepted, (judged,), {}, {}, 9)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_plots_are_written_by_suffix(tmp_path, suffix):
    plot_recall({"vlad": _retrieval(0.8), "orb-bow": _retrieval(0.4)}, tmp_path / f"recall{suffix}")
    plot_curves(_loops(with_closures=True), tmp_path / f"curves{suffix}")
    assert all((tmp_path / f"{name}{suffix}").stat().st_size > 5_000 for name in ("recall", "curves"))
    assert len(list(tmp_path.iterdir())) == 2


def test_the_picture_holds_colour_and_the_star_of_what_was_accepted(tmp_path):
    plot_curves(_loops(with_closures=True), tmp_path / "with.png")
    plot_curves(_loops(with_closures=False), tmp_path / "without.png")
    with_star, without = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("with", "without"))
    assert with_star is not None and without is not None
    assert with_star.shape == without.shape
    assert (np.abs(with_star.astype(int) - without).max(axis=2) > 100).sum() > 50


def test_a_plot_that_could_not_be_written_is_refused_first(tmp_path):
    with pytest.raises(SourceError, match=r"ends in '\.jpg'; expected one of \.png, \.svg, \.pdf"):
        plot_recall({"vlad": _retrieval(0.8)}, tmp_path / "recall.jpg")
    with pytest.raises(SourceError, match="folder that does not exist"):
        plot_recall({"vlad": _retrieval(0.8)}, tmp_path / "no" / "recall.png")


def test_each_figure_shows_its_numbers():
    reliability = judge_probabilities(
        np.linspace(0, 1, 40),
        np.where(np.arange(40) % 3 > 0, 1, -1).astype(np.int8),
        block_length=1,
        resamples=5,
        seed=0,
    )
    assert reliability is not None
    assert "40 best candidates" in svg(lambda axes: draw_reliability(axes, reliability))
    rates = FalseRates(rate(3, 0.5), rate(0, 0.5), 1.0, ())
    text = svg(lambda axes: draw_rates(axes, rates))
    assert "3 in 0.50 h" in text and "promised before geometry: 1 per hour (broken)" in text
    assert "promised" not in svg(lambda axes: draw_rates(axes, FalseRates(rate(3, 0.5), rate(0, 0.5), None, ())))
    assert svg(lambda axes: draw_rates(axes, rates)) == text, "the same result gives the same page"
