from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.errors import InputError
from progeo_edge.evaluation.curves import precision_recall


def _curve(scores, verdicts, num_positive):
    return precision_recall(np.array(scores, float), np.array(verdicts, np.int8), num_positive)


def test_average_precision_by_hand():
    # Accepted in order: right 1/1, wrong 1/2, right 2/3, right 3/4; four could be found.
    curve = _curve([0.9, 0.8, 0.7, 0.6], [1, -1, 1, 1], 4)
    assert curve.precision.tolist() == [1.0, 0.5, 2 / 3, 0.75]
    assert curve.recall.tolist() == [0.25, 0.25, 0.5, 0.75]
    assert curve.average_precision() == pytest.approx(0.25 * (1.0 + 2 / 3 + 0.75))
    assert curve.max_f1() == (pytest.approx(0.75), 0.6)
    assert curve.recall_at_precision(1.0) == (0.25, 0.9)
    assert curve.recall_at_precision(0.75) == (0.75, 0.6)


def test_ties_stand_or_fall_together():
    # At 0.8 a right and a wrong one come together, so 100 % precision ends before either.
    curve = _curve([0.9, 0.8, 0.8, 0.7], [1, 1, -1, 1], 3)
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.7]
    assert curve.recall_at_precision(1.0) == (pytest.approx(1 / 3), 0.9)
    tied_at_the_top = _curve([0.9, 0.9], [1, -1], 1)
    assert tied_at_the_top.recall_at_precision(1.0)[0] == 0.0
    assert np.isnan(tied_at_the_top.recall_at_precision(1.0)[1])


def test_precision_may_come_back_after_an_early_error():
    scores = np.linspace(1, 0, 40)
    verdicts = np.ones(40, np.int8)
    verdicts[2] = -1
    curve = precision_recall(scores, verdicts, 39)
    assert curve.recall_at_precision(1.0)[0] == pytest.approx(2 / 39)
    assert curve.recall_at_precision(0.95)[0] == 1.0
    exactly_95 = precision_recall(np.linspace(1, 0, 20), np.array([-1] + [1] * 19, np.int8), 19)
    assert exactly_95.recall_at_precision(0.95)[0] == 1.0


def test_neutral_predictions_leave_no_trace_but_revisits_without_a_prediction_do():
    plain = _curve([0.9, 0.7], [1, -1], 4)
    with_neutral = _curve([0.95, 0.9, 0.8, 0.7], [0, 1, 0, -1], 4)
    assert np.array_equal(plain.precision, with_neutral.precision)
    assert plain.average_precision() == with_neutral.average_precision() == 0.25


def test_no_prediction_at_all():
    curve = _curve([], [], 3)
    assert curve.average_precision() == 0.0
    assert curve.max_f1()[0] == 0.0
    assert curve.recall_at_precision(1.0)[0] == 0.0
    assert np.isnan(curve.precision_at_recall(np.array([0.0, 0.5]))).all()


def test_only_wrong_predictions():
    curve = _curve([0.9, 0.2], [-1, -1], 2)
    assert curve.average_precision() == 0.0
    assert curve.max_f1()[0] == 0.0
    assert curve.recall_at_precision(0.0)[0] == 0.0


def test_precision_at_recall_takes_the_strictest_threshold_that_reaches_it():
    curve = _curve([0.9, 0.8, 0.7], [1, -1, 1], 4)
    at = curve.precision_at_recall(np.array([0.0, 0.25, 0.26, 0.5, 0.51]))
    assert at[:4] == pytest.approx([1.0, 1.0, 2 / 3, 2 / 3])
    assert np.isnan(at[4])


predictions = st.lists(
    st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.8]), st.sampled_from([-1, 0, 1])), min_size=1, max_size=30
)


@given(predictions=predictions, extra=st.integers(0, 5), seed=st.integers(0, 50))
def test_figures_are_bounded_and_do_not_depend_on_the_order(predictions, extra, seed):
    scores = np.array([score for score, _ in predictions])
    verdicts = np.array([verdict for _, verdict in predictions], np.int8)
    num_positive = int((verdicts > 0).sum()) + extra
    curve = precision_recall(scores, verdicts, num_positive)
    assert 0.0 <= curve.average_precision() <= 1.0 + 1e-12
    assert curve.recall_at_precision(1.0)[0] <= curve.recall_at_precision(0.95)[0] <= 1.0
    assert np.all(np.diff(curve.recall) >= 0) and np.all(np.diff(curve.thresholds) < 0)
    order = np.random.default_rng(seed).permutation(len(scores))
    shuffled = precision_recall(scores[order], verdicts[order], num_positive)
    assert np.array_equal(shuffled.precision, curve.precision)
    assert np.array_equal(shuffled.recall, curve.recall)


@given(predictions=predictions, extra=st.integers(0, 5))
def test_every_point_agrees_with_counting_above_its_threshold(predictions, extra):
    scores = np.array([score for score, _ in predictions])
    verdicts = np.array([verdict for _, verdict in predictions], np.int8)
    num_positive = int((verdicts > 0).sum()) + extra
    curve = precision_recall(scores, verdicts, num_positive)
    for threshold, precision, recall in zip(curve.thresholds, curve.precision, curve.recall, strict=True):
        accepted = verdicts[scores >= threshold]
        right, wrong = (accepted > 0).sum(), (accepted < 0).sum()
        assert precision == pytest.approx(right / (right + wrong))
        assert recall == pytest.approx(right / num_positive if num_positive else 0.0)


def test_impossible_counts_and_shapes_are_refused():
    with pytest.raises(InputError, match="only 1 could be"):
        _curve([0.5, 0.4], [1, 1], 1)
    with pytest.raises(InputError, match="one length"):
        _curve([0.5, 0.4], [1], 1)
