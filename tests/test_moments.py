"""Which keyframes belong to one moment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.moments import MOMENT_NS, Moments
from progeo_edge.types import Keyframe

MS = 1_000_000
DESCRIPTOR = np.ones(1, np.float32)


def keyframes(*taken: tuple[int, str], session: int = 0) -> list[Keyframe]:
    """Stamp in milliseconds and camera of each."""
    return [
        Keyframe(i, session, stamp_ms * MS, DESCRIPTOR, camera=camera) for i, (stamp_ms, camera) in enumerate(taken)
    ]


def numbers(keyframes: list[Keyframe]) -> list[int]:
    moments = Moments(keyframes)
    return [moments.number(keyframe.id) for keyframe in keyframes]


def test_images_of_one_stamp_are_one_moment():
    taken = keyframes((0, "front"), (0, "rear"), (500, "front"), (500, "rear"), (1000, "rear"))
    assert numbers(taken) == [0, 0, 1, 1, 2]
    moments = Moments(taken)
    assert [moments.joined(i) for i in range(5)] == [False, True, False, True, False]


@given(st.lists(st.integers(0, 10**9), max_size=30))
def test_with_one_camera_every_keyframe_is_a_moment_of_its_own(stamps_ns):
    taken = [Keyframe(i, 0, stamp_ns, DESCRIPTOR) for i, stamp_ns in enumerate(stamps_ns)]
    assert numbers(taken) == list(range(len(stamps_ns)))


@given(
    st.lists(st.tuples(st.integers(0, 2000), st.sampled_from(["a", "b", "c"])), max_size=30),
    st.permutations(["front", "rear", "left"]),
)
def test_names_of_cameras_change_nothing(taken, names):
    taken = sorted(taken)
    renamed = dict(zip("abc", names, strict=True))
    assert numbers(keyframes(*taken)) == numbers(keyframes(*[(stamp, renamed[camera]) for stamp, camera in taken]))


@given(st.lists(st.tuples(st.integers(0, 500), st.sampled_from(["a", "b", "c"])), max_size=40))
def test_a_moment_is_short_and_has_one_image_per_camera(taken):
    """Free-running cameras must not tie moment to moment."""
    images = keyframes(*sorted(taken))
    by_moment: dict[int, list[Keyframe]] = {}
    for number, keyframe in zip(numbers(images), images, strict=True):
        by_moment.setdefault(number, []).append(keyframe)
    for members in by_moment.values():
        stamps_ns = [keyframe.stamp_ns for keyframe in members]
        assert max(stamps_ns) - min(stamps_ns) <= MOMENT_NS
        assert len({keyframe.camera for keyframe in members}) == len(members)


def test_sessions_have_their_own_moments():
    first = keyframes((0, "front"))
    (other,) = keyframes((0, "rear"), session=1)
    moments = Moments([*first, replace(other, id=1)])
    assert (moments.number(0), moments.number(1), moments.joined(1)) == (0, 0, False)
    assert moments.would_join(0, 0, "rear")
    assert not moments.would_join(1, 0, "rear")
    assert not moments.would_join(2, 0, "front")


def test_a_keyframe_is_counted_once():
    taken = keyframes((0, "front"), (0, "rear"))
    moments = Moments(taken)
    for keyframe in taken:
        moments.add(keyframe)
    assert [moments.number(i) for i in range(2)] == [0, 0]
