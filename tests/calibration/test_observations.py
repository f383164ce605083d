"""What a calibration is fitted to, and its way into and out of a map."""

from __future__ import annotations

import numpy as np
import pytest

from progeo_edge.calibration.calibration import Calibration, Separability
from progeo_edge.calibration.impostors import ImpostorMaximum
from progeo_edge.calibration.observations import KEPT, CalibrationKey, Observations
from progeo_edge.errors import CalibrationError

KEY = CalibrationKey("f" * 64, "cam0", "sequence")


def filled(*, same=0.8, other=0.4, count=400, verified=0, seed=0, second=False) -> Observations:
    rng = np.random.default_rng(seed)
    observations = Observations()
    for i in range(count):
        score = other + 0.04 * float(rng.gumbel())
        observations.add_impostor(ImpostorMaximum(score, 10 + i, second))
        observations.add_motion_impostor(ImpostorMaximum(score - 0.05, 10 + i, second))
        observations.add_neighbour(same + 0.05 * float(rng.normal()))
        observations.add_interval(0.5)
        observations.set_map_size(10 + i)
    for _ in range(verified):
        observations.add_verified(0.7)
        observations.add_revisit()
    return observations


def test_the_rate_counts_keyframes_per_hour_of_driving_without_pauses():
    observations = filled()
    assert observations.fit(KEY).queries_per_hour == pytest.approx(7200)
    observations.add_interval(86_400.0)
    assert observations.fit(KEY).queries_per_hour == pytest.approx(7200, rel=0.06)


def test_verified_pairs_outweigh_neighbours_once_there_are_enough():
    few, many = filled(verified=5).fit(KEY), filled(verified=40).fit(KEY)
    assert (few.verified, many.verified) == (False, True)
    assert few.num_same_place == 405
    assert many.same_place_quantiles[50] == pytest.approx(0.7)


def test_the_prior_follows_the_share_of_revisits():
    assert filled(verified=300).fit(KEY).curve.prior > 2 * filled().fit(KEY).curve.prior


def test_motion_has_a_tail_of_its_own():
    calibration = filled().fit(KEY)
    cosine, motion = calibration.min_similarity(400, 1.0), calibration.min_motion_score(400, 1.0)
    assert motion is not None
    # The same scores less 0.05; on an open scale the tail reaches farther than towards a cosine of 1.
    assert motion > cosine
    assert calibration.min_motion_score(400, 100.0) == pytest.approx(
        calibration.min_similarity(400, 100.0) - 0.05, abs=0.05
    )


def test_what_is_only_second_best_asks_for_a_higher_gate():
    first, second = filled().fit(KEY), filled(second=True).fit(KEY)
    assert second.min_similarity(400, 1.0) > first.min_similarity(400, 1.0) + 0.005
    motion = [calibration.min_motion_score(400, 1.0) for calibration in (first, second)]
    assert motion[0] is not None
    assert motion[1] is not None
    assert abs(motion[1] - motion[0]) > 0.005


def test_a_change_of_method_begins_anew():
    observations = filled()
    observations.forget_motion()
    assert observations.fit(KEY).min_motion_score(400, 1.0) is None


def test_bytes_and_json_bring_everything_back():
    observations = filled(verified=3)
    again = Observations.from_bytes(observations.to_bytes())
    first, second = observations.fit(KEY), again.fit(KEY)
    assert again.num_queries == observations.num_queries
    assert second.min_similarity(1000, 1.0) == pytest.approx(first.min_similarity(1000, 1.0), abs=1e-4)
    read = Calibration.from_dict(first.to_dict())
    assert read == first


def test_damaged_bytes_and_documents_are_refused_with_a_remedy():
    data = bytearray(filled().to_bytes())
    with pytest.raises(CalibrationError, match="calibrate again"):
        Observations.from_bytes(bytes(data[: len(data) // 2]))
    with pytest.raises(CalibrationError, match="calibrate again"):
        Calibration.from_dict({"model": "x"})


def test_only_the_latest_are_kept():
    observations = Observations()
    for i in range(KEPT + 500):
        observations.add_impostor(ImpostorMaximum(0.4 + 0.1 * (i % 7) / 7, 100, False))
    assert observations.num_queries == KEPT + 500
    observations.add_neighbour(0.8)
    observations.add_interval(1.0)
    assert observations.fit(KEY).tail.num_queries == KEPT


def test_what_is_missing_is_said():
    with pytest.raises(CalibrationError, match="no keyframe was compared"):
        Observations().fit(KEY)
    lonely = filled()
    lonely._neighbours.clear()
    with pytest.raises(CalibrationError, match="no two keyframes of one place"):
        lonely.fit(KEY)


@pytest.mark.parametrize(
    ("same", "verdict", "remedy"),
    [
        (0.9, Separability.GOOD, "tells the places of this environment apart"),
        (0.67, Separability.WEAK, "several keyframes together"),
        (0.45, Separability.NONE, "whitening"),
    ],
)
def test_the_verdict_says_what_to_do(same, verdict, remedy):
    calibration = filled(same=same).fit(KEY)
    assert calibration.separability(1.0) is verdict
    assert remedy in calibration.advice(1.0)
