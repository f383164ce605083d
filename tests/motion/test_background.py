"""How similar any two places look."""

from __future__ import annotations

import numpy as np
import pytest

from progeo_edge.motion.background import SAMPLED, Background
from tests.motion.known_ways import drive, known_way, places


def test_the_spread_is_that_of_unrelated_places_though_some_are_revisits():
    known = places(2000)
    known[::20] = known[0]
    background = Background(known_way(known)[1])
    for keyframe in drive(places(40, seed=3)):
        background.remember(keyframe)
    centre, spread = background.measure(drive(known[:1])[0])
    others = known[1:19] @ known[0]
    assert centre == pytest.approx(np.median(others), abs=0.1)
    assert spread == pytest.approx(1 / np.sqrt(known.shape[1]), rel=0.2)


def test_a_small_map_widens_the_spread():
    keyframe = drive(places(1, seed=5))[0]
    narrow, wide = (Background(known_way(places(count))[1]).measure(keyframe)[1] for count in (50 * SAMPLED, SAMPLED))
    assert wide > 1.4 * narrow


def test_an_empty_map_says_nothing():
    assert Background(known_way(places(0))[1]).measure(drive(places(1))[0]) == (0.0, np.inf)


def test_measuring_remembers_nothing():
    background = Background(known_way(places(200))[1])
    first, second = drive(places(2, seed=7))
    before = background.measure(second)
    background.measure(first)
    assert background.measure(second) == before
    background.remember(first)
    assert background.measure(second) != before
