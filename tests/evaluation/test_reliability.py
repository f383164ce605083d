from __future__ import annotations

import json

import numpy as np
import pytest

from progeo_edge.evaluation.reliability import judge_probabilities


def _judge(probabilities, verdicts, **options):
    settings = {"block_length": 1, "resamples": 200, "seed": 0} | options
    return judge_probabilities(np.asarray(probabilities, float), np.asarray(verdicts, np.int8), **settings)


def test_a_handful_by_hand():
    result = _judge([0.05, 0.95, 0.92, 0.3, 1.0, 0.5, np.nan], [-1, 1, -1, 1, 1, 0, -1])
    assert result is not None
    assert result.num_candidates == 5
    assert [(one.low, one.count, one.observed.value) for one in result.bins] == [
        (0, 1, 0),
        (0.3, 1, 1),
        (0.9, 3, 2 / 3),
    ]
    assert result.bins[2].stated == pytest.approx((0.95 + 0.92 + 1.0) / 3)
    # Gaps of the bins: 0.05, 0.7, and 2.87 stated for 2 right.
    assert result.ece.value == pytest.approx((0.05 + 0.7 + 0.87) / 5)
    assert result.brier.value == pytest.approx((0.05**2 + 0.05**2 + 0.92**2 + 0.7**2 + 0) / 5)
    assert result.brier_of_base_rate == pytest.approx(0.6 * 0.4)
    json.dumps(result.to_dict(), allow_nan=False)


def test_honest_probabilities_have_no_error_and_boasting_ones_do():
    rng = np.random.default_rng(0)
    stated = rng.random(6000)
    verdicts = np.where(rng.random(6000) < stated, 1, -1)
    honest, boasting = _judge(stated, verdicts), _judge(np.sqrt(stated), verdicts)
    assert honest is not None and boasting is not None
    assert honest.ece.value is not None and boasting.ece.low is not None
    assert honest.ece.value < 0.02 < boasting.ece.low
    inside = [one.observed.low <= one.stated <= one.observed.high for one in honest.bins]
    assert sum(inside) >= 8 and len(honest.bins) == 10
    assert honest.brier.value == pytest.approx(1 / 6, abs=0.01)
    assert honest.brier.value < honest.brier_of_base_rate == pytest.approx(0.25, abs=0.01)


def test_nothing_to_judge():
    assert _judge([np.nan, 0.5], [1, 0]) is None
